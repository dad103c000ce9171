import { readDescriptors, readText } from '../system/procfs.js';

const TRANSPORTS = ['tcp', 'tcp6', 'udp', 'udp6'] as const;
export type TransportName = (typeof TRANSPORTS)[number];

/** TCP states by their number in /proc/net/tcp (include/net/tcp_states.h). */
export const TCP_STATES = [
  'NONE',
  'ESTABLISHED',
  'SYN_SENT',
  'SYN_RECV',
  'FIN_WAIT1',
  'FIN_WAIT2',
  'TIME_WAIT',
  'CLOSE',
  'CLOSE_WAIT',
  'LAST_ACK',
  'LISTEN',
  'CLOSING',
  'NEW_SYN_RECV',
] as const;
export type TcpState = (typeof TCP_STATES)[number];

export interface Endpoint {
  /** Textual address; IPv4 dotted, IPv6 as eight groups. */
  readonly address: string;
  readonly port: number;
}

/** One line of /proc/<pid>/net/{tcp,udp}[6]. */
export interface InternetSocket {
  readonly transport: TransportName;
  readonly local: Endpoint;
  readonly remote: Endpoint;
  readonly state: TcpState;
  /** For a listener: connections that nobody has accepted yet; for others bytes that nobody has read. */
  readonly receiveQueue: number;
  /** 0 when no descriptor belongs to it (TIME_WAIT, SYN_RECV). */
  readonly inode: number;
}

/** All internet sockets of the network namespace that `pid` is in, or those of some transports. */
export function readInternetSockets(
  pid: number | 'self',
  transports: readonly TransportName[] = TRANSPORTS,
): InternetSocket[] {
  return transports.flatMap((transport) => parseSockets(transport, readText(`/proc/${pid}/net/${transport}`) ?? ''));
}

function parseSockets(transport: TransportName, table: string): InternetSocket[] {
  return table
    .split('\n')
    .slice(1)
    .map((line) => parseSocketLine(transport, line))
    .filter((socket) => socket !== undefined);
}

/** Parses a line of /proc/net/tcp and its siblings (Documentation/networking/proc_net_tcp.rst); undefined for an empty one. */
export function parseSocketLine(transport: TransportName, line: string): InternetSocket | undefined {
  const words = line.trim().split(/\s+/);
  const [, local, remote, state, queues] = words;
  const inode = words[9];
  if (
    local === undefined ||
    remote === undefined ||
    state === undefined ||
    queues === undefined ||
    inode === undefined
  ) {
    return undefined;
  }
  return {
    transport,
    local: parseEndpoint(local),
    remote: parseEndpoint(remote),
    state: TCP_STATES[Number.parseInt(state, 16)] ?? 'NONE',
    receiveQueue: Number.parseInt(queues.split(':')[1] ?? '0', 16),
    inode: Number(inode),
  };
}

function parseEndpoint(text: string): Endpoint {
  const [address = '', port = '0'] = text.split(':');
  return { address: parseAddress(address), port: Number.parseInt(port, 16) };
}

/** The kernel prints each 32-bit word of a network-order address as a host-order number (little endian on all we support). */
function parseAddress(hex: string): string {
  const bytes: number[] = [];
  for (let word = 0; word < hex.length; word += 8) {
    for (let byte = 6; byte >= 0; byte -= 2) bytes.push(Number.parseInt(hex.slice(word + byte, word + byte + 2), 16));
  }
  return addressText(bytes);
}

/** The text of an address of 4 or 16 bytes in network order, as {@link Endpoint} has it; a mapped one as IPv4. */
export function addressText(bytes: readonly number[]): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups: string[] = [];
  for (let index = 0; index < 16; index += 2) {
    groups.push((((bytes[index] ?? 0) << 8) | (bytes[index + 1] ?? 0)).toString(16));
  }
  const text = groups.join(':');
  const mapped = /^0:0:0:0:0:ffff:/.test(text);
  return mapped ? bytes.slice(12).join('.') : text;
}

/** One of the descriptors of an open file. */
export interface Holder {
  readonly pid: number;
  readonly fd: number;
}

/** All sockets that the processes hold open: one of their holders by the inode. */
export function readSocketHolders(pids: readonly number[]): Map<number, Holder> {
  return socketHolders(pids.flatMap((pid) => readDescriptors(pid).map((open) => ({ pid, ...open }))));
}

/** One of the holders of each socket among descriptors, by the socket's inode. */
export function socketHolders(descriptors: readonly (Holder & { readonly target: string })[]): Map<number, Holder> {
  const holders = new Map<number, Holder>();
  for (const { pid, fd, target } of descriptors) {
    const match = /^socket:\[(\d+)\]$/.exec(target);
    if (match !== null) holders.set(Number(match[1]), { pid, fd });
  }
  return holders;
}

/** A datagram socket of the tree with datagrams that nobody has read yet. */
export function findUnreadDatagrams(pids: readonly number[]): InternetSocket | undefined {
  const waiting = readInternetSockets(pids[0] ?? 0, ['udp', 'udp6']).filter(({ receiveQueue }) => receiveQueue > 0);
  if (waiting.length === 0) return undefined; // the tree's descriptors may be thousands
  const holders = readSocketHolders(pids);
  return waiting.find(({ inode }) => holders.has(inode));
}

/**
 * TCP connections that no process holds any more and that are not at their end, on the whole machine: the kernel keeps one count for
 * all network namespaces (tcp_orphan_count_sum, since 5.16 exact when it is read).
 */
export function countOrphans(pid: number): number {
  return Number(/^TCP:.* orphan (\d+)/m.exec(readText(`/proc/${pid}/net/sockstat`) ?? '')?.[1] ?? 0);
}

/** Whether an address never leaves the machine. */
export function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '0:0:0:0:0:0:0:1';
}
