import { LONGEST_ANSWER as LONGEST, type SocketKind } from '../../addon/lib/index.js';

/** An option of TCP and UDP sockets that CRIU forgets. */
export interface SocketOption {
  readonly name: string;
  readonly level: number;
  readonly option: number;
  /** Of its value, in bytes. */
  readonly size: number;
  readonly kinds: readonly SocketKind[];
  /** Values that a socket has by itself, whatever a new one answers. */
  readonly ownValues?: readonly number[];
  /** It names an interface by its number, which another one has where the process goes. */
  readonly interfaceNumber?: boolean;
}

const CONNECTIONS = ['tcp4', 'tcp6'] as const;
const LISTENERS = ['listener4', 'listener6'] as const;
const TCP = [...CONNECTIONS, ...LISTENERS] as const;
const UDP = ['udp4', 'udp6'] as const;
const ALL = [...TCP, ...UDP] as const;
const SIX = ['tcp6', 'listener6', 'udp6'] as const;

const SOL_SOCKET = 1;
const SOL_IP = 0;
const SOL_TCP = 6;
const SOL_UDP = 17;
const SOL_IPV6 = 41;

type More = Partial<Pick<SocketOption, 'size' | 'ownValues' | 'interfaceNumber'>>;

function options(
  level: number,
  kinds: readonly SocketKind[],
  numbers: Readonly<Record<string, number>>,
  more: More = {},
): SocketOption[] {
  return Object.entries(numbers).map(([name, option]) => ({ name, level, option, size: 4, kinds, ...more }));
}

/**
 * What CRIU 4.2.1 neither saves nor complains about: found by setting every option there is to another value on sockets of each
 * kind, dumping and restoring them, and asking again. Not here, since nobody can know what was set: TCP_MAXSEG, TCP_WINDOW_CLAMP
 * and SO_INCOMING_CPU of connections and IPV6_MTU, which answer what the kernel has made of them, and TCP_FASTOPEN_KEY: who has a
 * cookie of another key makes an ordinary handshake. Numbers from
 * asm-generic/socket.h and include/uapi/linux/{tcp,udp,in,in6}.h; a kernel that lacks one does not answer.
 */
export const FORGOTTEN_OPTIONS: readonly SocketOption[] = [
  ...options(SOL_TCP, TCP, { TCP_CONGESTION: 13 }, { size: 16 }),
  ...options(SOL_TCP, TCP, {
    TCP_USER_TIMEOUT: 18,
    TCP_NOTSENT_LOWAT: 25,
    TCP_DEFER_ACCEPT: 9,
    TCP_SYNCNT: 7,
    TCP_LINGER2: 8,
    TCP_THIN_LINEAR_TIMEOUTS: 16,
    TCP_SAVE_SYN: 27,
    TCP_INQ: 36,
    TCP_TX_DELAY: 37,
    TCP_RTO_MAX_MS: 44,
    TCP_RTO_MIN_US: 45,
    TCP_DELACK_MAX_US: 46,
  }),
  ...options(SOL_TCP, LISTENERS, {
    TCP_MAXSEG: 2,
    TCP_WINDOW_CLAMP: 10,
    TCP_FASTOPEN: 23,
    TCP_FASTOPEN_NO_COOKIE: 34,
  }),
  ...options(SOL_SOCKET, ALL, {
    SO_DEBUG: 1,
    SO_TIMESTAMP: 29,
    SO_TIMESTAMPNS: 35,
    SO_TIMESTAMPING: 37,
    SO_TIMESTAMP_NEW: 63,
    SO_TIMESTAMPNS_NEW: 64,
    SO_TIMESTAMPING_NEW: 65,
    SO_RXQ_OVFL: 40,
    SO_WIFI_STATUS: 41,
    SO_PEEK_OFF: 42,
    SO_LOCK_FILTER: 44,
    SO_SELECT_ERR_QUEUE: 45,
    SO_BUSY_POLL: 46,
    SO_ZEROCOPY: 60,
    SO_PREFER_BUSY_POLL: 69,
    SO_RESERVE_MEM: 73,
    SO_RCVMARK: 75,
    SO_RCVPRIORITY: 82,
  }),
  ...options(SOL_SOCKET, ALL, { SO_MAX_PACING_RATE: 47, SO_TXTIME: 61 }, { size: 8 }),
  ...options(SOL_SOCKET, LISTENERS, { SO_INCOMING_CPU: 49 }),
  ...options(SOL_SOCKET, TCP, { SO_TXREHASH: 74 }, { ownValues: [1, 255] }), // a listener and a connection turn 255 into 1
  ...options(SOL_IP, ALL, { IP_OPTIONS: 4 }, { size: LONGEST }),
  ...options(SOL_IP, ALL, {
    IP_TOS: 1,
    IP_TTL: 2,
    IP_RECVOPTS: 6,
    IP_RETOPTS: 7,
    IP_PKTINFO: 8,
    IP_MTU_DISCOVER: 10,
    IP_RECVERR: 11,
    IP_RECVTTL: 12,
    IP_RECVTOS: 13,
    IP_PASSSEC: 18,
    IP_TRANSPARENT: 19,
    IP_RECVORIGDSTADDR: 20,
    IP_MINTTL: 21,
    IP_CHECKSUM: 23,
    IP_BIND_ADDRESS_NO_PORT: 24,
    IP_RECVERR_RFC4884: 26,
    IP_MULTICAST_LOOP: 34,
    IP_LOCAL_PORT_RANGE: 51,
  }),
  ...options(SOL_IP, UDP, { IP_RECVFRAGSIZE: 25, IP_MULTICAST_IF: 32, IP_MULTICAST_TTL: 33, IP_MULTICAST_ALL: 49 }),
  ...options(SOL_IP, ALL, { IP_UNICAST_IF: 50 }, { interfaceNumber: true }),
  ...options(SOL_IPV6, SIX, {
    IPV6_UNICAST_HOPS: 16,
    IPV6_MTU_DISCOVER: 23,
    IPV6_RECVERR: 25,
    IPV6_RECVERR_RFC4884: 31,
    IPV6_FLOWINFO: 11,
    IPV6_FLOWINFO_SEND: 33,
    IPV6_RECVHOPLIMIT: 51,
    IPV6_RECVHOPOPTS: 53,
    IPV6_RECVRTHDR: 56,
    IPV6_RECVDSTOPTS: 58,
    IPV6_RECVPATHMTU: 60,
    IPV6_DONTFRAG: 62,
    IPV6_RECVTCLASS: 66,
    IPV6_TCLASS: 67,
    IPV6_AUTOFLOWLABEL: 70,
    IPV6_ADDR_PREFERENCES: 72,
    IPV6_MINHOPCOUNT: 73,
    IPV6_RECVORIGDSTADDR: 74,
    IPV6_TRANSPARENT: 75,
    IPV6_RECVFRAGSIZE: 77,
  }),
  ...options(
    SOL_IPV6,
    SIX,
    { IPV6_HOPOPTS: 54, IPV6_RTHDRDSTOPTS: 55, IPV6_RTHDR: 57, IPV6_DSTOPTS: 59 },
    { size: LONGEST },
  ),
  ...options(SOL_IPV6, ['udp6'], {
    IPV6_2292PKTINFO: 2,
    IPV6_2292HOPOPTS: 3,
    IPV6_2292DSTOPTS: 4,
    IPV6_2292RTHDR: 5,
    IPV6_2292HOPLIMIT: 8,
    IPV6_MULTICAST_HOPS: 18,
    IPV6_MULTICAST_LOOP: 19,
    IPV6_MULTICAST_ALL: 29,
  }),
  ...options(SOL_IPV6, ['udp6'], { IPV6_MULTICAST_IF: 17 }, { interfaceNumber: true }),
  ...options(SOL_IPV6, SIX, { IPV6_UNICAST_IF: 76 }, { interfaceNumber: true }),
  ...options(SOL_UDP, UDP, {
    UDP_ENCAP: 100,
    UDP_NO_CHECK6_TX: 101,
    UDP_NO_CHECK6_RX: 102,
    UDP_SEGMENT: 103,
    UDP_GRO: 104,
  }),
];

/** A value in words. */
export function optionText({ name }: Pick<SocketOption, 'name'>, value: Uint8Array): string {
  const bytes = Buffer.from(value);
  if (name === 'TCP_CONGESTION') return bytes.toString('latin1').replace(/\0.*$/s, '');
  if (name === 'IP_MULTICAST_IF') return [...bytes].join('.');
  if (/^IP_OPTIONS$|^IPV6_(HOP|DST|RTHDR)/.test(name)) return bytes.toString('hex');
  if (bytes.length === 8) return String(bytes.readBigUInt64LE());
  return bytes.length === 4 ? String(bytes.readInt32LE()) : bytes.toString('hex');
}

/** The congestion controls that are among options which were set. */
export function congestionControls(
  set: readonly { readonly option: SocketOption; readonly value: Uint8Array }[],
): string[] {
  const named = set.filter(({ option }) => option.name === 'TCP_CONGESTION');
  return [...new Set(named.map(({ option, value }) => optionText(option, value)))];
}
