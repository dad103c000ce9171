/*
 * Builds and reads packets, byte by byte and without any of the product's code, so that the two can disagree.
 * Everything a builder leaves out has a valid default; checksums are right unless a test spoils them.
 */

export const Protocol = { icmp: 1, ipip: 4, tcp: 6, udp: 17, ipv6: 41 } as const;
/** ECN codepoints, the two low bits of the TOS byte (RFC 3168). */
export const Ecn = { notEct: 0, ect1: 1, ect0: 2, ce: 3 } as const;

/** What an IP header carries. */
export interface Segment {
  readonly protocol: number;
  readonly bytes: Buffer;
  /** Where its checksum is, when it covers the addresses too (TCP, UDP). */
  readonly checksumOffset?: number;
}

export interface EthernetFields {
  readonly source?: string;
  readonly destination?: string;
  readonly type?: number;
}

export interface Ipv4Fields {
  readonly source: string;
  readonly destination: string;
  readonly tos?: number;
  readonly id?: number;
  readonly ttl?: number;
  readonly df?: boolean;
  readonly mf?: boolean;
  /** In units of 8 bytes. */
  readonly fragmentOffset?: number;
  /** A multiple of 4 bytes. */
  readonly options?: Uint8Array;
  /** What the header claims, when it lies. */
  readonly totalLength?: number;
}

export interface TcpFields {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly sequence?: number;
  readonly acknowledgement?: number;
  /** For example `SA`: any of F, S, R, P, A. */
  readonly flags?: string;
  readonly payload?: Uint8Array;
}

/** One's complement sum of 16-bit words, folded and inverted (RFC 1071); 0 over data that holds its right checksum. */
export function checksum(...parts: readonly Uint8Array[]): number {
  const bytes = Buffer.concat(parts);
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) sum += (bytes[i] ?? 0) << (i % 2 === 0 ? 8 : 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}

function mac(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

function ip(text: string): Buffer {
  return Buffer.from(text.split('.').map(Number));
}

export const MAC = {
  correspondent: '02:00:00:00:00:01',
  home: '02:00:00:00:00:02',
  careOf: '02:00:00:00:00:03',
  pod: '02:00:00:00:0f:01',
  podHost: '02:00:00:00:0f:02',
} as const;

export function ethernet(fields: EthernetFields, payload: Uint8Array): Buffer {
  const { source = MAC.correspondent, destination = MAC.home, type = 0x0800 } = fields;
  const typeBytes = Buffer.alloc(2);
  typeBytes.writeUInt16BE(type);
  return Buffer.concat([mac(destination), mac(source), typeBytes, payload]);
}

/** A frame with VLAN tags, outermost first, as (type, priority and VLAN id); the packet is IPv4 unless `type` says otherwise. */
export function tagged(tags: readonly (readonly [number, number])[], payload: Uint8Array, type = 0x0800): Buffer {
  const bytes = Buffer.alloc(4 * tags.length);
  tags.forEach(([, control], index) => {
    bytes.writeUInt16BE(control, 4 * index);
    bytes.writeUInt16BE(tags[index + 1]?.[0] ?? type, 4 * index + 2);
  });
  return ethernet({ type: tags[0]?.[0] ?? type }, Buffer.concat([bytes, payload]));
}

export function ipv4(fields: Ipv4Fields, segment: Segment): Buffer {
  const { tos = 0, id = 0x1234, ttl = 57, df = true, mf = false, fragmentOffset = 0, options } = fields;
  const header = Buffer.alloc(20 + (options?.length ?? 0));
  header[0] = 0x40 | (header.length / 4);
  header[1] = tos;
  header.writeUInt16BE(fields.totalLength ?? header.length + segment.bytes.length, 2);
  header.writeUInt16BE(id, 4);
  header.writeUInt16BE((df ? 0x4000 : 0) | (mf ? 0x2000 : 0) | fragmentOffset, 6);
  header[8] = ttl;
  header[9] = segment.protocol;
  ip(fields.source).copy(header, 12);
  ip(fields.destination).copy(header, 16);
  if (options !== undefined) header.set(options, 20);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([header, withChecksum(header, segment)]);
}

function withChecksum(header: Buffer, { protocol, bytes, checksumOffset }: Segment): Buffer {
  if (checksumOffset === undefined) return bytes;
  const sealed = Buffer.from(bytes);
  sealed.writeUInt16BE(checksum(pseudoHeader(header, protocol, bytes.length), sealed), checksumOffset);
  return sealed;
}

function pseudoHeader(header: Buffer, protocol: number, length: number): Buffer {
  return Buffer.concat([header.subarray(12, 20), Buffer.from([0, protocol, length >> 8, length & 0xff])]);
}

const FLAGS = 'FSRPA';

export function tcp(fields: TcpFields): Segment {
  const { sequence = 0x01020304, acknowledgement = 0x05060708, flags = 'A', payload = Buffer.alloc(0) } = fields;
  const header = Buffer.alloc(20);
  header.writeUInt16BE(fields.sourcePort, 0);
  header.writeUInt16BE(fields.destinationPort, 2);
  header.writeUInt32BE(sequence, 4);
  header.writeUInt32BE(acknowledgement, 8);
  header[12] = 0x50;
  header[13] = [...flags].reduce((bits, flag) => bits | (1 << FLAGS.indexOf(flag)), 0);
  header.writeUInt16BE(0xfaf0, 14);
  return { protocol: Protocol.tcp, bytes: Buffer.concat([header, payload]), checksumOffset: 16 };
}

export function udp(sourcePort: number, destinationPort: number, payload: Uint8Array = Buffer.from('hello')): Segment {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(sourcePort, 0);
  header.writeUInt16BE(destinationPort, 2);
  header.writeUInt16BE(8 + payload.length, 4);
  return { protocol: Protocol.udp, bytes: Buffer.concat([header, payload]), checksumOffset: 6 };
}

/** An ICMP message; `rest` is the second word of its header (for "fragmentation needed": the MTU). */
export function icmp(type: number, code: number, rest: number, payload: Uint8Array): Segment {
  const message = Buffer.concat([Buffer.from([type, code, 0, 0, 0, 0, 0, 0]), payload]);
  message.writeUInt32BE(rest, 4);
  message.writeUInt16BE(checksum(message), 2);
  return { protocol: Protocol.icmp, bytes: message };
}

/** A whole IP packet as the payload of another (RFC 2003). */
export function ipip(packet: Buffer): Segment {
  return { protocol: Protocol.ipip, bytes: packet };
}

export interface Ipv4Packet {
  readonly tos: number;
  readonly totalLength: number;
  readonly id: number;
  readonly df: boolean;
  readonly ttl: number;
  readonly protocol: number;
  readonly source: string;
  readonly destination: string;
  readonly payload: Buffer;
}

/** Reads an IP packet. Throws when it is cut off or its header checksum, or its TCP or ICMP checksum, is wrong. */
export function readIpv4(packet: Buffer): Ipv4Packet {
  const headerLength = ((packet[0] ?? 0) & 15) * 4;
  const totalLength = packet.readUInt16BE(2);
  if ((packet[0] ?? 0) >> 4 !== 4 || totalLength > packet.length) throw new Error('not a whole IPv4 packet');
  const header = packet.subarray(0, headerLength);
  if (checksum(header) !== 0) throw new Error('wrong IPv4 header checksum');
  const protocol = packet[9] ?? 0;
  const payload = packet.subarray(headerLength, totalLength);
  const whole = (packet.readUInt16BE(6) & 0x3fff) === 0;
  if (protocol === Protocol.tcp && whole && checksum(pseudoHeader(header, protocol, payload.length), payload) !== 0) {
    throw new Error('wrong TCP checksum');
  }
  if (protocol === Protocol.icmp && checksum(payload) !== 0) throw new Error('wrong ICMP checksum');
  return {
    tos: packet[1] ?? 0,
    totalLength,
    id: packet.readUInt16BE(4),
    df: (packet.readUInt16BE(6) & 0x4000) !== 0,
    ttl: packet[8] ?? 0,
    protocol,
    source: [...packet.subarray(12, 16)].join('.'),
    destination: [...packet.subarray(16, 20)].join('.'),
    payload,
  };
}

export interface Frame {
  readonly destination: string;
  readonly source: string;
  readonly type: number;
  readonly payload: Buffer;
}

export function readEthernet(frame: Buffer): Frame {
  const text = (bytes: Buffer): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
  return {
    destination: text(frame.subarray(0, 6)),
    source: text(frame.subarray(6, 12)),
    type: frame.readUInt16BE(12),
    payload: frame.subarray(14),
  };
}
