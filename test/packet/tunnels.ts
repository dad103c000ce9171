/* Packets in the four kinds of tunnels: over IPv4 or IPv6, with an IP header alone or with UDP (GUE variant 1). */

import { TUNNEL_PORT } from './bench.js';
import { ipv4, readEthernet, udp } from './packets.js';
import { type IpPacket, ipv6, readIp } from './packets6.js';
import {
  CARE_OF,
  CARE_OF6,
  HOME,
  HOME6,
  OTHER_NODE,
  OTHER_NODE6,
  STRANGER,
  STRANGER6,
  tunnelSegment,
} from './scene.js';

export interface Kind {
  readonly name: string;
  readonly family: 4 | 6;
  readonly encapsulation: 'ip' | 'udp';
  /** Bytes that it puts before a packet. */
  readonly overhead: number;
}

export const kinds: readonly Kind[] = [
  { name: 'IPv4', family: 4, encapsulation: 'ip', overhead: 20 },
  { name: 'UDP over IPv4', family: 4, encapsulation: 'udp', overhead: 28 },
  { name: 'IPv6', family: 6, encapsulation: 'ip', overhead: 40 },
  { name: 'UDP over IPv6', family: 6, encapsulation: 'udp', overhead: 48 },
];

/** The cast by the family of the outer header. */
const CAST = {
  4: { home: HOME, careOf: CARE_OF, otherNode: OTHER_NODE, stranger: STRANGER, nobody: '10.0.0.50' },
  6: { home: HOME6, careOf: CARE_OF6, otherNode: OTHER_NODE6, stranger: STRANGER6, nobody: '2001:db8::50' },
} as const;
type Role = keyof (typeof CAST)[4];

export const addressOf = ({ family }: Kind, role: Role): string => CAST[family][role];

export interface OuterFields {
  readonly from?: Role;
  readonly to?: Role;
  readonly ttl?: number;
  /** Default: the inner packet's. */
  readonly tos?: number;
  readonly sourcePort?: number;
  readonly port?: number;
  readonly flowLabel?: number;
  /** Default none. */
  readonly udpChecksum?: number;
}

/** The packet as a node puts it into a tunnel of that kind. */
export function inTunnel(kind: Kind, inner: Buffer, fields: OuterFields = {}): Buffer {
  const { from = 'home', to = 'careOf', ttl = 64, sourcePort = 50_000, port = TUNNEL_PORT, udpChecksum = 0 } = fields;
  const [source, destination] = [addressOf(kind, from), addressOf(kind, to)];
  const tos = fields.tos ?? readTos(inner);
  const datagram = Buffer.from(udp(sourcePort, port, inner).bytes);
  datagram.writeUInt16BE(udpChecksum, 6);
  const segment = kind.encapsulation === 'udp' ? { protocol: 17, bytes: datagram } : tunnelSegment(inner);
  if (kind.family === 4) return ipv4({ source, destination, ttl, tos, id: 0 }, segment);
  const { flowLabel = 0 } = fields;
  return ipv6({ source, destination, hopLimit: ttl, trafficClass: tos, flowLabel }, segment);
}

function readTos(packet: Buffer): number {
  return (packet[0] ?? 0) >> 4 === 6 ? (packet.readUInt16BE(0) >> 4) & 0xff : (packet[1] ?? 0);
}

/** What a tunnelled frame has of its own choice: a number per flow. Throws when the port is not a dynamic one (RFC 6335). */
export function entropyOf(kind: Kind, frame: Buffer): { sourcePort: number; flowLabel: number } {
  const { outer, sourcePort } = readTunnel(kind, frame);
  if (kind.encapsulation === 'udp' && sourcePort < 49_152) throw new Error(`source port ${sourcePort}`);
  return { sourcePort, flowLabel: outer.flowLabel };
}

/** The outer header, and the packet inside. Throws when the outer packet is not valid. */
export function readTunnel(kind: Kind, frame: Buffer): { outer: IpPacket; sourcePort: number; inner: Buffer } {
  const outer = readIp(readEthernet(frame).payload);
  if (kind.encapsulation === 'ip') return { outer, sourcePort: 0, inner: outer.payload };
  if (outer.payload.readUInt16BE(4) !== outer.payload.length) throw new Error('wrong UDP length');
  return { outer, sourcePort: outer.payload.readUInt16BE(0), inner: outer.payload.subarray(8) };
}
