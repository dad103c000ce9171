import { Bench } from './bench.js';
import { type Ecn, ethernet, type Ipv4Fields, icmp, ipip, ipv4, MAC, type Segment, tcp } from './packets.js';
import { type Ipv6Fields, ip6ip, ipv6 } from './packets6.js';

/** The cast: a correspondent talks to a service on a home address; two other nodes; a stranger. */
export const CORRESPONDENT = '10.0.0.1';
export const HOME = '10.0.0.2';
export const CARE_OF = '10.0.0.3';
export const OTHER_NODE = '10.0.0.4';
export const STRANGER = '10.0.0.99';
export const CORRESPONDENT6 = '2001:db8::1';
export const HOME6 = '2001:db8::2';
export const CARE_OF6 = '2001:db8::3';
export const OTHER_NODE6 = '2001:db8::4';
export const STRANGER6 = '2001:db8::99';
export const SERVICE_PORT = 6379;
export const CLIENT_PORT = 40_000;
export const BINDING = 7;

export interface TcpOptions extends Partial<Ipv4Fields> {
  readonly port?: number;
  readonly fromPort?: number;
  readonly flags?: string;
  readonly payload?: Uint8Array;
}

/** What the correspondent sends to the service: an IP packet. */
export function request(options: TcpOptions = {}): Buffer {
  const {
    port = SERVICE_PORT,
    fromPort = CLIENT_PORT,
    flags = 'PA',
    payload = Buffer.from('INCR a\r\n'),
    ...ip
  } = options;
  const segment = tcp({ sourcePort: fromPort, destinationPort: port, flags, payload });
  return ipv4({ source: CORRESPONDENT, destination: HOME, ...ip }, segment);
}

export interface TcpOptions6 extends Partial<Ipv6Fields> {
  readonly port?: number;
  readonly fromPort?: number;
  readonly flags?: string;
  readonly payload?: Uint8Array;
}

/** The same over IPv6. */
export function request6(options: TcpOptions6 = {}): Buffer {
  const {
    port = SERVICE_PORT,
    fromPort = CLIENT_PORT,
    flags = 'PA',
    payload = Buffer.from('INCR a\r\n'),
    ...ip
  } = options;
  const segment = tcp({ sourcePort: fromPort, destinationPort: port, flags, payload });
  return ipv6({ source: CORRESPONDENT6, destination: HOME6, ...ip }, segment);
}

/** What the service sends to the correspondent: an IP packet. */
export function reply(options: TcpOptions = {}): Buffer {
  const { port = CLIENT_PORT, fromPort = SERVICE_PORT, flags = 'PA', payload = Buffer.from(':1\r\n'), ...ip } = options;
  const segment = tcp({ sourcePort: fromPort, destinationPort: port, flags, payload });
  return ipv4({ source: HOME, destination: CORRESPONDENT, ...ip }, segment);
}

/** The packet, of either family, as a node puts it into a tunnel over IPv4 (RFC 2003, RFC 4213). */
export function tunnelled(inner: Buffer, outer: Partial<Ipv4Fields> = {}): Buffer {
  return ipv4(
    { source: HOME, destination: CARE_OF, ttl: 64, tos: tosOf(inner), id: 0, ...outer },
    tunnelSegment(inner),
  );
}

/** A packet of either family as what an IP header carries. */
export const tunnelSegment = (inner: Buffer): Segment => (isIpv6(inner) ? ip6ip(inner) : ipip(inner));

const isIpv6 = (packet: Buffer): boolean => (packet[0] ?? 0) >> 4 === 6;

/** TOS or traffic class of a packet. */
function tosOf(packet: Buffer): number {
  return isIpv6(packet) ? (packet.readUInt16BE(0) >> 4) & 0xff : (packet[1] ?? 0);
}

/** "Port unreachable" or another error about a packet; only the 8 bytes of its transport header that RFC 792 promises. */
export function icmpError(about: Buffer, fields: Ipv4Fields, bytesQuoted = 8): Buffer {
  const header = ((about[0] ?? 0) & 15) * 4;
  return ipv4(fields, icmp(3, 3, 0, about.subarray(0, header + bytesQuoted)));
}

const typeOf = (packet: Uint8Array): number => ((packet[0] ?? 0) >> 4 === 6 ? 0x86dd : 0x0800);
export const frame = (packet: Uint8Array): Buffer => ethernet({ type: typeOf(packet) }, packet);
/** As it leaves towards the next hop of the care-of address. */
export const onward = (packet: Uint8Array): Buffer =>
  ethernet({ source: MAC.home, destination: MAC.careOf, type: typeOf(packet) }, packet);
export const intoPod = (packet: Uint8Array): Buffer =>
  ethernet({ source: MAC.podHost, destination: MAC.pod, type: typeOf(packet) }, packet);

/** The same packet with other ECN bits. */
export function withEcn(packet: Buffer, ecn: (typeof Ecn)[keyof typeof Ecn]): number {
  return ((packet[1] ?? 0) & 0xfc) | ecn;
}

/** A home node with one bound service, its binding to be set by the test. */
export function homeBench(): Bench {
  return furnish(new Bench(HOME, { other: HOME6 }));
}

/** A care-of host of the same service. */
export function careOfBench(): Bench {
  return furnish(new Bench(CARE_OF, { other: CARE_OF6 }));
}

/** Claims the service on an empty bench and makes the other nodes known. */
export function furnish(bench: Bench): Bench {
  const nodes = [HOME, CARE_OF, OTHER_NODE, HOME6, CARE_OF6, OTHER_NODE6].filter(
    (node) => node !== bench.node && node !== bench.other,
  );
  return bench
    .claim(BINDING, HOME, SERVICE_PORT)
    .claim(BINDING, HOME6, SERVICE_PORT)
    .allow(...nodes);
}
