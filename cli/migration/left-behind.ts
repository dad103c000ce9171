import { decodeAddress, encodeAddress } from '../forwarding/address.js';
import type { Flow } from '../forwarding/flow-keys.js';
import { addressOf } from '../forwarding/loopback.js';
import type { Tables } from '../forwarding/tables.js';
import {
  type Endpoint,
  type InternetSocket,
  isLoopback,
  readInternetSockets,
  type TcpState,
} from '../process/sockets.js';

/** Closed by the process, and not yet to the end. In FIN_WAIT2 only the correspondent's end is missing. */
const STATES: readonly TcpState[] = ['FIN_WAIT1', 'FIN_WAIT2', 'CLOSING', 'LAST_ACK'];
/**
 * Those that were kept stay until even TIME_WAIT is over: the correspondent may say its end once more (RFC 9293, 3.6.1). It may also
 * begin anew meanwhile: a SYN is the process's.
 */
const STAYING: readonly TcpState[] = [...STATES, 'TIME_WAIT'];
const SWEEP_MS = 1000;

/**
 * Connections that processes of this node had closed when they departed. Nobody can carry them: no process holds them. But their
 * correspondents may still have to hear of data, and of the end; so they stay, and are forgotten when the kernel is done with them.
 */
export class LeftBehind {
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly tables: Tables) {
    this.sweep(); // a daemon before us may have left some
  }

  /**
   * Those of some ports, now and until their end. The process must stand still: it may close no more.
   * @param home of the process: the address by which its loopback addresses go
   */
  keep(ports: readonly number[], home: string): void {
    const ours = new Set(ports);
    const closed = closedConnections(STATES).filter(({ local }) => ours.has(local.port));
    if (closed.length === 0) return;
    this.tables.leftBehind.keep(closed.map((socket) => flowOf(socket, home)));
    this.goOn();
  }

  close(): void {
    clearTimeout(this.timer);
  }

  private sweep(): void {
    this.timer = undefined;
    const { leftBehind, bindings } = this.tables;
    const kept = leftBehind.kept();
    if (kept.length === 0) return;
    const homes = new Set([...bindings.entries()].map(([, { home }]) => decodeAddress(home)));
    const closed = closedConnections(STAYING);
    const present = new Set([...homes].flatMap((home) => closed.map((each) => leftBehind.nameOf(flowOf(each, home)))));
    const ended = kept.filter((name) => !present.has(name));
    if (ended.length > 0) leftBehind.letGo(ended);
    if (ended.length < kept.length) this.goOn();
  }

  private goOn(): void {
    this.timer ??= setTimeout(() => this.sweep(), SWEEP_MS).unref();
  }
}

function closedConnections(states: readonly TcpState[]): InternetSocket[] {
  return readInternetSockets('self', ['tcp', 'tcp6'], states).filter(({ inode }) => inode === 0);
}

/** As the datapath knows it. */
function flowOf({ local, remote }: InternetSocket, home: string): Flow {
  const known = ({ address, port }: Endpoint): Endpoint => ({
    address: isLoopback(address) ? addressOf(home, decodeAddress(encodeAddress(address))) : address,
    port,
  });
  return { protocol: 'tcp', local: known(local), remote: known(remote) };
}
