import ipaddr from 'ipaddr.js';
import { CARE_OF, CARE_OF6, HOME, HOME6, OTHER_NODE, OTHER_NODE6, SERVICE_PORT } from '../packet/scene.js';
import { COPIED, LISTENING_PORTS, TUNNEL_PORT, UNCOPIED } from './cast.js';
import type { Passage } from './forms.js';
import { Fragment, Reading, Tag, u8, u16, u32 } from './reading.js';

/** Whose a packet is, as far as can be said without knowing what came before it. */
export const Heard = { nobody: 0, bound: 1, perhaps: 2 } as const;
export type Heard = (typeof Heard)[keyof typeof Heard];

const ipv4 = (text: string): number => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
const bytesOf = (text: string): Buffer => Buffer.from(ipaddr.parse(text).toByteArray());
const NODES = [HOME, CARE_OF, OTHER_NODE, HOME6, CARE_OF6, OTHER_NODE6].map(bytesOf);
const HOME_IPV4 = ipv4(HOME);
const HOME6_WORDS = [0, 4, 8, 12].map((offset) =>
  Buffer.from(ipaddr.IPv6.parse(HOME6).toByteArray()).readUInt32BE(offset),
);
/** Where flows are claimed one by one, as numbers. */
const FLOWS = [...COPIED, ...UNCOPIED].map(({ protocol, local, remote }) => ({
  protocol,
  local: ipv4(local[0]),
  port: local[1],
  remote: ipv4(remote[0]),
  remotePort: remote[1],
}));

/** Whether a binding has a claim to that local end of the packet. @param home loopback's addresses are those of the service's home */
function claimed(
  bytes: Uint8Array,
  reading: Reading,
  local: number,
  port: number,
  remote: number,
  remotePort: number,
  home: boolean,
): Heard {
  const { protocol, family } = reading;
  if (protocol !== 6 && protocol !== 17) return Heard.nobody;
  if (home && isLoopback(bytes, reading)) return port === SERVICE_PORT ? Heard.bound : Heard.nobody;
  if (family === 6) {
    const isHome = HOME6_WORDS.every((word, index) => u32(bytes, local + 4 * index) === word);
    return isHome && port === SERVICE_PORT && protocol === 6 ? Heard.bound : Heard.nobody;
  }
  const own = u32(bytes, local);
  if (own === HOME_IPV4 && port === SERVICE_PORT) return Heard.bound;
  const peer = u32(bytes, remote);
  const exact = FLOWS.some(
    (flow) =>
      flow.port === port &&
      flow.remotePort === remotePort &&
      flow.local === own &&
      flow.remote === peer &&
      flow.protocol === protocol,
  );
  return exact ? Heard.bound : Heard.nobody;
}

/** Whether that address is one by which every machine has itself alone: 127.0.0.1 or ::1, and no other of 127.0.0.0/8. */
function isLoopbackAt(bytes: Uint8Array, at: number, family: number): boolean {
  if (family !== 6) return u32(bytes, at) === 0x7f000001;
  return u32(bytes, at) === 0 && u32(bytes, at + 4) === 0 && u32(bytes, at + 8) === 0 && u32(bytes, at + 12) === 1;
}

const isLoopback = (bytes: Uint8Array, { family, source, destination }: Reading): boolean =>
  isLoopbackAt(bytes, source, family) && isLoopbackAt(bytes, destination, family);

const hears = (bytes: Uint8Array, r: Reading, home = false): Heard =>
  claimed(bytes, r, r.destination, r.destinationPort, r.source, r.sourcePort, home);
const speaks = (bytes: Uint8Array, r: Reading, home = false): Heard =>
  claimed(bytes, r, r.source, r.sourcePort, r.destination, r.destinationPort, home);

/** An ICMP error is about the packet that it quotes. What lies behind its end is padding of the frame. */
function isError(bytes: Uint8Array, reading: Reading): boolean {
  if (reading.l4 + 8 > reading.packetEnd) return false;
  const type = u8(bytes, reading.l4);
  return reading.family === 6 ? type < 128 : [3, 4, 11, 12].includes(type);
}

const isIcmp = (reading: Reading): boolean => reading.protocol === (reading.family === 6 ? 58 : 1);
/** What only the datapath's memory can tell, or what it may leave to the kernel. */
const isSpecial = (reading: Reading): boolean => reading.beyond || reading.fragment !== Fragment.none;

const quoted = new Reading();

/** Whose a packet is that is no tunnel's. @param home loopback's addresses are those of the service's home */
function whose(bytes: Uint8Array, reading: Reading, side: 'heard' | 'said', home = false): Heard {
  if (isSpecial(reading)) return Heard.perhaps;
  if (!isIcmp(reading)) return side === 'heard' ? hears(bytes, reading, home) : speaks(bytes, reading, home);
  if (!isError(bytes, reading)) return Heard.nobody;
  quoted.readIp(bytes, reading.l4 + 8, reading.packetEnd, true);
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

/** Whether the address that lies there is that one. */
const isThere = (bytes: Uint8Array, at: number, family: number, address: Buffer): boolean =>
  address.length === (family === 6 ? 16 : 4) && address.compare(bytes, at, at + address.length) === 0;

const tooBig = new Reading();

/**
 * A router's word that a packet of this node was too big for a link, where that packet may have been a tunnel's: for nobody
 * but the node itself. @returns the header that it quotes
 */
function readNews(passage: Passage): Reading | undefined {
  const { input, outer, scene } = passage;
  const end = outer.packetEnd;
  if (!isIcmp(outer) || outer.fragment !== Fragment.none || outer.l4 + 8 > end) return undefined;
  const kind = u16(input, outer.l4);
  if (outer.family === 6 ? kind >> 8 !== 2 : kind !== 0x0304) return undefined;
  const own = bytesOf(outer.family === 6 ? scene.node6 : scene.node);
  if (!isThere(input, outer.destination, outer.family, own)) return undefined;
  tooBig.readIp(input, outer.l4 + 8, end, true);
  if (!tooBig.valid || tooBig.family !== outer.family || tooBig.fragment === Fragment.later) return undefined;
  return [4, 17, 41].includes(tooBig.protocol) && sameAddress(input, outer, tooBig) ? tooBig : undefined;
}

/** For arrivals. Sets `outer`, `news` and, for a tunnel's packet from a known node, `inner` and `tunnel`. */
export function whoHears(passage: Passage): Heard {
  const { input, from, end, outer, inner, scene } = passage;
  outer.readFrame(input, from, end);
  if (!outer.valid || outer.tag !== Tag.none) return Heard.nobody;
  const { family } = outer;
  const own = bytesOf(family === 6 ? scene.node6 : scene.node);
  const here = isThere(input, outer.destination, family, own);
  const udp = here && outer.protocol === 17 && outer.destinationPort === TUNNEL_PORT;
  if (outer.fragment !== Fragment.none || outer.beyond || (outer.protocol !== 4 && outer.protocol !== 41 && !udp)) {
    const heard = whose(input, outer, 'heard');
    if (heard === Heard.nobody) passage.news = readNews(passage);
    return heard;
  }
  const isNode = NODES.some((node) => isThere(input, outer.source, family, node));
  const known = here && isNode && !isThere(input, outer.source, family, own);
  if (!known || outer.unusual || (udp && u16(input, outer.l4 + 6) !== 0)) return Heard.nobody;
  inner.readIp(input, outer.l4 + (udp ? 8 : 0), end);
  if (!inner.valid || inner.packetEnd !== outer.packetEnd) return Heard.nobody;
  if (!udp && inner.family !== (outer.protocol === 41 ? 6 : 4)) return Heard.nobody;
  passage.tunnel = inner;
  const atHome = scene.node === HOME;
  const fromHome = isThere(input, outer.source, family, bytesOf(family === 6 ? HOME6 : HOME));
  const heard = whose(input, inner, 'heard', atHome || fromHome);
  if (heard !== Heard.nobody) return heard;
  // What XDP finds nobody for among loopback's packets it leaves to tc.
  if (passage.program === 'hp_xdp' && isLoopback(input, inner)) return Heard.perhaps;
  // Through a reverse tunnel the process speaks: from where it is away, and from nowhere else.
  const { binding, sharedAction } = scene;
  const away = [binding.action, sharedAction].filter((action) => action === 'tunnel' || action === 'park').length;
  if (!isThere(input, outer.source, family, bytesOf(binding.careOf)) || away === 0) return Heard.nobody;
  const said = whose(input, inner, 'said', atHome);
  return said === Heard.bound && away === 1 ? Heard.perhaps : said; // the other one of the two bindings may have it
}

/** For what leaves. */
export function whoSpeaks(passage: Passage): Heard {
  const { input, from, end, outer } = passage;
  outer.readFrame(input, from, end);
  if (!outer.valid || outer.tag !== Tag.none) return Heard.perhaps; // the guard may be stricter
  const onLo = passage.program === 'hp_loopback';
  return whose(input, outer, 'said', onLo && passage.scene.node === HOME);
}

/** For what processes of a node say to each other over its `lo`. */
export function whoTalks(passage: Passage): Heard {
  const said = whoSpeaks(passage);
  if (said !== Heard.nobody) return said;
  const { input, outer, scene } = passage;
  return whose(input, outer, 'heard', scene.node === HOME);
}

/** For what goes over a pod's own `lo`: bound is what nobody in the pod listens for, so that it is for somebody at home. */
export function whoIsAway({ input, from, end, outer }: Passage): Heard {
  outer.readFrame(input, from, end);
  if (!outer.valid || outer.beyond) return Heard.perhaps;
  const listening = LISTENING_PORTS[outer.protocol];
  if (listening === undefined || outer.fragment === Fragment.later || outer.tag !== Tag.none) return Heard.nobody;
  return outer.destinationPort === listening ? Heard.nobody : Heard.bound;
}

/** For what comes into a pod: bound is what its stack takes from `lo` alone. */
export function whoComesOverLo({ input, from, end, outer }: Passage): Heard {
  outer.readFrame(input, from, end);
  if (outer.family === 0 || outer.tag !== Tag.none) return Heard.nobody;
  if (!outer.valid || outer.beyond) return Heard.perhaps;
  return isLoopbackAt(input, outer.destination, outer.family) ? Heard.bound : Heard.nobody;
}

/** Whether the packet says that it comes from this node itself. */
export function isFromHere({ input, outer, scene }: Passage): boolean {
  const { family, source } = outer;
  return isLoopback(input, outer) || isThere(input, source, family, bytesOf(family === 6 ? scene.node6 : scene.node));
}
