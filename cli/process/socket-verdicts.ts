import { type AskedSocket, SocketInterview } from './ask-socket.js';
import type { Verdict } from './description.js';
import { optionText } from './socket-options.js';
import type { SurveyedOptions } from './socket-survey.js';
import type { Holder, InternetSocket } from './sockets.js';
import { count, ok, refused, willChange } from './verdicts.js';

/** include/linux/socket.h, include/uapi/linux/in.h, include/uapi/asm-generic/socket.h, include/uapi/linux/{tcp,udp,netlink}.h */
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_BINDTODEVICE = 25;
const SO_GET_FILTER = 26;
const SO_PROTOCOL = 38;
const SO_DOMAIN = 39;
const SOL_TCP = 6;
const TCP_ULP = 31;
const SOL_UDP = 17;
const UDP_CORK = 1;
const SOL_NETLINK = 270;
const NETLINK_LIST_MEMBERSHIPS = 9;
const AF = { unix: 1, inet: 2, inet6: 10, netlink: 16, packet: 17 } as const;
const SOCK_RAW = 3;
const IPPROTO = { ip: 0, icmp: 1, tcp: 6, udp: 17, icmpv6: 58, udplite: 136, sctp: 132, mptcp: 262 } as const;
const CARRIED: ReadonlySet<number> = new Set([IPPROTO.ip, IPPROTO.tcp, IPPROTO.udp, IPPROTO.udplite]);
/** The devices that there are in a pod: what a socket is bound to must exist where it is restored. */
const POD_DEVICES = new Set(['', 'lo', 'eth0']);
/** A verdict names no more options than these. */
const MAX_SHOWN = 8;
const FAMILIES: Readonly<Record<number, string>> = {
  15: 'AF_KEY',
  21: 'AF_RDS',
  24: 'AF_PPPOX',
  29: 'AF_CAN',
  30: 'AF_TIPC',
  31: 'AF_BLUETOOTH',
  38: 'AF_ALG (kernel cryptography)',
  40: 'AF_VSOCK (virtual machines)',
  43: 'AF_SMC',
  44: 'AF_XDP',
};

/** Sockets of a tree that CRIU 4.2 cannot carry, or not as they are. Asks each by pidfd_getfd and getsockopt. @param withKeys inodes of those with keys for signatures */
export function socketVerdicts(
  ours: readonly InternetSocket[],
  holders: ReadonlyMap<number, Holder>,
  unixInodes: ReadonlySet<number>,
  withKeys: ReadonlySet<number> = new Set(),
): Verdict[] {
  const verdicts: Verdict[] = [];
  const known = new Map(ours.map((socket) => [socket.inode, socket]));
  const interview = new SocketInterview();
  try {
    for (const [inode, holder] of holders) {
      if (unixInodes.has(inode)) continue;
      const internet = known.get(inode);
      if (internet !== undefined && withKeys.has(inode)) verdicts.push(signed(subjectOf(holder)));
      interview.with(holder, (socket) => {
        verdicts.push(
          ...(internet === undefined ? strangeSocket(socket, holder) : internetSocket(socket, internet, holder)),
        );
      });
    }
  } finally {
    interview.close();
  }
  return verdicts;
}

/** Options that CRIU forgets: all but what names an interface is set again where the process goes. */
export function optionVerdicts(sockets: readonly SurveyedOptions[]): Verdict[] {
  const again = new Map<string, Set<string>>();
  const holders = new Map<string, Holder[]>();
  for (const socket of sockets) {
    for (const { option, value } of socket.options) {
      const group = option.interfaceNumber === true ? option.name : '';
      again.set(group, (again.get(group) ?? new Set()).add(`${option.name} (${optionText(option, value)})`));
      const found = holders.get(group) ?? [];
      if (found.at(-1) !== socket) found.push(socket);
      holders.set(group, found);
    }
  }
  return [...again].map(([group, words]) => {
    const [first, ...more] = holders.get(group) ?? [];
    const one = first === undefined ? '' : subjectOf(first);
    const subject = more.length === 0 ? one : `${count(more.length + 1, 'socket')}, ${one} for one`;
    const shown = [...words].slice(0, MAX_SHOWN);
    if (words.size > shown.length) shown.push(`${words.size - shown.length} more`);
    return group === ''
      ? ok('SOCKET_OPTION', subject, `${shown.join(', ')}: CRIU forgets this, and it is set again`)
      : willChange(
          'SOCKET_OPTION',
          subject,
          `${shown.join(', ')} names an interface of this machine, and is not set again`,
        );
  });
}

/** One that no table of TCP or UDP lists: of another protocol, or neither bound nor connected yet. */
export function strangeSocket(socket: AskedSocket, holder: Holder): Verdict[] {
  const subject = subjectOf(holder);
  const family = socket.number(SOL_SOCKET, SO_DOMAIN);
  const protocol = socket.number(SOL_SOCKET, SO_PROTOCOL) ?? 0;
  const type = socket.number(SOL_SOCKET, SO_TYPE);
  if (family === undefined || family === AF.unix) return [];
  if (family === AF.netlink) return netlinkSocket(socket, subject);
  if (family === AF.packet) {
    return [
      refused(
        'PACKET_SOCKET',
        subject,
        "a packet socket sees the frames of this machine's interfaces, which stay here",
        'stop the capture, or leave the program where it is',
      ),
    ];
  }
  if (family !== AF.inet && family !== AF.inet6) {
    return [
      refused(
        'SOCKET_FAMILY',
        subject,
        `a socket of the family ${FAMILIES[family] ?? family}, which CRIU cannot save`,
        'let the program close it, or leave the program where it is',
      ),
    ];
  }
  if (protocol === IPPROTO.mptcp) return [multipath(subject)];
  if (protocol === IPPROTO.sctp) {
    return [refused('SCTP', subject, 'an SCTP socket, which CRIU cannot save', 'let the program use TCP')];
  }
  if (type === SOCK_RAW) {
    return [
      refused(
        'RAW_SOCKET',
        subject,
        `a raw socket (IP protocol ${protocol}): only TCP and UDP are forwarded to a process that is away`,
        'let the program close it, or leave the program where it is',
      ),
    ];
  }
  if (protocol === IPPROTO.icmp || protocol === IPPROTO.icmpv6) {
    return [
      willChange(
        'PING_SOCKET',
        subject,
        'answers to its echo requests do not follow it',
        'end the ping before the move',
      ),
    ];
  }
  if (CARRIED.has(protocol)) return sharedVerdicts(socket, subject, protocol);
  return [
    refused(
      'SOCKET_PROTOCOL',
      subject,
      `a socket of IP protocol ${protocol}, which CRIU cannot save`,
      'let the program close it, or leave the program where it is',
    ),
  ];
}

/** A socket of the tables. That of TCP lists the paths of Multipath TCP too, as if they were its owner's (mptcp_subflow_create_socket). */
function internetSocket(socket: AskedSocket, internet: InternetSocket, holder: Holder): Verdict[] {
  const subject = subjectOf(holder);
  if (internet.transport.startsWith('udp')) return sharedVerdicts(socket, subject, IPPROTO.udp);
  if (socket.number(SOL_SOCKET, SO_PROTOCOL) === IPPROTO.mptcp) return [multipath(subject)];
  return sharedVerdicts(socket, subject, IPPROTO.tcp);
}

function multipath(subject: string): Verdict {
  return refused(
    'MPTCP',
    subject,
    'a Multipath TCP socket, which CRIU cannot save',
    'switch it off in the program; a Go program (1.24 or newer) with the environment GODEBUG=multipathtcp=0',
  );
}

function signed(subject: string): Verdict {
  return refused(
    'TCP_MD5',
    subject,
    'its segments are signed (TCP-MD5, as BGP does), with keys that CRIU cannot save',
    'leave the program where it is, or let it do without keys',
  );
}

/** What speaks against a TCP or UDP socket. */
function sharedVerdicts(socket: AskedSocket, subject: string, protocol: number): Verdict[] {
  const verdicts: Verdict[] = [];
  const device = socket.text(SOL_SOCKET, SO_BINDTODEVICE);
  if (!POD_DEVICES.has(device)) {
    verdicts.push(
      refused(
        'BOUND_DEVICE',
        subject,
        `its socket is bound to the interface ${device} (SO_BINDTODEVICE), and there is none of that name where it would go`,
        'bind it to an address instead',
      ),
    );
  }
  if (socket.forbidden(SOL_SOCKET, SO_GET_FILTER)) {
    verdicts.push(
      refused(
        'SOCKET_BPF',
        subject,
        'an eBPF program filters its socket (SO_ATTACH_BPF), which the kernel gives to nobody',
        'let the program use a classic filter, or none',
      ),
    );
  }
  if (protocol === IPPROTO.tcp) verdicts.push(...upperLayer(socket.text(SOL_TCP, TCP_ULP), subject));
  if (protocol !== IPPROTO.tcp && (socket.number(SOL_UDP, UDP_CORK) ?? 0) !== 0) {
    verdicts.push(
      refused(
        'CORKED_UDP',
        subject,
        'its UDP socket is corked: it collects a datagram that CRIU cannot save',
        'try again when the program has sent it (UDP_CORK off)',
      ),
    );
  }
  return verdicts;
}

/** An upper layer protocol on a TCP connection (TCP_ULP). CRIU saves neither its keys nor its state. */
export function upperLayer(name: string, subject: string): Verdict[] {
  if (name === '') return [];
  const what =
    name === 'tls'
      ? 'the kernel encrypts its connection (kTLS), with keys'
      : `the upper layer "${name}" handles its connection, with a state`;
  return [
    refused(
      name === 'tls' ? 'KTLS' : 'TCP_ULP',
      subject,
      `${what} that CRIU cannot save`,
      name === 'tls'
        ? 'switch kTLS off (nginx: ssl_conf_command Options -KTLS), and reconnect'
        : 'let the program do without',
    ),
  ];
}

/** CRIU carries netlink sockets that listen to the first 32 groups. In a pod they hear of its network, not of the node's. */
function netlinkSocket(socket: AskedSocket, subject: string): Verdict[] {
  const groups = socket.ask(SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, Buffer.alloc(64)) ?? Buffer.alloc(0);
  const heard = groups.some((byte) => byte !== 0);
  if (groups.subarray(4).some((byte) => byte !== 0)) {
    return [
      refused(
        'NETLINK_GROUPS',
        subject,
        'a netlink socket that listens to a group beyond the 32nd, which CRIU cannot save',
        'let the program leave the group, or leave the program where it is',
      ),
    ];
  }
  if (!heard) return [];
  return [
    willChange(
      'NETLINK',
      subject,
      'a netlink socket that listens for changes of this machine: away, it hears of the network of the process alone',
    ),
  ];
}

function subjectOf({ pid, fd }: Holder): string {
  return `fd ${fd} of pid ${pid}`;
}
