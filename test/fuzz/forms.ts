import ipaddr from 'ipaddr.js';
import type { ProgramName } from '../packet/bench.js';
import { checkCarried } from './carried.js';
import { TUNNEL_PORT } from './cast.js';
import { isFromHere } from './hearing.js';
import { onesSum, Reading, u8, u16, u32 } from './reading.js';
import type { Scene } from './scenes.js';

/** One packet's way through a program: what went in, what came out. */
export class Passage {
  /** The packet as it came, and what it carries. */
  readonly outer = new Reading();
  readonly inner = new Reading();
  /** `inner`, when the packet is a known node's tunnel. */
  tunnel: Reading | undefined;
  /** The outer header that an ICMP error quotes, when the error says that a tunnel packet of this node did not fit. */
  news: Reading | undefined;
  /** Bytes of tunnel packet that fit the way to the care-of address, as far as this node has learnt it. */
  mtu: number;
  output: Uint8Array = new Uint8Array();
  outFrom = 0;
  outEnd = 0;

  constructor(
    readonly scene: Scene,
    readonly program: ProgramName,
    readonly input: Uint8Array,
    readonly from: number,
    readonly end: number,
    /** Of a super-packet: bytes of each of its segments; 0: a plain packet. */
    readonly gsoSize = 0,
  ) {
    this.mtu = scene.binding.mtu;
  }

  /** The packet itself, whether it came in a tunnel or not. */
  get packet(): Reading {
    return this.tunnel ?? this.outer;
  }

  cameOut(output: Uint8Array, from: number, size: number): this {
    this.output = output;
    this.outFrom = from;
    this.outEnd = from + size;
    return this;
  }

  /** Whether what came out is what went in. */
  same(): boolean {
    if (this.end - this.from !== this.outEnd - this.outFrom) return false;
    return (this.input as Buffer).compare(this.output, this.outFrom, this.outEnd, this.from, this.end) === 0;
  }
}

/** A frame on its way in. */
export function passageOf(scene: Scene, frame: Uint8Array): Passage {
  return new Passage(scene, scene.program, frame, 0, frame.length);
}

const MAC_POD = [0x02, 0, 0, 0, 0x0f, 0x01, 0x02, 0, 0, 0, 0x0f, 0x02];
/** As on `lo`. */
const MAC_NONE = new Array<number>(12).fill(0);
/** Of bpf/homeward.h, twice. */
const MAC_HOMEWARD = [0x02, 0x68, 0x6f, 0x6d, 0x65, 0, 0x02, 0x68, 0x6f, 0x6d, 0x65, 0];
const MAC_ONWARD = [0x02, 0, 0, 0, 0, 0x03, 0x02, 0, 0, 0, 0, 0x02];
const OUTER_TTL = 64;

const LEAST_MTU_IPV4 = 576;
const LEAST_MTU_IPV6 = 1280;
/** A tunnel's flows are told apart by ports from here on (RFC 6335, 6). */
const FLOW_PORTS = 49_152;
/** Of the namespace's loopback, by which everything arrives, less an outer header with UDP. */
const MTU_OF_ARRIVALS = 65_536 - 28;

const addressOf = (text: string): Uint8Array => Uint8Array.from(ipaddr.parse(text).toByteArray());
const isAt = (bytes: Uint8Array, at: number, expected: Uint8Array): boolean =>
  expected.every((byte, index) => u8(bytes, at + index) === byte);

/** Bytes that the binding's tunnel puts before a packet. */
export function overhead({ binding }: Scene): number {
  return (binding.careOf.includes(':') ? 40 : 20) + (binding.encapsulation === 'udp' ? 8 : 0);
}

const leastMtu = (family: number, mtu: number): number => Math.max(mtu, family === 6 ? LEAST_MTU_IPV6 : LEAST_MTU_IPV4);

/** RFC 6040, figure 4; -1: to be dropped. */
function ecnAfterTunnel(inner: number, outer: number): number {
  const [own, met] = [inner & 3, outer & 3];
  if (met === 3) return own === 0 ? -1 : inner | 3;
  return met === 1 && own === 2 ? (inner & 0xfc) | 1 : inner;
}

function macs(passage: Passage, expected: readonly number[]): string | undefined {
  for (let i = 0; i < 12; i++) {
    if (u8(passage.output, passage.outFrom + i) !== expected[i])
      return 'the MAC addresses are not those of the next hop';
  }
  return undefined;
}

/** A header of 20 bytes whose checksum is right, of a packet that fills the frame up to padding. */
function header4(passage: Passage, at: number, total: number): string | undefined {
  const { output, outEnd } = passage;
  if (at + 20 > outEnd || u8(output, at) !== 0x45) return 'there is no outer IPv4 header';
  if (onesSum(output, at, at + 20) !== 0xffff) return 'the checksum of the outer header is wrong';
  if (u16(output, at + 2) !== total) return `the outer header says ${u16(output, at + 2)} bytes, not ${total}`;
  return at + total > outEnd ? 'the outer packet is longer than its frame' : undefined;
}

/** The IPv6 header, of a packet that fills the frame up to padding. */
function header6(passage: Passage, at: number, total: number): string | undefined {
  const { output, outEnd } = passage;
  if (at + 40 > outEnd || u8(output, at) >> 4 !== 6) return 'there is no outer IPv6 header';
  if (u16(output, at + 4) + 40 !== total)
    return `the outer header says ${u16(output, at + 4) + 40} bytes, not ${total}`;
  return at + total > outEnd ? 'the outer packet is longer than its frame' : undefined;
}

/**
 *    14     20 or 40                8              the packet as it came
 *   +-----+----------------------+---------------+----------------------+
 *   | Eth | node -> care-of      | UDP, perhaps  | IPv4 or IPv6 ...     |
 *   +-----+----------------------+---------------+----------------------+
 *
 * @param length bytes of the packet inside
 */
function checkOuter(passage: Passage, length: number): string | undefined {
  const { scene, output, outFrom, outer, tunnel, packet } = passage;
  const { binding } = scene;
  const at = outFrom + 14;
  const six = binding.careOf.includes(':');
  const udp = binding.encapsulation === 'udp';
  const total = length + overhead(scene);
  // Of an unresolved one the kernel makes the Ethernet header.
  if (binding.resolved && u16(output, outFrom + 12) !== (six ? 0x86dd : 0x0800)) return "its type is not the tunnel's";
  const header = six ? header6(passage, at, total) : header4(passage, at, total);
  if (header !== undefined) return header;
  const tos = tunnel === undefined ? outer.tos : ecnAfterTunnel(tunnel.tos, outer.tos);
  const own = six ? (u16(output, at) >> 4) & 0xff : u8(output, at + 1);
  if (own !== tos) return `the outer TOS is ${own}, not ${tos}`;
  if (!six && u16(output, at + 6) !== 0x4000) return 'the outer header must forbid fragments';
  const ttl = tunnel === undefined ? OUTER_TTL : outer.ttl - 1;
  if (u8(output, at + (six ? 7 : 8)) !== ttl) return `the outer TTL is ${u8(output, at + (six ? 7 : 8))}, not ${ttl}`;
  const protocol = udp ? 17 : packet.family === 6 ? 41 : 4;
  if (u8(output, at + (six ? 6 : 9)) !== protocol) return 'the outer protocol is wrong';
  const node = addressOf(six ? scene.node6 : scene.node);
  if (!isAt(output, at + (six ? 8 : 12), node)) return 'the outer source is not this node';
  if (!isAt(output, at + (six ? 24 : 16), addressOf(binding.careOf)))
    return 'the outer destination is not the care-of address';
  const wrongUdp = udp ? checkUdp(output, at + (six ? 40 : 20), length) : undefined;
  return wrongUdp ?? (binding.resolved ? macs(passage, MAC_ONWARD) : undefined);
}

/** GUE, variant 1: the packet directly behind UDP without a checksum. */
function checkUdp(output: Uint8Array, at: number, length: number): string | undefined {
  if (u16(output, at) < FLOW_PORTS) return 'the source port is not a dynamic one';
  if (u16(output, at + 2) !== TUNNEL_PORT) return 'it does not go to the port for tunnels';
  if (u16(output, at + 4) !== length + 8) return `UDP says ${u16(output, at + 4)} bytes, not ${length + 8}`;
  return u16(output, at + 6) === 0 ? undefined : 'UDP in a tunnel must go without a checksum';
}

/** In a tunnel, and the packet inside is as it came; but for the MSS of a SYN that this node itself says. */
export function checkTunnelled(passage: Passage): string | undefined {
  const { program } = passage;
  return checkInTunnel(passage, program === 'hp_loopback' || (program === 'hp_replay' && isFromHere(passage)));
}

/** In a reverse tunnel: what answers a SYN comes through one. */
export const checkIntoReverse = (passage: Passage): string | undefined => checkInTunnel(passage, true);

/** @param bothWays whether what answers the packet comes through a tunnel */
function checkInTunnel(passage: Passage, bothWays: boolean): string | undefined {
  const { scene, packet, mtu } = passage;
  const total = packet.packetEnd - packet.l3;
  const before = overhead(scene);
  if (passage.gsoSize === 0 && total + before > mtu) return `${total + before} bytes were sent where ${mtu} fit`;
  const at = passage.outFrom + 14 + before;
  return checkOuter(passage, total) ?? checkCarried(passage, packet, at, bothWays ? { mtu: mtu - before } : {});
}

/** Whether a packet must go in pieces if it goes at all: IPv4 whose sender allows it, and too long. */
export function needsSplit({ scene, packet, mtu, gsoSize }: Passage): boolean {
  const total = packet.packetEnd - packet.l3;
  const plain = packet.family === 4 && !packet.df && packet.l4 - packet.l3 === 20;
  return plain && gsoSize === 0 && total + overhead(scene) > mtu;
}

/** The last piece of a packet that went through the tunnel in several (RFC 791, 3.2); the others left as clones. */
export function checkSplit(passage: Passage): string | undefined {
  const { scene, input, output, outFrom, outEnd, packet, mtu } = passage;
  if (!needsSplit(passage)) return 'it needed no split, or forbade it';
  const before = overhead(scene);
  const at = outFrom + 14 + before;
  const total = outEnd - at;
  const start = packet.packetEnd - packet.l4 - (total - 20);
  if (total <= 20 || start <= 0 || start % 8 !== 0) return `a last piece of ${total} bytes cannot be`;
  if (total + before > mtu) return `a piece of ${total + before} bytes was sent where ${mtu} fit`;
  const outer = checkOuter(passage, total);
  if (outer !== undefined) return outer;
  const header = Buffer.from(input.subarray(packet.l3, packet.l4));
  const fragment = u16(header, 6);
  if ((fragment & 0x1fff) + start / 8 > 0x1fff) return 'a piece lies beyond the end of every datagram';
  header.writeUInt16BE(total, 2);
  header.writeUInt16BE(fragment + start / 8, 6);
  header.writeUInt16BE(u16(output, at + 10), 10);
  if (onesSum(output, at, at + 20) !== 0xffff) return 'the checksum of the piece is wrong';
  if (header.compare(output, at, at + 20) !== 0) return 'the header of the piece is not that of the packet';
  const same = (input as Buffer).compare(output, at + 20, outEnd, packet.l4 + start, packet.packetEnd) === 0;
  return same ? undefined : 'the bytes of the piece are not those of the packet';
}

/** Without the outer header, if it had one; into a pod, or on to the local stack and the queue. */
export function checkDelivered(passage: Passage, pod: object | undefined, mtu?: number): string | undefined {
  const { output, outFrom, outer, tunnel, packet } = passage;
  const type = packet.family === 6 ? 0x86dd : 0x0800;
  if (u16(output, outFrom + 12) !== type) return 'its type is not that of the packet';
  const wrongMacs = pod === undefined ? undefined : macs(passage, MAC_POD);
  if (wrongMacs !== undefined) return wrongMacs;
  const tos = tunnel === undefined ? packet.tos : ecnAfterTunnel(tunnel.tos, outer.tos);
  if (tos < 0) return 'congestion cannot be told to it: it must be dropped';
  return checkCarried(passage, packet, outFrom + 14, { tos, ...(mtu === undefined ? {} : { mtu }) });
}

/** At home: out of the reverse tunnel, and on; what answers a SYN must fit into the tunnel. */
export function checkReversed(passage: Passage): string | undefined {
  if (passage.tunnel === undefined) return 'it did not come through a tunnel';
  return checkDelivered(passage, undefined, passage.mtu - overhead(passage.scene));
}

/** A pod's packet as it was said, whatever it is, but for the MSS of a SYN: what answers it comes through a tunnel. */
export function checkSent(passage: Passage): string | undefined {
  const { outer, outFrom } = passage;
  if (passage.same()) return undefined;
  return outer.valid
    ? checkCarried(passage, outer, outFrom + 14, { mtu: MTU_OF_ARRIVALS })
    : 'what cannot be read must not be touched';
}

/** Into the own stack as if over `lo`: out of the tunnel, if it came by one. */
export function checkLoopedBack(passage: Passage): string | undefined {
  return macs(passage, MAC_NONE) ?? checkDelivered(passage, undefined);
}

/** Back into this node's stack: by the uplink as it came or, said here, by `lo`. */
export function checkReplayed(passage: Passage): string | undefined {
  if (isFromHere(passage)) return checkOverLo(passage);
  return passage.same() ? undefined : 'what is replayed into the stack must not be touched';
}

/** Every byte as it came, but for the MAC addresses. */
function checkReaddressed(passage: Passage, expected: readonly number[]): string | undefined {
  const { input, from, end, output, outFrom, outEnd } = passage;
  const same = (input as Buffer).compare(output, outFrom + 12, outEnd, from + 12, end) === 0;
  return macs(passage, expected) ?? (same ? undefined : 'the bytes of the packet have changed');
}

/** The same packet as if it had come over `lo`. */
export const checkOverLo = (passage: Passage): string | undefined => checkReaddressed(passage, MAC_NONE);

/** Out of a pod, with the addresses by which hp_pod knows what is for the home. */
export const checkHomeward = (passage: Passage): string | undefined => checkReaddressed(passage, MAC_HOMEWARD);

/** "Too big" of the packet's family (RFC 1191; RFC 4443, 3.2), back to where the packet came from. */
export function checkAnswer(passage: Passage): string | undefined {
  const { packet, mtu, scene } = passage;
  return checkTooBig(passage, packet, packet.packetEnd, leastMtu(packet.family, mtu - overhead(scene)));
}

/** @param about the packet that it must quote, of which there is no more than up to `until` */
function checkTooBig(passage: Passage, about: Reading, until: number, mtu: number): string | undefined {
  const { input, from, output, outFrom, outEnd } = passage;
  const at = outFrom + 14;
  const total = outEnd - at;
  const six = about.family === 6;
  const icmp = at + (six ? 40 : 20);
  if (u16(output, outFrom + 12) !== (six ? 0x86dd : 0x0800)) return 'its type is not that of the answer';
  const header = six ? header6(passage, at, total) : header4(passage, at, total);
  if (header !== undefined) return header;
  const [protocol, kind] = six ? [u8(output, at + 6), 0x0200] : [u8(output, at + 9), 0x0304];
  if (protocol !== (six ? 58 : 1) || u16(output, icmp) !== kind) return 'it does not say "too big"';
  const length = six ? 16 : 4;
  const [source, destination] = [at + (six ? 8 : 12), at + (six ? 24 : 16)];
  if (!isAt(output, source, input.subarray(about.destination, about.destination + length)))
    return 'it does not come from the home address';
  if (!isAt(output, destination, input.subarray(about.source, about.source + length)))
    return 'it does not go to the correspondent';
  const pseudo = six ? onesSum(output, at + 8, at + 40, total - 40 + 58) : 0;
  if (onesSum(output, icmp, outEnd, pseudo) !== 0xffff) return 'the checksum of the ICMP message is wrong';
  if (u16(output, icmp + 4) !== 0 || u16(output, icmp + 6) !== mtu)
    return `it tells an MTU of ${u32(output, icmp + 4)}, not ${mtu}`;
  const swapped = [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5].every((other, i) => {
    return u8(output, outFrom + i) === u8(input, from + other);
  });
  if (!swapped) return 'the MAC addresses are not swapped';
  const quoted = Math.min(until - about.l3, (six ? LEAST_MTU_IPV6 : LEAST_MTU_IPV4) - (icmp + 8 - at));
  if (outEnd - icmp - 8 !== quoted) return `it quotes ${outEnd - icmp - 8} bytes, not ${quoted}`;
  const differs = (input as Buffer).compare(output, icmp + 8, outEnd, about.l3, about.l3 + quoted) !== 0;
  return differs ? 'it does not quote the packet' : undefined;
}

/** RFC 1191, 7.1: what a router too old to name an MTU must have meant. */
const usualMtuBelow = (length: number): number =>
  [8166, 4352, 2002, 1492, 1006].find((usual) => length > usual) ?? LEAST_MTU_IPV4;

/** The MTU that the news tells, in bytes of tunnel packet; undefined: they are no news to a node that sends where it sends. */
export function toldMtu(passage: Passage): number | undefined {
  const { scene, input, outer, news } = passage;
  if (news === undefined) return undefined;
  const { action, egress, careOf } = scene.binding;
  const total = news.packetEnd - news.l3;
  const mtu = u16(input, outer.l4 + 6) || usualMtuBelow(total);
  if (mtu >= total || (outer.family === 6 && u16(input, outer.l4 + 4) !== 0)) return undefined; // it would have fitted
  const used = action === 'tunnel' || scene.sharedAction === 'tunnel' || egress === 'tunnel';
  const care = addressOf(careOf);
  if (!used || care.length !== (news.family === 6 ? 16 : 4) || !isAt(input, news.destination, care)) return undefined;
  return leastMtu(outer.family, mtu);
}

/** The news, passed on to the correspondent whose packet was in the tunnel. */
export function checkRelayed(passage: Passage): string | undefined {
  const { scene, input, outer, news } = passage;
  const told = toldMtu(passage);
  if (news === undefined || told === undefined) return 'no router has said so of a tunnel that is in use';
  const at = news.l3 + (news.family === 6 ? 40 : 20) + (news.protocol === 17 ? 8 : 0);
  const about = new Reading().readIp(input, at, outer.packetEnd, true);
  if (!about.valid || !about.df) return 'the packet inside is not there, or allows to be fragmented';
  return checkTooBig(passage, about, outer.packetEnd, leastMtu(about.family, told - overhead(scene)));
}
