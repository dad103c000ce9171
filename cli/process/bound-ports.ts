import { isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';
import { readProcess } from '../system/procfs.js';
import { askSocket } from './ask-socket.js';
import type { BoundFlow, BoundPort, Listener, Verdict } from './description.js';
import { type Endpoint, type Holder, type InternetSocket, isLoopback } from './sockets.js';
import { willChange } from './verdicts.js';

/** Where processes of the home reach one that is away as they did before. */
const LOOPBACK = ['127.0.0.1', '::1'];
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26; // include/uapi/linux/in6.h
const WILDCARD_4 = '0.0.0.0';
const WILDCARD_6 = '0:0:0:0:0:0:0:0';

export interface Sockets {
  /** Those of the tree. */
  readonly ours: readonly InternetSocket[];
  /** All of the network namespace. */
  readonly everySocket: readonly InternetSocket[];
  /** Who in the tree holds a socket, by its inode. */
  readonly holders: ReadonlyMap<number, Holder>;
  /** Who outside the tree holds a file, as its link names it. */
  readonly heldOutside: ReadonlyMap<string, Holder>;
  readonly homeAddresses: readonly string[];
}

/** The ports and flows of a tree in its home's address space, and what speaks against moving its sockets. */
export function bindPorts({ ours, everySocket, holders, heldOutside, homeAddresses }: Sockets): {
  readonly ports: BoundPort[];
  readonly flows: BoundFlow[];
  readonly listening: Listener[];
  readonly verdicts: Verdict[];
} {
  const home = new Map([...homeAddresses, ...LOOPBACK].map((address) => [groups(address), address]));
  const outside = (inode: number): Holder | undefined => heldOutside.get(`socket:[${inode}]`);
  const foreign = everySocket.filter((socket) => isForeign(socket, outside));
  const sharedPorts = new Set(
    foreign.flatMap((socket) => reachedBy(socket, home, outside(socket.inode)).map((address) => key(socket, address))),
  );
  const sharedSockets = new Set(foreign.map(({ inode }) => inode));
  const inodeOfEnds = new Map(
    everySocket
      .filter(({ inode }) => inode !== 0)
      .map((socket) => [endsOf(socket, socket.local, socket.remote), socket.inode]),
  );
  const ports = new Map<string, BoundPort>();
  const flows: BoundFlow[] = [];
  const verdicts: Verdict[] = [];
  const listeners = ours.filter(({ state }) => state === 'LISTEN');
  const staying = new Set(listeners.filter((socket) => sharedSockets.has(socket.inode) && isOnly(socket, listeners)));
  for (const socket of staying) verdicts.push(listenerStays(socket, outside(socket.inode)));
  for (const socket of ours) {
    const { port } = socket.local;
    if (port === 0) continue;
    const peer = inodeOfEnds.get(endsOf(socket, socket.remote, socket.local));
    if (staysUnforwarded(socket.remote, home) && (peer === undefined || !holders.has(peer))) {
      verdicts.push(localConnection(socket));
      continue;
    }
    const addresses = reachedBy(socket, home, holders.get(socket.inode));
    if (addresses.length === 0 && isLoopback(socket.local.address)) {
      if (peer !== undefined && !holders.has(peer)) verdicts.push(localConnection(socket));
      continue; // nobody else sees it
    }
    if (addresses.length === 0 && !isWildcard(socket)) verdicts.push(notHome(socket, homeAddresses));
    const protocol = protocolOf(socket);
    const shared = addresses.filter((address) => sharedPorts.has(key(socket, address)));
    for (const address of addresses) {
      ports.set(key(socket, address), { protocol, address, port, exclusive: !shared.includes(address) });
    }
    if (shared.length === 0) continue;
    if (staying.has(socket)) continue;
    if (socket.state === 'LISTEN' || socket.remote.port === 0)
      verdicts.push(sharedListener(socket, outside(socket.inode)));
    else if (sharedSockets.has(socket.inode)) verdicts.push(sharedConnection(socket));
    else flows.push(...shared.map((address) => ({ protocol, local: { address, port }, remote: socket.remote })));
  }
  const listening = listeners.map((socket) => listenerOf(socket, staying.has(socket)));
  return { ports: [...ports.values()], flows, listening, verdicts };
}

/** Whether no other of the listeners has the same address: by that it is known again when it comes home. */
function isOnly({ transport, local }: InternetSocket, listeners: readonly InternetSocket[]): boolean {
  const same = listeners.filter(
    (other) =>
      other.transport === transport && other.local.port === local.port && other.local.address === local.address,
  );
  return same.length === 1;
}

function listenerOf({ transport, local: { address, port }, cookie }: InternetSocket, stays: boolean): Listener {
  return {
    transport: transport.endsWith('6') ? 'tcp6' : 'tcp',
    address,
    port,
    ...(stays && cookie !== undefined ? { cookie } : {}),
  };
}

/** A listener that others have too: they go on to accept from its one queue, which stays as it is. */
function listenerStays(socket: InternetSocket, holder: Holder | undefined): Verdict {
  const who = holder === undefined ? 'others' : nameOf(holder);
  return willChange(
    'LISTENER_STAYS',
    `port ${portName(socket)}`,
    `${who}, outside the tree, has the same listener: it stays at home with its queue, and this process accepts no new connections while it is away`,
    'move the process that made the listener, with all its workers, for all of them to be served there',
  );
}

function nameOf({ pid }: Holder): string {
  return `pid ${pid} (${readProcess(pid)?.comm ?? '?'})`;
}

/** The home addresses by which a socket is reached: its own, or all of the families that its wildcard stands for. */
function reachedBy(
  socket: InternetSocket,
  home: ReadonlyMap<string, string>,
  holder: Holder | undefined,
): readonly string[] {
  const { address } = socket.local;
  if (!isWildcard(socket)) return [home.get(address)].filter((found) => found !== undefined);
  const all = [...home.values()];
  if (address === WILDCARD_4) return all.filter((candidate) => !isIPv6(candidate));
  return holder !== undefined && isSixOnly(holder) ? all.filter((candidate) => isIPv6(candidate)) : all;
}

function isWildcard({ local: { address } }: InternetSocket): boolean {
  return address === WILDCARD_4 || address === WILDCARD_6;
}

/** Whether an IPv6 socket takes no IPv4 (ipv6(7)); no file in /proc tells. One that has gone meanwhile is taken for both. */
function isSixOnly(holder: Holder): boolean {
  return askSocket(holder, IPPROTO_IPV6, IPV6_V6ONLY, Buffer.alloc(4))?.readInt32LE() === 1;
}

/** As /proc prints it, so that texts can be compared. */
function groups(address: string): string {
  return ipaddr.parse(address).toNormalizedString();
}

function notHome(socket: InternetSocket, homeAddresses: readonly string[]): Verdict {
  const { address } = socket.local;
  const oneLink = /^fe[89ab].:/.test(address);
  return {
    outcome: 'refused',
    code: 'NOT_HOME_ADDRESS',
    subject: `port ${portName(socket)}`,
    reason: oneLink
      ? `a socket is bound to ${address}, which means something on one link only`
      : `a socket is bound to ${address}, and packets to it do not come through this node's uplinks`,
    remedy: `let the program use ${homeAddresses.join(', ')} or a wildcard; or name that address's interface in \`uplinks\``,
  };
}

/**
 * CRIU binds what it restores anew: beside what is on the port at home it could not when the process comes back. Of a listener that
 * others have too it is given theirs instead (addon/src/criu-listeners.c); a UDP socket of several has one queue that nobody can divide.
 * @param holder who outside the tree has this very socket
 */
function sharedListener(socket: InternetSocket, holder: Holder | undefined): Verdict {
  const what = protocolOf(socket) === 'udp' ? 'uses' : 'listens on';
  return {
    outcome: 'refused',
    code: 'SHARED_LISTENER',
    subject: `port ${portName(socket)}`,
    reason: `a process outside the tree has sockets on the port that this one ${what}${holder === undefined ? '' : `: ${nameOf(holder)} has this very one`}`,
    remedy: 'move the process that both come from, with all that share the port',
  };
}

function sharedConnection(socket: InternetSocket): Verdict {
  const { address, port } = socket.remote;
  return {
    outcome: 'refused',
    code: 'SHARED_CONNECTION',
    subject: `port ${portName(socket)}`,
    reason: `its connection with ${address} port ${port} is also open in a process outside the tree`,
    remedy: 'move the process that both come from',
  };
}

/** Names a connection by its two ends, as the one whose `local` it is sees it. */
function endsOf(socket: InternetSocket, local: Endpoint, remote: Endpoint): string {
  return `${protocolOf(socket)} ${local.address} ${local.port} ${remote.address} ${remote.port}`;
}

/** Of the loopback addresses only the two usual ones are forwarded: as a peer, too, though it be 127.0.0.1 that speaks with it. */
function staysUnforwarded({ address, port }: Endpoint, home: ReadonlyMap<string, string>): boolean {
  return port !== 0 && isLoopback(address) && !home.has(address);
}

function localConnection(socket: InternetSocket): Verdict {
  return {
    outcome: 'refused',
    code: 'LOCAL_CONNECTION',
    subject: `port ${portName(socket)}`,
    reason: `it has a connection with port ${socket.remote.port} of ${socket.remote.address}, a process of this machine that stays`,
    remedy: 'use 127.0.0.1 or ::1 for it; or move both (their common parent)',
  };
}

/**
 * Whether a process outside the tree holds a socket, alone or with the tree (a worker has inherited its parent's listener).
 * The tables are read one after the other, and connections come and go between: what only looks foreign because the tree
 * opened it a moment ago is held by nobody else.
 */
function isForeign({ inode }: InternetSocket, outside: (inode: number) => Holder | undefined): boolean {
  return outside(inode) !== undefined;
}

function protocolOf(socket: InternetSocket): 'tcp' | 'udp' {
  return socket.transport.startsWith('tcp') ? 'tcp' : 'udp';
}

/** Names a port of one home address. */
function key(socket: InternetSocket, address: string): string {
  return `${portName(socket)} ${address}`;
}

function portName(socket: InternetSocket): string {
  return `${protocolOf(socket)} ${socket.local.port}`;
}
