import { withNetworkNamespace } from '../../addon/lib/index.js';
import { readText } from '../system/procfs.js';
import type { AskedSocket } from './ask-socket.js';

/** What decides whether an option means anything on a socket. */
export interface Situation {
  readonly protocol: 'tcp' | 'udp';
  /** An IPv6 socket. */
  readonly six: boolean;
  readonly listening: boolean;
  readonly defaults: SocketDefaults;
}

export interface SocketDefaults {
  readonly congestionControl: string;
  /** What IP_MTU_DISCOVER is on a new socket. */
  readonly pathMtu: number;
}

/** What a new socket gets in the network namespace that `pid` is in. */
export function readSocketDefaults(pid: number): SocketDefaults {
  return withNetworkNamespace(`/proc/${pid}/ns/net`, () => {
    const sysctl = (name: string): string => (readText(`/proc/sys/net/ipv4/${name}`) ?? '').trim();
    return {
      congestionControl: sysctl('tcp_congestion_control'),
      pathMtu: sysctl('ip_no_pmtu_disc') === '0' ? 1 : 0, // IP_PMTUDISC_WANT, IP_PMTUDISC_DONT
    };
  });
}

interface LostOption {
  readonly name: string;
  applies(situation: Situation): boolean;
  /** Its value in words; undefined when it is the default. */
  read(socket: AskedSocket, situation: Situation): string | undefined;
}

const SOL_IP = 0;
const SOL_SOCKET = 1;
const SOL_TCP = 6;
const SOL_UDP = 17;
const SOL_IPV6 = 41;

const any = (): boolean => true;
const tcp = ({ protocol }: Situation): boolean => protocol === 'tcp';
const connection = ({ protocol, listening }: Situation): boolean => protocol === 'tcp' && !listening;
const listener = ({ listening }: Situation): boolean => listening;
const udp = ({ protocol }: Situation): boolean => protocol === 'udp';
const udp6 = ({ protocol, six }: Situation): boolean => protocol === 'udp' && six;

/** An `int` whose default is one of some values. */
function integer(
  name: string,
  level: number,
  option: number,
  applies: LostOption['applies'],
  defaults: readonly number[] = [0],
): LostOption {
  return {
    name,
    applies,
    read: (socket) => {
      const value = socket.number(level, option);
      return value === undefined || defaults.includes(value) ? undefined : String(value);
    },
  };
}

/**
 * Options that CRIU 4.2 neither saves nor complains about (its dump_socket_opts, dump_ip_opts, dump_tcp_opts). Numbers from
 * include/uapi/linux/{tcp,udp,in,in6}.h and asm-generic/socket.h.
 */
export const LOST_OPTIONS: readonly LostOption[] = [
  {
    name: 'TCP_CONGESTION',
    applies: tcp,
    read: (socket, { defaults }) => {
      const value = socket.text(SOL_TCP, 13);
      return value === '' || value === defaults.congestionControl ? undefined : value;
    },
  },
  integer('TCP_USER_TIMEOUT', SOL_TCP, 18, tcp),
  integer('TCP_NOTSENT_LOWAT', SOL_TCP, 25, connection, [0, -1]),
  integer('TCP_DEFER_ACCEPT', SOL_TCP, 9, listener),
  integer('TCP_FASTOPEN', SOL_TCP, 23, listener),
  integer('IP_TRANSPARENT', SOL_IP, 19, any),
  {
    name: 'IP_MTU_DISCOVER',
    applies: udp,
    read: (socket, { defaults }) => {
      const value = socket.number(SOL_IP, 10);
      return value === undefined || value === defaults.pathMtu ? undefined : String(value);
    },
  },
  integer('IP_RECVERR', SOL_IP, 11, udp),
  integer('IPV6_RECVERR', SOL_IPV6, 25, udp6),
  integer('SO_TIMESTAMP', SOL_SOCKET, 29, udp),
  integer('SO_TIMESTAMPNS', SOL_SOCKET, 35, udp),
  integer('UDP_SEGMENT', SOL_UDP, 103, udp),
  integer('UDP_GRO', SOL_UDP, 104, udp),
];
