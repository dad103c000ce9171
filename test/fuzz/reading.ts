/*
 * Reads what a frame is, without any of the product's code and without allocating: what the fuzz run believes of a packet.
 * Offsets are from the start of the buffer that the frame lies in.
 */

export const Fragment = { none: 0, first: 1, later: 2 } as const;
export const Tag = { none: 0, priority: 1, vlan: 2 } as const;

/** RFC 8200, 4.1, names six kinds. */
const MOST_EXTENSIONS = 6;

export const u8 = (bytes: Uint8Array, at: number): number => bytes[at] as number;
export const u16 = (bytes: Uint8Array, at: number): number => (u8(bytes, at) << 8) | u8(bytes, at + 1);
export const u32 = (bytes: Uint8Array, at: number): number => ((u16(bytes, at) << 16) | u16(bytes, at + 2)) >>> 0;

/** One's complement sum of big-endian words from `from` to `to`, folded; an odd last byte counts as a word's first. */
export function onesSum(bytes: Uint8Array, from: number, to: number, start = 0): number {
  let sum = start;
  let at = from;
  for (; at + 1 < to; at += 2) sum += u16(bytes, at);
  if (at < to) sum += u8(bytes, at) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

export class Reading {
  /** Its headers are all there and agree with each other; false as well where it is not IP. */
  valid = false;
  tag: number = Tag.none;
  /** 4 or 6; 0: not IP. */
  family = 0;
  l3 = 0;
  l4 = 0;
  /** Behind the packet, by its own length field. */
  packetEnd = 0;
  protocol = 0;
  tos = 0;
  ttl = 0;
  df = false;
  fragment: number = Fragment.none;
  /** Offsets of the addresses, 4 or 16 bytes long. */
  source = 0;
  destination = 0;
  sourcePort = 0;
  destinationPort = 0;
  syn = false;
  /** There were IP options or extension headers. */
  unusual = false;
  /** IPv6: it has not come to the end of its route, or has more extension headers than anybody sends. */
  beyond = false;

  /** The frame that lies between `from` and `end`. */
  readFrame(bytes: Uint8Array, from: number, end: number): this {
    this.tag = Tag.none;
    this.family = 0;
    this.valid = false;
    if (from + 14 > end) return this;
    let at = from + 12;
    for (let tags = 0; tags < 2 && (u16(bytes, at) === 0x8100 || u16(bytes, at) === 0x88a8); tags++) {
      if (at + 6 > end) return this;
      const id = u16(bytes, at + 2) & 0xfff;
      this.tag = id !== 0 || this.tag === Tag.vlan ? Tag.vlan : Tag.priority;
      at += 4;
    }
    const type = u16(bytes, at);
    if (type === 0x0800) return this.readIpv4(bytes, at + 2, end);
    if (type === 0x86dd) return this.readIpv6(bytes, at + 2, end);
    return this;
  }

  /** The packet at `at`, by the version in its first bits. A quoted one may be cut off behind its ports. */
  readIp(bytes: Uint8Array, at: number, end: number, quoted = false): this {
    this.family = 0;
    this.valid = false;
    if (at >= end) return this;
    return u8(bytes, at) >> 4 === 6 ? this.readIpv6(bytes, at, end, quoted) : this.readIpv4(bytes, at, end, quoted);
  }

  private readIpv4(bytes: Uint8Array, at: number, end: number, quoted = false): this {
    this.family = 4;
    this.valid = false;
    this.l3 = at;
    if (at + 20 > end || u8(bytes, at) >> 4 !== 4) return this;
    const header = (u8(bytes, at) & 15) * 4;
    if (header < 20) return this;
    this.l4 = at + header;
    this.packetEnd = at + u16(bytes, at + 2);
    this.tos = u8(bytes, at + 1);
    this.ttl = u8(bytes, at + 8);
    this.protocol = u8(bytes, at + 9);
    const flags = u16(bytes, at + 6);
    this.df = (flags & 0x4000) !== 0;
    this.fragment = (flags & 0x1fff) !== 0 ? Fragment.later : (flags & 0x2000) !== 0 ? Fragment.first : Fragment.none;
    this.source = at + 12;
    this.destination = at + 16;
    this.unusual = header > 20;
    this.beyond = false;
    return this.readPorts(bytes, end, quoted);
  }

  private readIpv6(bytes: Uint8Array, at: number, end: number, quoted = false): this {
    this.family = 6;
    this.valid = false;
    this.l3 = at;
    if (at + 40 > end || u8(bytes, at) >> 4 !== 6) return this;
    this.packetEnd = at + 40 + u16(bytes, at + 4);
    this.tos = (u16(bytes, at) >> 4) & 0xff;
    this.ttl = u8(bytes, at + 7);
    this.df = true;
    this.fragment = Fragment.none;
    this.source = at + 8;
    this.destination = at + 24;
    this.unusual = false;
    let next = u8(bytes, at + 6);
    let offset = at + 40;
    let headers = 0;
    this.beyond = false;
    while (next === 0 || next === 43 || next === 44 || next === 51 || next === 60) {
      this.unusual = true;
      if (offset + 8 > end) return this;
      if (++headers > MOST_EXTENSIONS || (next === 43 && u8(bytes, offset + 3) > 0)) this.beyond = true;
      if (next === 44) {
        const word = u16(bytes, offset + 2);
        this.fragment = (word & 0xfff8) !== 0 ? Fragment.later : (word & 1) !== 0 ? Fragment.first : Fragment.none;
      }
      const words = u8(bytes, offset + 1);
      const length = next === 44 ? 8 : next === 51 ? (words + 2) * 4 : (words + 1) * 8;
      next = u8(bytes, offset);
      offset += length;
      if (this.fragment === Fragment.later) break;
    }
    this.protocol = next;
    this.l4 = offset;
    return this.readPorts(bytes, end, quoted);
  }

  private readPorts(bytes: Uint8Array, end: number, quoted: boolean): this {
    this.sourcePort = 0;
    this.destinationPort = 0;
    this.syn = false;
    const limit = quoted ? end : Math.min(end, this.packetEnd);
    if (!quoted && (this.packetEnd > end || this.packetEnd < this.l4)) return this;
    const transport = this.fragment !== Fragment.later && (this.protocol === 6 || this.protocol === 17);
    if (!transport) {
      this.valid = this.l4 <= limit;
      return this;
    }
    if (this.l4 + 8 > limit) return this;
    this.sourcePort = u16(bytes, this.l4);
    this.destinationPort = u16(bytes, this.l4 + 2);
    this.valid = true;
    if (this.protocol === 17 || quoted) return this;
    const header = (u8(bytes, this.l4 + 12) >> 4) * 4;
    this.valid = this.l4 + 20 <= limit && header >= 20 && this.l4 + header <= limit;
    if (this.valid) this.syn = (u8(bytes, this.l4 + 13) & 0x12) === 0x02;
    return this;
  }
}
