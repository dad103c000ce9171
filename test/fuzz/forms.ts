import type { ProgramName } from '../packet/bench.js';
import { onesSum, Reading, u8, u16, u32 } from './reading.js';
import type { Scene } from './scenes.js';

/** One packet's way through a program: what went in, what came out. */
export class Passage {
  /** The packet as it came, and what it carries. */
  readonly outer = new Reading();
  readonly inner = new Reading();
  /** `inner`, when the packet is a known node's tunnel. */
  tunnel: Reading | undefined;
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
  ) {}

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
const MAC_ONWARD = [0x02, 0, 0, 0, 0, 0x03, 0x02, 0, 0, 0, 0, 0x02];
const OUTER_TTL = 64;

const address = (text: string): number => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);

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

/** The bytes of the IP packet from `from` in the input are found again at `at` in the output; padding behind it may go. */
function carried(passage: Passage, from: number, packetEnd: number, at: number): string | undefined {
  const length = packetEnd - from;
  const room = passage.outEnd - at;
  if (room < length) return `only ${room} bytes of a packet of ${length} came out`;
  if (room > passage.end - from) return 'bytes came out that had not come in';
  const differs = (passage.input as Buffer).compare(passage.output, at, at + length, from, packetEnd) !== 0;
  return differs ? 'the bytes of the packet have changed' : undefined;
}

/** A header of 20 bytes whose checksum is right, of a packet that fills the frame up to padding. */
function header4(passage: Passage, at: number, total: number): string | undefined {
  const { output, outEnd } = passage;
  if (at + 20 > outEnd || u8(output, at) !== 0x45) return 'there is no outer IPv4 header';
  if (onesSum(output, at, at + 20) !== 0xffff) return 'the checksum of the outer header is wrong';
  if (u16(output, at + 2) !== total) return `the outer header says ${u16(output, at + 2)} bytes, not ${total}`;
  return at + total > outEnd ? 'the outer packet is longer than its frame' : undefined;
}

/**
 *    14     20                     the packet as it came
 *   +-----+----------------------+----------------------+
 *   | Eth | node -> care-of      | IPv4 or IPv6 ...     |
 *   +-----+----------------------+----------------------+
 */
export function checkTunnelled(passage: Passage): string | undefined {
  const { scene, output, outFrom, outer, tunnel } = passage;
  const carriedPacket = tunnel ?? outer;
  const at = outFrom + 14;
  const total = carriedPacket.packetEnd - carriedPacket.l3;
  // Of an unresolved one the kernel makes the Ethernet header.
  if (scene.binding.resolved && u16(output, outFrom + 12) !== 0x0800) return 'its type must be IPv4';
  const header = header4(passage, at, total + 20);
  if (header !== undefined) return header;
  const tos = tunnel === undefined ? outer.tos : ecnAfterTunnel(tunnel.tos, outer.tos);
  if (u8(output, at + 1) !== tos) return `the outer TOS is ${u8(output, at + 1)}, not ${tos}`;
  if (u16(output, at + 6) !== 0x4000) return 'the outer header must forbid fragments';
  const ttl = tunnel === undefined ? OUTER_TTL : outer.ttl - 1;
  if (u8(output, at + 8) !== ttl) return `the outer TTL is ${u8(output, at + 8)}, not ${ttl}`;
  if (u8(output, at + 9) !== (carriedPacket.family === 6 ? 41 : 4)) return 'the outer protocol is wrong';
  if (u32(output, at + 12) !== address(scene.node)) return 'the outer source is not this node';
  if (u32(output, at + 16) !== address(scene.binding.careOf)) return 'the outer destination is not the care-of address';
  if (passage.gsoSize === 0 && total + 20 > scene.binding.mtu)
    return `${total + 20} bytes were sent where ${scene.binding.mtu} fit`;
  return (
    carried(passage, carriedPacket.l3, carriedPacket.packetEnd, at + 20) ??
    (scene.binding.resolved ? macs(passage, MAC_ONWARD) : undefined)
  );
}

/** Without the outer header, if it had one; into a pod, or on to the local stack and the queue. */
export function checkDelivered(passage: Passage, pod: object | undefined): string | undefined {
  const { input, output, outFrom, outEnd, outer, tunnel } = passage;
  const packet = tunnel ?? outer;
  const type = packet.family === 6 ? 0x86dd : 0x0800;
  const at = outFrom + 14;
  if (u16(output, outFrom + 12) !== type) return 'its type is not that of the packet';
  const wrongMacs = pod === undefined ? undefined : macs(passage, MAC_POD);
  if (wrongMacs !== undefined) return wrongMacs;
  if (tunnel === undefined) return carried(passage, packet.l3, packet.packetEnd, at);
  const tos = ecnAfterTunnel(tunnel.tos, outer.tos);
  if (tos < 0) return 'congestion cannot be told to it: it must be dropped';
  if (tos === tunnel.tos) return carried(passage, packet.l3, packet.packetEnd, at);
  const changed = Buffer.from(input.subarray(packet.l3, passage.end));
  if (packet.family === 6) {
    changed.writeUInt16BE((u16(changed, 0) & 0xf00f) | (tos << 4), 0);
  } else {
    changed[1] = tos;
    const length = packet.l4 - packet.l3;
    if (onesSum(output, at, at + length) !== onesSum(input, packet.l3, packet.l4)) {
      return 'the checksum was not changed as the TOS was (RFC 1624)';
    }
    changed.writeUInt16BE(u16(output, at + 10), 10);
  }
  const length = packet.packetEnd - packet.l3;
  if (outEnd - at < length) return 'the packet was cut off';
  if (outEnd - at > changed.length) return 'bytes came out that had not come in';
  return changed.compare(output, at, at + length, 0, length) === 0 ? undefined : 'more than the ECN bits changed';
}

/** "Fragmentation needed" (RFC 1191), back to where the packet came from. */
export function checkAnswer(passage: Passage): string | undefined {
  const { scene, input, from, output, outFrom, outEnd, outer } = passage;
  const at = outFrom + 14;
  const total = outEnd - at;
  const header = header4(passage, at, total);
  if (header !== undefined) return header;
  if (u8(output, at + 9) !== 1 || u16(output, at + 20) !== 0x0304) return 'it is not "fragmentation needed"';
  if (u32(output, at + 12) !== u32(input, outer.destination)) return 'it does not come from the home address';
  if (u32(output, at + 16) !== u32(input, outer.source)) return 'it does not go to the correspondent';
  if (onesSum(output, at + 20, outEnd) !== 0xffff) return 'the checksum of the ICMP message is wrong';
  if (u16(output, at + 26) !== scene.binding.mtu - 20) return `it tells an MTU of ${u16(output, at + 26)}`;
  const swapped = [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5].every((other, i) => {
    return u8(output, outFrom + i) === u8(input, from + other);
  });
  if (!swapped) return 'the MAC addresses are not swapped';
  const quoted = total - 28;
  const differs = (input as Buffer).compare(output, at + 28, outEnd, outer.l3, outer.l3 + quoted) !== 0;
  return differs ? 'it does not quote the packet' : undefined;
}
