import { isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';
import { addressBytes } from '../forwarding/address.js';
import { readText } from '../system/procfs.js';
import { askSocket } from './ask-socket.js';
import type { Verdict } from './description.js';
import type { Holder, InternetSocket } from './sockets.js';

const MCAST_MSFILTER = 48; // include/uapi/linux/in.h
const LEVELS = { ipv4: 0, ipv6: 41 } as const; // IPPROTO_IP, IPPROTO_IPV6
const AF_INET = 2;
const AF_INET6 = 10;

interface Group {
  readonly ifindex: number;
  readonly address: string;
}

/**
 * Sockets of a tree that are members of a multicast group: CRIU does not carry that, and nobody forwards the group's packets.
 * @param pid in whose network namespace they are
 */
export function multicastVerdicts(
  pid: number,
  ours: readonly InternetSocket[],
  holders: ReadonlyMap<number, Holder>,
): Verdict[] {
  const groups = readGroups(pid);
  if (groups.length === 0) return [];
  return ours
    .filter(({ transport }) => transport.startsWith('udp'))
    .flatMap(({ inode, local }) => {
      const holder = holders.get(inode);
      const joined = groups.find((group) => holder !== undefined && isMember(holder, group));
      if (holder === undefined || joined === undefined) return [];
      return {
        outcome: 'refused' as const,
        code: 'MULTICAST',
        subject: `fd ${holder.fd} of pid ${holder.pid}`,
        reason: `its socket on port ${local.port} is a member of the multicast group ${joined.address}, whose packets come to this machine only`,
        remedy: 'let the program leave the group, or leave the program where it is',
      };
    });
}

/** The groups that a program may have joined: not those that the kernel joins by itself. */
function readGroups(pid: number): Group[] {
  return [
    ...parseGroups4(readText(`/proc/${pid}/net/igmp`) ?? ''),
    ...parseGroups6(readText(`/proc/${pid}/net/igmp6`) ?? ''),
  ].filter(({ address }) => !/^(224\.0\.0\.1|ff0[125]::[12]|ff02::1:ff[0-9a-f:]*)$/.test(address));
}

/** A line for each interface, which begins with its number, and below it one for each group: its bytes as a host integer. */
function parseGroups4(text: string): Group[] {
  let ifindex = 0;
  return text.split('\n').flatMap((line) => {
    const device = /^(\d+)\s/.exec(line);
    if (device !== null) ifindex = Number(device[1]);
    const group = /^\s+([0-9A-F]{8})\s/.exec(line)?.[1];
    if (group === undefined) return [];
    return { ifindex, address: [...Buffer.from(group, 'hex')].reverse().join('.') };
  });
}

/** `2    eth0            ff020000000000000000000000000001     1 0000000C 0` */
function parseGroups6(text: string): Group[] {
  return text.split('\n').flatMap((line) => {
    const [ifindex, , group] = line.trim().split(/\s+/);
    if (group?.length !== 32) return [];
    return { ifindex: Number(ifindex), address: ipaddr.fromByteArray([...Buffer.from(group, 'hex')]).toString() };
  });
}

/**
 * Asks for a group's source filter, which only a member has. The question is a `struct group_filter` (include/uapi/linux/in.h):
 *
 *   4          4     128                                    4      4
 *   +----------+-----+--------------------------------------+------+-----------------+
 *   | ifindex  |     | sockaddr_storage: family, the group  | mode | sources wanted 0 |
 *   +----------+-----+--------------------------------------+------+-----------------+
 */
function isMember(holder: Holder, { ifindex, address }: Group): boolean {
  const six = isIPv6(address);
  const question = Buffer.alloc(144);
  question.writeUInt32LE(ifindex, 0);
  question.writeUInt16LE(six ? AF_INET6 : AF_INET, 8);
  const bytes = addressBytes(address);
  if (six) bytes.copy(question, 16);
  else bytes.copy(question, 12, 12);
  return askSocket(holder, six ? LEVELS.ipv6 : LEVELS.ipv4, MCAST_MSFILTER, question) !== undefined;
}
