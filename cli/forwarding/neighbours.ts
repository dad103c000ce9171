import { isIPv6 } from 'node:net';
import { performance } from 'node:perf_hooks';
import type { NetworkChange, RouteMonitor } from '../system/route-monitor.js';
import { type AddressBytes, type KernelNeighbour, NUD, Rtnetlink } from '../system/rtnetlink.js';
import type { NextHopStruct } from './abi.gen.js';
import { kernelAddress } from './address.js';

/** Every so often the kernel asks each next hop whether it still has its MAC. */
const VERIFY_MS = 500;
/** With many next hops, more seldom: at most 200 of them in a second. */
const VERIFY_MS_PER_HOP = 5;
/** A neighbour on the link answers in less; one that does not has moved to another MAC, or is gone. */
const PATIENCE_MS = 250;
const RESOLVE_MS = 1000;

const VALID = NUD.reachable | NUD.stale | NUD.delay | NUD.probe | NUD.permanent | NUD.noarp;
const LEARNT = NUD.reachable | NUD.stale | NUD.delay;
const LONGEST = 0xffff;
const NO_MAC = Buffer.alloc(6);

/** There is no way to the address: what would go there is dropped, and counted. */
export const NO_WAY: NextHopStruct = { ifindex: 0, mtu: 0, resolved: 0, source: NO_MAC, destination: NO_MAC };

/** Whom the kernel hands the packets to: the destination itself, or a router. */
interface Via {
  readonly ifindex: number;
  readonly address: AddressBytes;
  readonly entry: KernelNeighbour | undefined;
}

interface Way {
  readonly hop: NextHopStruct;
  readonly via: Via | undefined;
}

interface Watched {
  readonly address: string;
  way: Way;
  /** The next hop that the kernel has looked for in vain, until it is found. */
  silent: Via | undefined;
  readonly changed: Set<(hop: NextHopStruct) => void>;
}

/**
 * Next hops of care-of addresses: resolved ahead of the packets, and changed in the moment in which the kernel changes its
 * mind about a route, a neighbour or an interface. What the kernel does not notice by itself is looked after: it is made to
 * ask each next hop for its MAC, and paths for the MTU that it has learnt. A next hop that it has looked for in vain is
 * {@link NO_WAY} until it answers.
 */
export class Neighbours {
  private readonly kernel = new Rtnetlink();
  private readonly watched = new Map<string, Watched>();
  private readonly endListening: () => void;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  /**
   * @param monitor whose notifications it acts upon
   * @param sources the addresses that packets of their family leave from, where rules route by source
   */
  constructor(
    private readonly monitor: RouteMonitor,
    private readonly sources: readonly string[] = [],
  ) {
    this.endListening = monitor.listen((changes) => this.hear(changes));
  }

  /**
   * Where packets to an address go now. Provokes the resolution when the kernel has no entry. An address that does not
   * resolve within a second is `resolved: 0`: then tc asks the kernel packet by packet. Without a route: {@link NO_WAY}.
   */
  async resolve(address: string): Promise<NextHopStruct> {
    for (const deadline = performance.now() + RESOLVE_MS; ; ) {
      const { hop, via } = this.lookUp(address);
      const left = deadline - performance.now();
      if (hop.resolved === 1 || via === undefined || left <= 0) return hop;
      this.kernel.useNeighbour(via.address, via.ifindex);
      await this.nextChange(left);
    }
  }

  /** What is known of the way to an address at this moment; nothing is provoked. */
  known(address: string): NextHopStruct {
    return this.lookUp(address).hop;
  }

  /** Calls back whenever the next hop of an address is another. @returns a function that ends it. */
  watch(address: string, hop: NextHopStruct, onChange: (hop: NextHopStruct) => void): () => void {
    const entry = this.watched.get(address) ?? {
      address,
      way: { hop, via: undefined },
      silent: undefined,
      changed: new Set(),
    };
    this.watched.set(address, entry);
    const known = entry.way.hop;
    entry.changed.add(onChange);
    if (!same(hop, known)) onChange(known); // what another binding has learnt since the caller looked
    this.refresh(entry);
    this.schedule();
    return () => {
      entry.changed.delete(onChange);
      if (entry.changed.size === 0) this.watched.delete(address);
    };
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.timer);
    this.watched.clear();
    this.endListening();
    this.kernel.close();
  }

  private hear(changes: readonly NetworkChange[]): void {
    const anything = changes.some(({ kind }) => kind !== 'neighbour');
    const neighbours = changes.flatMap((change) => (change.kind === 'neighbour' ? [change.neighbour] : []));
    for (const entry of [...this.watched.values()]) {
      const { via } = entry.way;
      const concerned = neighbours.some(
        ({ ifindex, address }) => via?.ifindex === ifindex && via.address.equals(address),
      );
      if (anything || concerned) this.refresh(entry);
    }
  }

  private refresh(entry: Watched): void {
    const before = entry.way.hop;
    const { hop: way, via } = this.lookUp(entry.address);
    // What is sent to a next hop that does not answer is dropped by the kernel, which has held it for a while, and counted by nobody.
    const isSilent = way.resolved === 0 && via !== undefined && (hasFailed(via) || sameVia(via, entry.silent));
    entry.silent = isSilent ? via : undefined;
    const hop = isSilent ? NO_WAY : way;
    entry.way = { hop, via };
    if (hop.resolved === 0 && via !== undefined && lacks(via.entry)) {
      this.kernel.useNeighbour(via.address, via.ifindex);
    }
    if (same(hop, before)) return;
    for (const changed of [...entry.changed]) changed(hop);
  }

  private lookUp(address: string): Way {
    const destination = kernelAddress(address);
    const source = this.sources.find((own) => isIPv6(own) === isIPv6(address));
    const route = this.kernel.route(destination, source === undefined ? undefined : kernelAddress(source));
    const link = route === undefined ? undefined : this.kernel.link(route.ifindex);
    if (route === undefined || link === undefined || !link.running) return { hop: NO_WAY, via: undefined };
    const mtu = Math.min(route.mtu ?? link.mtu, link.mtu, LONGEST);
    const unresolved: NextHopStruct = { ...NO_WAY, ifindex: link.ifindex, mtu };
    if (!link.resolves) return { hop: unresolved, via: undefined };
    const next = route.gateway ?? destination;
    const entry = this.kernel.neighbour(next, link.ifindex);
    const via: Via = { ifindex: link.ifindex, address: next, entry };
    const usable = entry !== undefined && (entry.state & VALID) !== 0 && entry.mac?.length === 6;
    if (!usable || link.mac?.length !== 6 || route.wraps) return { hop: unresolved, via };
    return { hop: { ...unresolved, resolved: 1, source: link.mac, destination: entry.mac ?? NO_MAC }, via };
  }

  private schedule(): void {
    if (this.timer !== undefined || this.closed) return;
    const pause = Math.max(VERIFY_MS, this.watched.size * VERIFY_MS_PER_HOP) - PATIENCE_MS;
    this.timer = setTimeout(() => this.verify(), pause).unref();
  }

  /** Has the kernel ask every next hop, by unicast, and forgets those that have not answered a moment later. */
  private verify(): void {
    const asked = new Map<string, Via>();
    for (const entry of [...this.watched.values()]) {
      this.refresh(entry); // an MTU that was learnt, which nothing tells of
      const { via } = entry.way;
      if (via?.entry === undefined || via.entry.foreign || (via.entry.state & LEARNT) === 0) continue;
      asked.set(`${via.ifindex} ${via.address.toString('hex')}`, via);
    }
    for (const { address, ifindex } of asked.values()) this.kernel.probeNeighbour(address, ifindex);
    this.timer = setTimeout(() => this.judge([...asked.values()]), PATIENCE_MS).unref();
  }

  private judge(asked: readonly Via[]): void {
    for (const { address, ifindex } of asked) {
      const now = this.kernel.neighbour(address, ifindex);
      if (now?.state === NUD.probe) this.kernel.resolveAgain(address, ifindex);
    }
    this.timer = undefined;
    if (this.watched.size > 0) this.schedule();
  }

  private async nextChange(withinMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        end();
        resolve();
      };
      const end = this.monitor.listen(done);
      const timer = setTimeout(done, withinMs);
    });
  }
}

/** No packet has made the kernel look for it, or it was looked for in vain. */
function lacks(entry: KernelNeighbour | undefined): boolean {
  return entry === undefined || (entry.state & (VALID | NUD.incomplete)) === 0;
}

function hasFailed({ entry }: Via): boolean {
  return entry !== undefined && (entry.state & NUD.failed) !== 0;
}

function sameVia(left: Via, right: Via | undefined): boolean {
  return left.ifindex === right?.ifindex && left.address.equals(right.address);
}

function same(left: NextHopStruct, right: NextHopStruct): boolean {
  return (
    left.ifindex === right.ifindex &&
    left.mtu === right.mtu &&
    left.resolved === right.resolved &&
    Buffer.compare(left.destination, right.destination) === 0 &&
    Buffer.compare(left.source, right.source) === 0
  );
}
