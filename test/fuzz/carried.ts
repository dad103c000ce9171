import type { Passage } from './forms.js';
import { Fragment, onesSum, type Reading, u8, u16 } from './reading.js';

const MOST_OPTIONS = 20;
const MSS = 2;

/** Where in the frame a SYN offers its MSS (RFC 9293, 3.7.1); -1: it offers none that can be read. */
function findMss(bytes: Uint8Array, packet: Reading, end: number): number {
  const tcp = packet.l4;
  if (packet.family === 0 || packet.protocol !== 6 || packet.fragment !== Fragment.none || packet.beyond) return -1;
  if (tcp + 20 > end || (u8(bytes, tcp + 13) & 2) === 0) return -1;
  const limit = tcp + (u8(bytes, tcp + 12) >> 4) * 4;
  if (limit > end) return -1;
  let at = tcp + 20;
  for (let i = 0; i < MOST_OPTIONS && at + 1 < limit; i++) {
    const [kind, length] = [u8(bytes, at), u8(bytes, at + 1)];
    if (kind === MSS) return length === 4 && at + 4 <= limit ? at + 2 : -1;
    if (kind === 0 || (kind !== 1 && length < 2)) return -1;
    at += kind === 1 ? 1 : length;
  }
  return -1;
}

export interface Changes {
  /** Of the packet when it comes out. */
  readonly tos?: number;
  /** Bytes of IP packet to which the MSS of a SYN is clamped. */
  readonly mtu?: number;
}

/** Sums that are the same in one's complement: 0 has two forms. */
const sameSum = (a: number, b: number): boolean => a % 0xffff === b % 0xffff;

/**
 * The packet is found again at `at` in the output with these changes alone, and with the checksums that they ask for;
 * padding behind it may go.
 */
export function checkCarried(passage: Passage, packet: Reading, at: number, changes: Changes = {}): string | undefined {
  const { input, output, outEnd, end } = passage;
  const length = packet.packetEnd - packet.l3;
  if (outEnd - at < length) return `only ${outEnd - at} bytes of a packet of ${length} came out`;
  if (outEnd - at > end - passage.from) return 'bytes came out that had not come in';
  const expected = Buffer.from(input.subarray(packet.l3, packet.packetEnd));
  const { tos = packet.tos, mtu } = changes;
  if (tos !== packet.tos && packet.family === 6) {
    expected.writeUInt16BE((u16(expected, 0) & 0xf00f) | (tos << 4), 0);
  } else if (tos !== packet.tos) {
    expected[1] = tos;
    expected.writeUInt16BE(u16(output, at + 10), 10);
    const header = packet.l4 - packet.l3;
    if (!sameSum(onesSum(expected, 0, header), onesSum(input, packet.l3, packet.l4)))
      return 'the checksum was not changed as the TOS was (RFC 1624)';
  }
  const wrong = mtu === undefined ? undefined : clamp(passage, packet, at, mtu, expected);
  if (wrong !== undefined) return wrong;
  if (expected.compare(output, at, at + length) === 0) return undefined;
  return tos === packet.tos ? 'the bytes of the packet have changed' : 'more than the ECN bits changed';
}

/** Changes the MSS in what is expected. */
function clamp(passage: Passage, packet: Reading, at: number, mtu: number, expected: Buffer): string | undefined {
  const offered = findMss(passage.input, packet, passage.end);
  const most = mtu - (packet.family === 6 ? 60 : 40);
  if (offered < 0 || most <= 0 || u16(passage.input, offered) <= most) return undefined;
  const [tcp, place] = [packet.l4 - packet.l3, offered - packet.l3];
  if (place + 2 > expected.length || tcp + 18 > expected.length) return undefined;
  expected.writeUInt16BE(most, place);
  expected.writeUInt16BE(u16(passage.output, at + tcp + 16), tcp + 16);
  const length = (u8(passage.input, packet.l4 + 12) >> 4) * 4;
  const [before, after] = [onesSum(passage.input, packet.l4, packet.l4 + length), onesSum(expected, tcp, tcp + length)];
  return sameSum(before, after) ? undefined : 'the checksum was not changed as the MSS was (RFC 1624)';
}
