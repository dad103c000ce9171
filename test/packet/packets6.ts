/* Builds and reads IPv6 packets (RFC 8200), as packets.ts does IPv4's. */
import ipaddr from 'ipaddr.js';
import { checksum, Protocol, readIpv4, type Segment } from './packets.js';

export const Extension = { hopByHop: 0, routing: 43, fragment: 44, authentication: 51, destination: 60 } as const;
export const ICMP6 = 58;
const NO_NEXT = 59;

/** An extension header; `body` is what follows its first two bytes (next header, length). */
export interface ExtensionHeader {
  readonly kind: number;
  readonly body: Uint8Array;
}

export interface Ipv6Fields {
  readonly source: string;
  readonly destination: string;
  readonly trafficClass?: number;
  readonly flowLabel?: number;
  readonly hopLimit?: number;
  readonly extensions?: readonly ExtensionHeader[];
  /** What the header claims, when it lies. */
  readonly payloadLength?: number;
}

const address = (text: string): Buffer => Buffer.from(ipaddr.IPv6.parse(text).toByteArray());

/** Options padded to `length` bytes with PadN (RFC 8200, 4.2). */
export function options(kind: number, length = 8): ExtensionHeader {
  return { kind, body: Buffer.concat([Buffer.from([1, length - 4]), Buffer.alloc(length - 4)]) };
}

/** A fragment header (RFC 8200, 4.5); the offset in units of 8 bytes. */
export function fragment(id: number, offset: number, more: boolean): ExtensionHeader {
  const body = Buffer.alloc(6);
  body.writeUInt16BE((offset << 3) | (more ? 1 : 0), 0);
  body.writeUInt32BE(id, 2);
  return { kind: Extension.fragment, body };
}

/** A routing header without data but its segments left. */
export function routing(type: number, segmentsLeft: number): ExtensionHeader {
  return { kind: Extension.routing, body: Buffer.from([type, segmentsLeft, 0, 0, 0, 0]) };
}

/** An authentication header (RFC 4302) of 24 bytes; its length is in words of 4 bytes. */
export function authentication(): ExtensionHeader {
  return { kind: Extension.authentication, body: Buffer.alloc(22, 7) };
}

/** The packet; TCP's, UDP's and ICMPv6's checksums cover the addresses (RFC 8200, 8.1). */
export function ipv6(fields: Ipv6Fields, segment: Segment): Buffer {
  const { trafficClass = 0, flowLabel = 0, hopLimit = 57, extensions = [] } = fields;
  const headers = extensions.map(({ kind, body }, index) => {
    const next = extensions[index + 1]?.kind ?? segment.protocol;
    const length = kind === Extension.authentication ? (body.length + 2) / 4 - 2 : (body.length + 2) / 8 - 1;
    return Buffer.concat([Buffer.from([next, kind === Extension.fragment ? 0 : length]), body]);
  });
  const bytes = Buffer.from(segment.bytes);
  const pseudo = pseudoHeader(address(fields.source), address(fields.destination), segment.protocol, bytes.length);
  if (segment.checksumOffset !== undefined) bytes.writeUInt16BE(checksum(pseudo, bytes), segment.checksumOffset);
  const payload = Buffer.concat([...headers, bytes]);
  const header = Buffer.alloc(8);
  header.writeUInt32BE(0x6000_0000 + trafficClass * 0x10_0000 + flowLabel, 0);
  header.writeUInt16BE(fields.payloadLength ?? payload.length, 4);
  header[6] = extensions[0]?.kind ?? segment.protocol;
  header[7] = hopLimit;
  return Buffer.concat([header, address(fields.source), address(fields.destination), payload]);
}

function pseudoHeader(source: Buffer, destination: Buffer, protocol: number, length: number): Buffer {
  return Buffer.concat([source, destination, Buffer.from([0, 0, length >> 8, length & 0xff, 0, 0, 0, protocol])]);
}

/** An ICMPv6 message (RFC 4443); `rest` is the second word of its header. */
export function icmp6(type: number, code: number, rest: number, payload: Uint8Array): Segment {
  const message = Buffer.concat([Buffer.from([type, code, 0, 0, 0, 0, 0, 0]), payload]);
  message.writeUInt32BE(rest, 4);
  return { protocol: ICMP6, bytes: message, checksumOffset: 2 };
}

/** A whole IPv6 packet as the payload of another packet (RFC 2473, RFC 4213). */
export function ip6ip(packet: Buffer): Segment {
  return { protocol: Protocol.ipv6, bytes: packet };
}

export const noNextHeader: Segment = { protocol: NO_NEXT, bytes: Buffer.alloc(8) };

export interface IpPacket {
  readonly version: 4 | 6;
  /** TOS or traffic class. */
  readonly tos: number;
  /** TTL or hop limit. */
  readonly ttl: number;
  /** Of what follows the IP header, without extension headers. */
  readonly protocol: number;
  readonly source: string;
  readonly destination: string;
  readonly totalLength: number;
  readonly payload: Buffer;
  /** 0 of IPv4. */
  readonly flowLabel: number;
  /** True of IPv6. */
  readonly df: boolean;
}

/** Reads an IPv6 packet. Throws when it is cut off, or its TCP or ICMPv6 checksum is wrong. */
export function readIpv6(packet: Buffer): IpPacket {
  const totalLength = 40 + packet.readUInt16BE(4);
  if ((packet[0] ?? 0) >> 4 !== 6 || totalLength > packet.length) throw new Error('not a whole IPv6 packet');
  const protocol = packet[6] ?? 0;
  const payload = packet.subarray(40, totalLength);
  const [source, destination] = [packet.subarray(8, 24), packet.subarray(24, 40)];
  const checked = protocol === Protocol.tcp || protocol === ICMP6;
  if (checked && checksum(pseudoHeader(source, destination, protocol, payload.length), payload) !== 0) {
    throw new Error(`wrong checksum of protocol ${protocol}`);
  }
  const text = (bytes: Buffer): string => ipaddr.fromByteArray([...bytes]).toString();
  return {
    version: 6,
    tos: (packet.readUInt32BE(0) >>> 20) & 0xff,
    ttl: packet[7] ?? 0,
    protocol,
    source: text(source),
    destination: text(destination),
    totalLength,
    payload,
    flowLabel: packet.readUInt32BE(0) & 0xfffff,
    df: true,
  };
}

/** Reads a packet of either version; see `readIpv4` and `readIpv6`. */
export function readIp(packet: Buffer): IpPacket {
  if ((packet[0] ?? 0) >> 4 === 6) return readIpv6(packet);
  return { version: 4, flowLabel: 0, ...readIpv4(packet) };
}
