import ipaddr from 'ipaddr.js';
import { CARE_OF, CLIENT_PORT, CORRESPONDENT, HOME, HOME6, OTHER_NODE, SERVICE_PORT } from '../packet/scene.js';
import { SHARED_PORT, STALE_PORT, TUNNEL_PORT } from './cast.js';
import type { Passage } from './forms.js';
import { Fragment, Reading, Tag, u8, u16, u32 } from './reading.js';

/** Whose a packet is, as far as can be said without knowing what came before it. */
export const Heard = { nobody: 0, bound: 1, perhaps: 2 } as const;
export type Heard = (typeof Heard)[keyof typeof Heard];

const ipv4 = (text: string): number => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
const NODES = [HOME, CARE_OF, OTHER_NODE].map(ipv4);
const HOME_IPV4 = ipv4(HOME);
const HOME6_WORDS = [0, 4, 8, 12].map((offset) =>
  Buffer.from(ipaddr.IPv6.parse(HOME6).toByteArray()).readUInt32BE(offset),
);
const CORRESPONDENT_IPV4 = ipv4(CORRESPONDENT);

/** Whether a binding has a claim to that local end of the packet. */
function claimed(
  bytes: Uint8Array,
  reading: Reading,
  local: number,
  port: number,
  remote: number,
  remotePort: number,
): Heard {
  if (reading.protocol !== 6 && reading.protocol !== 17) return Heard.nobody;
  if (reading.family === 6) {
    const home = HOME6_WORDS.every((word, index) => u32(bytes, local + 4 * index) === word);
    return home && port === SERVICE_PORT && reading.protocol === 6 ? Heard.bound : Heard.nobody;
  }
  if (u32(bytes, local) !== HOME_IPV4) return Heard.nobody;
  if (port === SERVICE_PORT) return Heard.bound;
  if (port === STALE_PORT) return Heard.nobody; // its binding does not exist
  const exact = port === SHARED_PORT && u32(bytes, remote) === CORRESPONDENT_IPV4 && remotePort === CLIENT_PORT;
  return exact ? Heard.bound : Heard.nobody;
}

const hears = (bytes: Uint8Array, r: Reading): Heard =>
  claimed(bytes, r, r.destination, r.destinationPort, r.source, r.sourcePort);
const speaks = (bytes: Uint8Array, r: Reading): Heard =>
  claimed(bytes, r, r.source, r.sourcePort, r.destination, r.destinationPort);

/** An ICMP error is about the packet that it quotes. */
function isError(bytes: Uint8Array, reading: Reading, end: number): boolean {
  if (reading.l4 + 8 > end) return false;
  const type = u8(bytes, reading.l4);
  return reading.family === 6 ? type < 128 : [3, 4, 11, 12].includes(type);
}

const isIcmp = (reading: Reading): boolean => reading.protocol === (reading.family === 6 ? 58 : 1);
/** What only the datapath's memory can tell, or what it may leave to the kernel. */
const isSpecial = (reading: Reading): boolean => reading.beyond || reading.fragment !== Fragment.none;

const quoted = new Reading();

/** Whose a packet is that is no tunnel's. */
function whose(bytes: Uint8Array, reading: Reading, end: number, side: 'heard' | 'said'): Heard {
  if (isSpecial(reading)) return Heard.perhaps;
  if (!isIcmp(reading)) return side === 'heard' ? hears(bytes, reading) : speaks(bytes, reading);
  if (!isError(bytes, reading, end)) return Heard.nobody;
  quoted.readIp(bytes, reading.l4 + 8, end, true);
  if (quoted.family === 6 && quoted.unusual) return Heard.perhaps;
  if (!quoted.valid || quoted.family !== reading.family || quoted.fragment === Fragment.later) return Heard.nobody;
  if (side === 'said') return hears(bytes, quoted);
  return sameAddress(bytes, reading, quoted) ? speaks(bytes, quoted) : Heard.nobody;
}

/** The error goes to the one whose packet it quotes. */
function sameAddress(bytes: Uint8Array, error: Reading, about: Reading): boolean {
  const length = error.family === 6 ? 16 : 4;
  for (let i = 0; i < length; i++) {
    if (u8(bytes, error.destination + i) !== u8(bytes, about.source + i)) return false;
  }
  return true;
}

/** For arrivals. Sets `outer` and, for a tunnel's packet from a known node, `inner` and `tunnel`. */
export function whoHears(passage: Passage): Heard {
  const { input, from, end, outer, inner } = passage;
  outer.readFrame(input, from, end);
  if (!outer.valid || outer.tag !== Tag.none) return Heard.nobody;
  const [own, other] = [ipv4(passage.scene.node), u32(input, outer.source)];
  const here = outer.family === 4 && u32(input, outer.destination) === own;
  const udp = here && outer.protocol === 17 && outer.destinationPort === TUNNEL_PORT;
  if (outer.fragment !== Fragment.none || (outer.protocol !== 4 && outer.protocol !== 41 && !udp)) {
    return whose(input, outer, end, 'heard');
  }
  const known = here && other !== own && NODES.includes(other);
  if (!known || outer.unusual || (udp && u16(input, outer.l4 + 6) !== 0)) return Heard.nobody;
  inner.readIp(input, outer.l4 + (udp ? 8 : 0), end);
  if (!inner.valid || inner.packetEnd !== outer.packetEnd) return Heard.nobody;
  if (!udp && inner.family !== (outer.protocol === 41 ? 6 : 4)) return Heard.nobody;
  passage.tunnel = inner;
  const heard = whose(input, inner, end, 'heard');
  if (heard !== Heard.nobody) return heard;
  // Through a reverse tunnel the process speaks: from where it is away, and from nowhere else.
  const { binding, sharedAction } = passage.scene;
  const away = [binding.action, sharedAction].filter((action) => action === 'tunnel' || action === 'park').length;
  if (other !== ipv4(binding.careOf ?? '') || away === 0) return Heard.nobody;
  const said = whose(input, inner, end, 'said');
  return said === Heard.bound && away === 1 ? Heard.perhaps : said; // the other one of the two bindings may have it
}

/** For what leaves. */
export function whoSpeaks(passage: Passage): Heard {
  const { input, from, end, outer } = passage;
  outer.readFrame(input, from, end);
  if (!outer.valid || outer.tag !== Tag.none) return Heard.perhaps; // the guard may be stricter
  return whose(input, outer, end, 'said');
}
