/*
 * Reads what tcpdump writes: the classic pcap format (draft-ietf-opsawg-pcap), Ethernet frames, IPv4, IPv6, TCP.
 */
import ipaddr from 'ipaddr.js';

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const MAGIC_NANOSECONDS = 0xa1b23c4d;
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
const LINKTYPE_ETHERNET = 1;
const IPV6_HEADER_BYTES = 40;
const IPV6_FRAGMENT = 44;

export interface Frame {
  /** Epoch milliseconds. */
  readonly at: number;
  readonly bytes: Buffer;
}

/** An IPv4 or IPv6 packet. */
export interface IpPacket {
  readonly at: number;
  readonly sourceMac: string;
  readonly destinationMac: string;
  readonly source: string;
  readonly destination: string;
  /** IANA protocol number: 1 ICMP, 4 IP in IP, 6 TCP, 41 IPv6 in IP, 58 ICMPv6. */
  readonly protocol: number;
  readonly fragment: boolean;
  readonly payload: Buffer;
}

export interface TcpSegment {
  readonly at: number;
  readonly sourceMac: string;
  readonly source: string;
  readonly destination: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: ReadonlySet<TcpFlag>;
  /** TSval of the timestamps option (RFC 7323, 3.2). */
  readonly timestamp?: number;
  readonly payload: Buffer;
}

export type TcpFlag = 'FIN' | 'SYN' | 'RST' | 'PSH' | 'ACK' | 'URG';
const FLAGS: readonly TcpFlag[] = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG'];

/**
 * The frames of a capture file, in the order of capture. A last record that is cut short is left out.
 * @throws {Error} when it is no pcap file of Ethernet frames, or a frame was not captured whole
 */
export function readPcap(file: Buffer): Frame[] {
  if (file.length < FILE_HEADER_BYTES) throw new Error('not a pcap file: too short');
  const little = [MAGIC_MICROSECONDS, MAGIC_NANOSECONDS].includes(file.readUInt32LE(0));
  const u32 = (offset: number): number => (little ? file.readUInt32LE(offset) : file.readUInt32BE(offset));
  const magic = u32(0);
  if (magic !== MAGIC_MICROSECONDS && magic !== MAGIC_NANOSECONDS) throw new Error('not a pcap file: wrong magic');
  if ((u32(20) & 0xffff) !== LINKTYPE_ETHERNET) throw new Error(`not Ethernet: link type ${u32(20)}`);
  const perMillisecond = magic === MAGIC_NANOSECONDS ? 1e6 : 1e3;
  const frames: Frame[] = [];
  for (let offset = FILE_HEADER_BYTES; offset + RECORD_HEADER_BYTES <= file.length; ) {
    const captured = u32(offset + 8);
    const end = offset + RECORD_HEADER_BYTES + captured;
    if (end > file.length) break;
    if (captured !== u32(offset + 12)) throw new Error('a frame was not captured whole: raise the snapshot length');
    frames.push({
      at: u32(offset) * 1000 + u32(offset + 4) / perMillisecond,
      bytes: file.subarray(offset + RECORD_HEADER_BYTES, end),
    });
    offset = end;
  }
  return frames;
}

/** The IPv4 packet in an Ethernet frame, without padding; undefined for another protocol, or one that is cut short. */
export function readIpv4({ at, bytes }: Frame): IpPacket | undefined {
  if (bytes.length < 34 || bytes.readUInt16BE(12) !== 0x0800) return undefined;
  const packet = bytes.subarray(14);
  const headerBytes = ((packet[0] ?? 0) & 0x0f) * 4;
  const totalBytes = packet.readUInt16BE(2);
  if ((packet[0] ?? 0) >> 4 !== 4 || headerBytes < 20 || totalBytes < headerBytes || totalBytes > packet.length) {
    return undefined;
  }
  return {
    at,
    destinationMac: mac(bytes.subarray(0, 6)),
    sourceMac: mac(bytes.subarray(6, 12)),
    source: packet.subarray(12, 16).join('.'),
    destination: packet.subarray(16, 20).join('.'),
    protocol: packet[9] ?? 0,
    fragment: (packet.readUInt16BE(6) & 0x3fff) !== 0,
    payload: packet.subarray(headerBytes, totalBytes),
  };
}

/** The IPv6 packet in an Ethernet frame, like {@link readIpv4}. An extension header counts as its payload. */
export function readIpv6({ at, bytes }: Frame): IpPacket | undefined {
  if (bytes.length < 54 || bytes.readUInt16BE(12) !== 0x86dd) return undefined;
  const packet = bytes.subarray(14);
  const end = IPV6_HEADER_BYTES + packet.readUInt16BE(4);
  if ((packet[0] ?? 0) >> 4 !== 6 || end > packet.length) return undefined;
  return {
    at,
    destinationMac: mac(bytes.subarray(0, 6)),
    sourceMac: mac(bytes.subarray(6, 12)),
    source: ipaddr.fromByteArray([...packet.subarray(8, 24)]).toString(),
    destination: ipaddr.fromByteArray([...packet.subarray(24, 40)]).toString(),
    protocol: packet[6] ?? 0,
    fragment: packet[6] === IPV6_FRAGMENT,
    payload: packet.subarray(IPV6_HEADER_BYTES, end),
  };
}

/** The TCP segment in an IP packet; undefined for another protocol, a fragment, or one that is cut short. */
export function readTcp(packet: IpPacket): TcpSegment | undefined {
  const { payload: bytes } = packet;
  if (packet.protocol !== 6 || packet.fragment || bytes.length < 20) return undefined;
  const headerBytes = ((bytes[12] ?? 0) >> 4) * 4;
  if (headerBytes < 20 || headerBytes > bytes.length) return undefined;
  const bits = bytes[13] ?? 0;
  const timestamp = timestampOf(bytes.subarray(20, headerBytes));
  return {
    at: packet.at,
    sourceMac: packet.sourceMac,
    source: packet.source,
    destination: packet.destination,
    sourcePort: bytes.readUInt16BE(0),
    destinationPort: bytes.readUInt16BE(2),
    sequence: bytes.readUInt32BE(4),
    acknowledgement: bytes.readUInt32BE(8),
    flags: new Set(FLAGS.filter((_flag, bit) => (bits & (1 << bit)) !== 0)),
    ...(timestamp === undefined ? {} : { timestamp }),
    payload: bytes.subarray(headerBytes),
  };
}

/** Kind 8: kind, length 10, TSval, TSecr. Kinds 0 and 1, the end and the filler, have no length. */
function timestampOf(options: Buffer): number | undefined {
  for (let offset = 0; offset < options.length; ) {
    const kind = options[offset] ?? 0;
    if (kind === 0) return undefined;
    if (kind === 8 && offset + 10 <= options.length) return options.readUInt32BE(offset + 2);
    offset += kind === 1 ? 1 : Math.max(2, options[offset + 1] ?? 2);
  }
  return undefined;
}

function mac(bytes: Buffer): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
