import { setTimeout as pause } from 'node:timers/promises';
import { programsEnded } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import { isInBlock, type PortBlock } from '../forwarding/port-block.js';
import { CLOSING } from '../process/closing-connections.js';
import type { BoundPort, ProcessDescription } from '../process/description.js';
import type { SurveyedOptions } from '../process/socket-survey.js';
import {
  type Endpoint,
  findUnreadDatagrams,
  type InternetSocket,
  isLoopback,
  readInternetSockets,
  readSocketHolders,
  readSocketsWithData,
  type TcpState,
} from '../process/sockets.js';
import { hasObjects, sysvFindings } from '../process/sysv.js';
import { WITH_DATA } from '../process/urgent-data.js';
import type { DepartureRecord } from './records.js';
import { refuse } from './refusals.js';

type Tree = Pick<DepartureRecord, 'localPids' | 'ports'>;
type Listeners = Pick<DepartureRecord, 'listening'>;

/** Handshakes that have begun. The kernel shows both kinds of half-open connections as the first (inet_diag). */
const HALF_OPEN: readonly TcpState[] = ['SYN_RECV', 'NEW_SYN_RECV'];
/** An ordinary correspondent has acknowledged by then. What is left at home the kernel brings to its end; in a pod it is waited for after that. */
const CLOSING_MS = 200;

/**
 * When new SYNs are held back: waits until those that the programs had let pass before are where they can be seen, and then as
 * {@link emptyAcceptQueues}.
 * @returns `unfinished`: names of connections that are at their beginning, and will hardly be through with it
 * @throws {UserError} `NOT_ACCEPTING`
 */
export async function finishHandshakes(
  tree: Tree & Listeners,
  limitMs: number,
): Promise<{ readonly waitedMs: number; readonly unfinished: ReadonlySet<string> }> {
  await programsEnded();
  const waitedMs = await emptyAcceptQueues(tree, limitMs);
  const sockets = readInternetSockets(tree.localPids[0] ?? 0, ['tcp', 'tcp6'], HALF_OPEN);
  return { waitedMs, unfinished: new Set(halfOpen(tree, sockets)) };
}

/**
 * Waits until handshakes that had begun are over and the process has accepted them; new SYNs are held back by now. And, for a
 * little while, until connections that it has closed are acknowledged to their end: once it is gone, their last packets would
 * find no socket, and be answered with a reset.
 * What waits for a listener that stays at home is for those who stay with it.
 * @returns how long that took, in milliseconds.
 * @throws {UserError} `NOT_ACCEPTING`
 */
export async function emptyAcceptQueues(
  { localPids, ports, listening = [] }: Tree & Listeners,
  limitMs: number,
): Promise<number> {
  const started = performance.now();
  const root = localPids[0] ?? 0;
  const stay = listening.filter(({ cookie }) => cookie !== undefined);
  const stays = stayingIn({ listening });
  const ours = new Set(ports.filter((own) => stay.every(({ port }) => port !== own)));
  const holders = readSocketHolders(localPids);
  for (;;) {
    const waitedMs = performance.now() - started;
    const waiting = readInternetSockets(root, ['tcp', 'tcp6']).filter(
      (socket) =>
        (socket.state === 'LISTEN' && holders.has(socket.inode) && !stays(socket) && socket.receiveQueue > 0) ||
        (HALF_OPEN.includes(socket.state) && ours.has(socket.local.port)) ||
        (waitedMs < CLOSING_MS && isClosing(socket) && ours.has(socket.local.port)),
    );
    if (waiting.length === 0) return waitedMs;
    if (waitedMs > limitMs) {
      const unaccepted = waiting.find((socket) => socket.state === 'LISTEN');
      if (unaccepted === undefined) return waitedMs; // a correspondent that does not finish its handshake loses it
      throw notAccepting(unaccepted);
    }
    await pause(1); // the kernel has no event for an emptied accept queue
  }
}

/** Tells the listeners that stay at home. */
function stayingIn({ listening = [] }: Listeners): (socket: InternetSocket) => boolean {
  const names = new Set(listening.map(({ cookie }) => cookie));
  return ({ cookie }) => cookie !== undefined && names.has(cookie);
}

export function notAccepting({ receiveQueue, local: { port } }: InternetSocket): UserError {
  return new UserError({
    code: 'NOT_ACCEPTING',
    message: `the process does not accept its connections: ${receiveQueue} wait on port ${port}`,
    remedy: 'try again when it is less busy, or raise timeouts.drainMs',
  });
}

/** Names of connections of these ports whose handshakes have begun, and that nobody holds. */
function halfOpen({ ports }: Pick<Tree, 'ports'>, sockets: readonly InternetSocket[]): string[] {
  const ours = new Set(ports);
  return sockets
    .filter(({ local, inode, state }) => HALF_OPEN.includes(state) && inode === 0 && ours.has(local.port))
    .map(({ local, remote }) => `${nameOf(local)} ${nameOf(remote)}`);
}

/** Whether a tree has datagram sockets. Who has none loses nothing when datagrams to its ports are held back early. */
export function hearsDatagrams(pids: readonly number[]): boolean {
  const sockets = readInternetSockets(pids[0] ?? 0, ['udp', 'udp6']);
  if (sockets.length === 0) return false;
  const holders = readSocketHolders(pids);
  return sockets.some(({ inode }) => holders.has(inode));
}

/**
 * Whether nothing can be on its way any more to a process for which datagrams and new connections were held back before
 * {@link finishHandshakes} waited for the programs: had it opened a port since, what came to that was held back later.
 * @param bound whether its binding had a port for itself then
 */
export function nothingUnderway(
  { ports }: Pick<ProcessDescription, 'ports'>,
  localPids: readonly number[],
  bound: (port: BoundPort) => boolean,
): boolean {
  return ports.every((port) => port.exclusive && bound(port)) && !hearsDatagrams(localPids);
}

/**
 * Waits until the process has read its datagrams, which CRIU would lose: they are parked by now, so no more can come, and it
 * still runs.
 * @param quiet {@link nothingUnderway}: the freeze need not be as long as an RCU grace period (4 to 20 ms)
 * @returns what to look for when it stands still: {@link requireNothingCame}
 * @throws {UserError} `NOT_READING`
 */
export async function emptyDatagramQueues(
  tree: Tree & Listeners,
  limitMs: number,
  quiet = false,
): Promise<(unfinished: ReadonlySet<string>) => Promise<InternetSocket[]>> {
  const ended = quiet ? Promise.resolve() : programsEnded();
  ended.catch(() => undefined); // heard later
  const limit = performance.now() + limitMs;
  for (;;) {
    const unread = findUnreadDatagrams(tree.localPids);
    if (unread === undefined) return (unfinished) => requireNothingCame(tree, unfinished, ended);
    if (performance.now() > limit) throw notReading(unread);
    await pause(1); // nor for an emptied receive queue
  }
}

/**
 * The process stands still. What the programs had let pass, before it was to be parked, has come by now: a datagram that is in its
 * queue would be lost, and a handshake that began so late would end with a reset where the listener is then.
 * @returns connections that have something to read, and those that are beginning, of others too: to look for them once takes a
 * millisecond (sockets.ts)
 * @throws {UserError} `NOT_READING`, `CONNECTED_MEANWHILE`
 */
async function requireNothingCame(
  tree: Tree & Listeners,
  unfinished: ReadonlySet<string>,
  ended: Promise<void>,
): Promise<InternetSocket[]> {
  await ended;
  const unread = findUnreadDatagrams(tree.localPids);
  if (unread !== undefined) throw notReading(unread);
  const sockets = readSocketsWithData(tree.localPids[0] ?? 0, HALF_OPEN, WITH_DATA);
  const begun = halfOpen(tree, sockets).filter((name) => !unfinished.has(name));
  if (begun.length === 0) return sockets;
  const holders = readSocketHolders(tree.localPids);
  const stays = stayingIn(tree); // and their handshakes with them
  const listening = readInternetSockets(tree.localPids[0] ?? 0, ['tcp', 'tcp6'], ['LISTEN'])
    .filter((socket) => holders.has(socket.inode) && !stays(socket))
    .map(({ local }) => local.port);
  const found = begun.find((name) => listening.some((port) => name.split(' ')[1] === String(port)));
  if (found === undefined) return sockets;
  throw new UserError({
    code: 'CONNECTED_MEANWHILE',
    message: `a connection was made in the very moment in which the process was stopped: ${found}`,
    remedy: 'try again',
  });
}

/**
 * The process stands still: a port that it opened in the last moment belongs to nobody in the datapath, and its packets would
 * be lost. What is between two sockets of the tree needs nobody.
 * @param sockets of the tree. They were asked, each by its descriptor.
 * @throws {UserError} `OPENED_MEANWHILE`
 */
export function requireSamePorts(
  { localPids, ports, block }: Tree & { readonly block?: PortBlock | undefined },
  sockets: readonly Pick<SurveyedOptions, 'local'>[],
): void {
  const known = new Set(ports);
  const opened = sockets.filter(
    ({ local: { address, port } }) =>
      port !== 0 && !known.has(port) && !isUnforwarded(address) && (block === undefined || !isInBlock(block, port)),
  );
  if (opened.length === 0) return;
  const ours = new Set(sockets.filter(({ local }) => local.port !== 0).map(({ local }) => nameOf(local)));
  const onLoopback = opened.some(({ local }) => isLoopback(local.address));
  const listed = onLoopback ? readInternetSockets(localPids[0] ?? 0) : [];
  const isWithin = (local: Endpoint): boolean => {
    const remotes = listed.filter((socket) => nameOf(socket.local) === nameOf(local)).map(({ remote }) => remote);
    return remotes.length > 0 && remotes.every((remote) => standInsFor(remote).some((name) => ours.has(name)));
  };
  for (const { local } of opened) {
    if (isLoopback(local.address) && isWithin(local)) continue;
    throw new UserError({
      code: 'OPENED_MEANWHILE',
      message: `the process opened port ${local.port} in the very moment in which it was stopped`,
      remedy: 'try again',
    });
  }
}

/** Nobody outside its tree is heard on another loopback address than 127.0.0.1 and ::1 (`LOCAL_CONNECTION`). */
function isUnforwarded(address: string): boolean {
  return address.startsWith('127.') && address !== '127.0.0.1';
}

function nameOf({ address, port }: Endpoint): string {
  return `${address} ${port}`;
}

/** By its own address, and by the wildcards that may stand for it. */
function standInsFor({ address, port }: Endpoint): string[] {
  return [address, '0.0.0.0', '0:0:0:0:0:0:0:0'].map((one) => nameOf({ address: one, port }));
}

function isClosing({ state, inode }: InternetSocket): boolean {
  return inode === 0 && CLOSING.includes(state);
}

/** Whether the tree uses System V objects of this node's own IPC namespace. */
export function usesSysv({ sysv }: Pick<DepartureRecord, 'sysv'>): boolean {
  return sysv !== undefined && hasObjects(sysv.own);
}

/**
 * The process stands still: CRIU has saved its System V objects if it had any when CRIU was started, or lives in a namespace of its own.
 * @returns what it uses now.
 * @throws {UserError} `OPENED_MEANWHILE`; `REFUSED` when somebody else has begun to use one
 */
export async function requireSaved(record: DepartureRecord): Promise<NonNullable<DepartureRecord['sysv']>> {
  const { own, semaphoresSeen, verdicts } = await sysvFindings(record.localPids, record.sysv);
  refuse(record.request.pid, verdicts);
  if (hasObjects(own) && !usesSysv(record)) {
    throw new UserError({
      code: 'OPENED_MEANWHILE',
      message: 'the process made its first System V object while it was about to leave',
      remedy: 'try again',
    });
  }
  return { own, semaphoresSeen };
}

function notReading({ receiveQueue, local: { port } }: InternetSocket): UserError {
  return new UserError({
    code: 'NOT_READING',
    message: `the process does not read its datagrams: ${receiveQueue} bytes of them wait on port ${port}, and would be lost`,
    remedy: 'try again when it is less busy, or raise timeouts.drainMs',
  });
}
