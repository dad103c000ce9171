import { setTimeout as pause } from 'node:timers/promises';
import type { Verdict } from './description.js';
import { type ConnectionWithInfo, type Endpoint, readConnectionsWithInfo, type TcpState } from './sockets.js';
import { count, refused, willChange } from './verdicts.js';

/** Closed by the process, and not yet to the end: nobody holds them any more, so nobody can carry them. */
export const CLOSING: readonly TcpState[] = ['FIN_WAIT1', 'CLOSING', 'LAST_ACK'];

/**
 * So many retransmissions or probes in a row without an answer, and the correspondent counts as dead: where the kernel itself begins
 * to suspect it (net.ipv4.tcp_retries1; RFC 1122, 4.2.3.5: R1), some 1.4 s at least. It gives such a connection up after eight
 * (tcp_orphan_retries).
 */
const UNANSWERED = 3;
/** Longer than a round trip: what has not got on for so long waits for somebody to read. In milliseconds. */
const STUCK_MS = 500;
/** What still gets on by then is not in the way: the drain waits for it. */
const LIMIT_MS = 1500;
const LOOK_AGAIN_MS = 20;
/** No more of them are named. */
const MAX_NAMED = 8;
/** For who must have it leave. */
export const WAY_OUT = 'to lose that, use --reset-closing';

/** A connection that its process has closed, and whose correspondent has not acknowledged all of it. */
export interface ClosingConnection {
  readonly local: Endpoint;
  readonly remote: Endpoint;
  /** What the correspondent has not acknowledged of what the process said. The end, which comes after it, is no byte. */
  readonly bytes: number;
  /** The correspondent does not answer: the kernel is about to give the connection up. */
  readonly dead: boolean;
}

/** Those of the network namespace that `pid` is in. In a pod all are its tree's. */
export function readClosingConnections(pid: number): ClosingConnection[] {
  return readConnectionsWithInfo(pid, CLOSING)
    .filter(({ socket }) => socket.inode === 0)
    .map(({ socket: { local, remote }, unacknowledged, info }) => ({
      local,
      remote,
      bytes: Math.max(0, unacknowledged - 1),
      dead: isUnanswered(info),
    }));
}

/**
 * Every answer ends a row of probes (tcp_ack), and only one that acknowledges something a row of retransmissions: a correspondent
 * that has no room answers those too. The wait after each is twice the one before it: with an answer to the one before, the
 * last word from there came half of the present wait before the last of them was sent; without any, 7/8 of it.
 *
 *   0                 2           3        4     8                   44               56
 *   +-------+---------+-----------+--------+-----+----------+-- ... -+-----------+ ...+-----------------+
 *   | state | CA state| retransm. | probes | ... | rto (us) |        | last sent |    | last ACK (ms)   |
 *   +-------+---------+-----------+--------+-----+----------+-- ... -+-----------+ ...+-----------------+
 */
function isUnanswered(info: ConnectionWithInfo['info']): boolean {
  if (info.readUInt8(3) >= UNANSWERED) return true;
  if (info.readUInt8(2) < UNANSWERED) return false;
  const waitMs = info.readUInt32LE(8) / 1000;
  const silentMs = info.readUInt32LE(56) - info.readUInt32LE(44);
  return silentMs > (waitMs * 2) / 3;
}

/** `10.77.0.2 port 80 to 10.77.0.9 port 40112`. */
export function nameOfConnection({ local, remote }: Pick<ClosingConnection, 'local' | 'remote'>): string {
  return `${local.address} port ${local.port} to ${remote.address} port ${remote.port}`;
}

/** What a correspondent would not get. */
export function outstandingOf({ bytes }: ClosingConnection): string {
  return bytes === 0 ? 'its end' : `${count(bytes, 'byte')} and its end`;
}

/**
 * What the process of a pod has closed and does not come to its end: when it leaves, its pod goes, and with it what nobody holds.
 * What gets on, or is over within a moment, is not in the way; if there is any, that takes {@link LIMIT_MS} at most.
 * @param mayBeLost somebody has said so
 */
export async function closingVerdicts(pid: number, mayBeLost = false): Promise<Verdict[]> {
  const started = performance.now();
  const seen = new Map(
    readClosingConnections(pid).map((each) => [nameOfConnection(each), { bytes: each.bytes, at: started }]),
  );
  let stuck: ClosingConnection[] = [];
  for (;;) {
    const now = performance.now();
    const open = readClosingConnections(pid).filter((each) => seen.has(nameOfConnection(each)));
    stuck = open.filter(({ bytes, dead, ...ends }) => {
      const name = nameOfConnection(ends);
      if (seen.get(name)?.bytes !== bytes) seen.set(name, { bytes, at: now });
      return dead || now - (seen.get(name)?.at ?? now) >= STUCK_MS;
    });
    if (stuck.length === open.length || now - started >= LIMIT_MS) break;
    await pause(LOOK_AGAIN_MS);
  }
  const inOrder = [...stuck.filter(({ dead }) => !dead), ...stuck.filter(({ dead }) => dead)];
  return inOrder.slice(0, MAX_NAMED).map((each) => (each.dead || mayBeLost ? willBeLost(each) : notTaken(each)));
}

function notTaken(connection: ClosingConnection): Verdict {
  return refused(
    'CLOSING_CONNECTION',
    `connection from ${nameOfConnection(connection)}`,
    `the process has closed it, and its correspondent has not taken ${outstandingOf(connection)}: that would be lost with its pod`,
    `try again when the correspondent has read it; ${WAY_OUT}`,
  );
}

function willBeLost(connection: ClosingConnection): Verdict {
  return willChange(
    'CLOSING_CONNECTION',
    `connection from ${nameOfConnection(connection)}`,
    `the process has closed it, and its correspondent${connection.dead ? ', which does not answer any more,' : ''} has not taken ${outstandingOf(connection)}: that is lost`,
  );
}
