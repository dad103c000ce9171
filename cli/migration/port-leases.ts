import { UserError } from '../errors.js';
import { isInBlock, overlap, type PortBlock } from '../forwarding/port-block.js';
import { readInternetSockets } from '../process/sockets.js';
import { readEphemeralPorts, readReservedPorts, releasePorts, reservePorts } from '../system/reserved-ports.js';
import type { Table } from './journal.js';

const LOWEST_PORT = 10_000; // below it many services have ports of their own
const HIGHEST_PORT = 65_535;

/** Who has a block of ports, and which. */
export interface PortLease {
  readonly twin: string;
  readonly block: PortBlock;
}

/**
 * The blocks of ports that this node's departed processes have. Each is reserved here, so that the kernel gives its ports to
 * nobody else, and is written down before: what a crash leaves is put back by the next daemon.
 */
export class PortLeases {
  constructor(
    private readonly leases: Table<PortLease>,
    /** Ports of a block, a multiple of 64; 0: no process gets one. */
    private readonly size: number,
  ) {}

  /** Brings what the kernel has reserved in line with the leases of those that are known; other leases end. */
  adopt(known: ReadonlySet<string>): void {
    for (const { twin, block } of this.leases.all()) {
      if (known.has(twin)) reservePorts(block);
      else this.release(twin);
    }
  }

  /**
   * Reserves a block in which nobody here has a socket.
   * @param departed ports of processes that are away: no socket of this node has them.
   * @returns undefined when the settings want no blocks.
   * @throws {UserError} `NO_PORT_BLOCK`
   */
  lease(twin: string, departed: readonly number[]): PortBlock | undefined {
    if (this.size === 0) return undefined;
    const leased = this.leases.all().map(({ block }) => block);
    for (const { block } of this.leases.all()) reservePorts(block); // an administrator may have written the list anew
    const taken = [...readReservedPorts(), ...leased];
    const used = new Set([...portsInUse(), ...departed]);
    for (const block of candidates(this.size)) {
      if (taken.some((range) => overlap(range, block)) || uses(used, block)) continue;
      this.leases.put(twin, { twin, block });
      reservePorts(block);
      if (!uses(new Set(portsInUse()), block)) return block; // by now no socket gets one of them by itself
      this.release(twin);
    }
    throw new UserError({
      code: 'NO_PORT_BLOCK',
      message: `there is no run of ${this.size} free ports for the connections that the process opens while it is away`,
      remedy: 'set portBlock.ports to a smaller number, or reserve fewer ports (net.ipv4.ip_local_reserved_ports)',
    });
  }

  /** A lease that somebody else remembers of: this node's memory was lost. */
  take(twin: string, block: PortBlock): void {
    this.leases.put(twin, { twin, block });
    reservePorts(block);
  }

  /** Ends a lease. What others have reserved stays so. */
  release(twin: string): void {
    const lease = this.leases.get(twin);
    if (lease === undefined) return;
    releasePorts(lease.block);
    this.leases.delete(twin);
  }

  /** Ends all leases: the datapath goes. */
  releaseAll(): void {
    for (const { twin } of this.leases.all()) this.release(twin);
  }
}

/** Ports above those that the kernel gives away by itself come first: nearly nobody has sockets there. */
function* candidates(size: number): Generator<PortBlock> {
  const ephemeral = readEphemeralPorts();
  const highest = Math.floor((HIGHEST_PORT + 1) / size) * size - size;
  const blocks: PortBlock[] = [];
  for (let first = highest; first >= LOWEST_PORT; first -= size) blocks.push({ first, last: first + size - 1 });
  yield* blocks.filter(({ first }) => first > ephemeral.last);
  yield* blocks.filter(({ first, last }) => first <= ephemeral.last && last >= ephemeral.first);
  yield* blocks.filter(({ last }) => last < ephemeral.first);
}

function portsInUse(): number[] {
  return readInternetSockets('self').map(({ local }) => local.port);
}

function uses(ports: ReadonlySet<number>, block: PortBlock): boolean {
  for (const port of ports) if (isInBlock(block, port)) return true;
  return false;
}
