import type { ProgramName } from '../packet/bench.js';
import { Protocol } from '../packet/packets.js';
import { CLIENT_PORT, SERVICE_PORT } from '../packet/scene.js';
import {
  CROWDED_PORT,
  DECOY_PORT,
  LISTENING_PORTS,
  SHARED_PORT,
  STALE_PORT,
  TUNNEL_PORT,
  UNCOPIED_PORT,
} from './cast.js';
import type { Seed } from './corpus.js';
import { passageOf } from './forms.js';
import { Heard, whoComesOverLo, whoHears, whoIsAway, whoSpeaks, whoTalks } from './hearing.js';
import { Fragment, onesSum, Reading, u8, u16 } from './reading.js';
import type { Scene } from './scenes.js';

/** The longest frame that a test run takes, both as an XDP buffer and as an skb. */
export const LONGEST_FRAME = 3400;
/** Of super-packets, in bytes. */
export const SMALLEST_SEGMENT = 100;
/** The kernel refuses shorter ones itself. */
const SHORTEST_FRAME = 14;

const EDGE_BYTES = [0, 1, 2, 4, 5, 6, 0x0f, 0x11, 0x29, 0x3a, 0x40, 0x45, 0x46, 0x4f, 0x60, 0x7f, 0x80, 0xfe, 0xff];
const PROTOCOLS = [0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 255];
const ETHER_TYPES = [0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806, 0x0000, 0xffff, 0x88cc, 0x8864];
const PORTS = [
  ...[SERVICE_PORT, CLIENT_PORT, SHARED_PORT, UNCOPIED_PORT, STALE_PORT, TUNNEL_PORT, 0, 0xffff],
  ...[CROWDED_PORT, DECOY_PORT, ...Object.values(LISTENING_PORTS)],
];
const ADDRESSES = [1, 2, 3, 4, 22, 99, 254, 255];

export interface SortedSeeds {
  /** Those that a bound process hears, or speaks, or may. */
  readonly apt: readonly Seed[];
  readonly all: readonly Seed[];
}

/** By whom a packet is apt. */
const WHO: Partial<Record<ProgramName, typeof whoHears>> = {
  hp_egress: whoSpeaks,
  hp_pod: whoSpeaks,
  hp_loopback: whoTalks,
  hp_inside: whoIsAway,
  hp_entry: whoComesOverLo,
};

/** Most packets shall be about a bound process: the others are soon decided. */
export function sortSeeds(all: readonly Seed[], scene: Scene): SortedSeeds {
  if (scene.program === 'hp_pod' && !scene.common) return { apt: [], all };
  const who = WHO[scene.program] ?? whoHears;
  const apt = all.filter(({ frame }) => {
    const passage = passageOf(scene, frame);
    return who(passage) !== Heard.nobody && (!scene.common || isCommon(passage.tunnel ?? passage.outer));
  });
  return { apt, all };
}

/** What the fast paths are for. */
function isCommon({ family, protocol, unusual, fragment }: Reading): boolean {
  const ports = protocol === Protocol.tcp || protocol === Protocol.udp;
  return family === 4 && ports && !unusual && fragment === Fragment.none;
}

/** A frame that is being changed: it lies in `bytes` from `from`, with room for LONGEST_FRAME bytes. */
export class Mutation {
  length = 0;
  private readonly reading = new Reading();
  private readonly inner = new Reading();

  constructor(
    private readonly bytes: Buffer,
    private readonly random: () => number,
    private readonly seeds: SortedSeeds,
  ) {}

  /** Begins with a seed at `from` and changes it some times, seldom not at all. @returns the frame's length */
  make(from: number): number {
    this.length = this.seed().frame.copy(this.bytes, from);
    const dice = this.below(20);
    const changes = dice < 2 ? 0 : dice < 11 ? 1 : dice < 16 ? 2 : 3 + this.below(4);
    for (let i = 0; i < changes; i++) this.change(from);
    if (changes > 0 && this.below(3) > 0) this.correctChecksums(from);
    return this.length;
  }

  private change(from: number): void {
    const dice = this.below(100);
    if (dice < 14) this.flipBit(from);
    else if (dice < 24) this.edgeByte(from);
    else if (dice < 30) this.edgeWord(from);
    else if (dice < 58) this.changeIp(from);
    else if (dice < 72) this.changeTransport(from);
    else if (dice < 80) this.truncate();
    else if (dice < 85) this.extend(from);
    else if (dice < 90) this.splice(from);
    else if (dice < 93) this.tag(from);
    else if (dice < 95) this.put16(from + 12, from, this.pick(ETHER_TYPES));
    else if (dice < 98) this.move(from);
    else this.noise(from);
  }

  private below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  private pick(list: readonly number[]): number {
    return list[this.below(list.length)] as number;
  }

  private seed(): Seed {
    const { apt, all } = this.seeds;
    const list = apt.length > 0 && this.below(3) > 0 ? apt : all;
    return list[this.below(list.length)] as Seed;
  }

  private put8(at: number, from: number, value: number): void {
    if (at >= from && at < from + this.length) this.bytes[at] = value;
  }

  private put16(at: number, from: number, value: number): void {
    this.put8(at, from, (value >> 8) & 0xff);
    this.put8(at + 1, from, value & 0xff);
  }

  /** Mostly among the headers. */
  private place(from: number): number {
    return from + this.below(this.below(5) > 0 ? Math.min(this.length, 110) : this.length);
  }

  private flipBit(from: number): void {
    const at = this.place(from);
    this.put8(at, from, u8(this.bytes, at) ^ (1 << this.below(8)));
  }

  private edgeByte(from: number): void {
    this.put8(this.place(from), from, this.pick(EDGE_BYTES));
  }

  private edgeWord(from: number): void {
    const at = this.place(from) & ~1;
    this.put16(at, from, this.edge16(u16(this.bytes, at)));
  }

  private edge16(now: number): number {
    const dice = this.below(8);
    if (dice < 3) return now + this.below(17) - 8;
    if (dice < 5) return this.below(0x10000);
    return [0, 1, 20, 0x7fff, 0x8000, 0xffff][this.below(6)] as number;
  }

  /** Reads the frame; half of the time what is changed is the packet inside, where there is one. */
  private target(from: number): Reading {
    const end = from + this.length;
    const outer = this.reading.readFrame(this.bytes, from, end);
    if (this.below(2) === 0 || outer.family !== 4) return outer;
    const at =
      outer.protocol === Protocol.udp ? outer.l4 + 8 : outer.protocol === Protocol.icmp ? outer.l4 + 8 : outer.l4;
    if (at + 20 > end) return outer;
    const inner = this.inner.readIp(this.bytes, at, end);
    return inner.family !== 0 && inner.l4 > 0 ? inner : outer;
  }

  private changeIp(from: number): void {
    const { family, l3 } = this.target(from);
    if (family === 4) this.changeIpv4(from, l3);
    else if (family === 6) this.changeIpv6(from, l3);
    else this.edgeByte(from);
  }

  private changeIpv4(from: number, ip: number): void {
    switch (this.below(11)) {
      case 0:
        this.put8(ip, from, (this.below(4) > 0 ? 0x40 : this.below(16) << 4) | this.below(16));
        break;
      case 1:
        this.put16(ip + 2, from, this.edge16(u16(this.bytes, ip + 2)));
        break;
      case 2:
        this.put16(ip + 6, from, this.pick([0, 0x2000, 0x4000, 0x6000, 0x8000, 1, 0x1fff, 0x2001, 101, 50]));
        break;
      case 3:
        this.put8(ip + 9, from, this.pick(PROTOCOLS));
        break;
      case 4:
        this.put8(ip + 1, from, this.below(256));
        break;
      case 5:
        this.put8(ip + 8, from, this.pick([0, 1, 2, 64, 255]));
        break;
      case 6:
        this.put8(ip + (this.below(2) ? 15 : 19), from, this.pick(ADDRESSES));
        break;
      case 7:
        this.growOptions(from, ip);
        break;
      case 8: // an option's length
        this.put8(ip + 20 + this.below(8), from, this.pick([0, 1, 2, 3, 4, 7, 40, 255]));
        break;
      case 9:
        this.put16(ip + 4, from, this.pick([0, 77, 78, 79, 0xffff]));
        break;
      default: // as long as it really is
        this.put16(ip + 2, from, from + this.length - ip);
        break;
    }
  }

  private changeIpv6(from: number, ip: number): void {
    switch (this.below(9)) {
      case 0:
        this.put16(ip + 4, from, this.edge16(u16(this.bytes, ip + 4)));
        break;
      case 1:
        this.put8(ip + 6, from, this.pick(PROTOCOLS));
        break;
      case 2:
        this.put8(ip + 40 + 8 * this.below(4), from, this.pick(PROTOCOLS));
        break;
      case 3:
        this.put8(ip + 41 + 8 * this.below(4), from, this.pick([0, 1, 2, 3, 31, 255]));
        break;
      case 4:
        this.put16(ip + 42, from, this.pick([0, 1, 8, 9, 40, 0xfff8, 0xfff9]));
        break;
      case 5:
        this.put8(ip + 7, from, this.pick([0, 1, 64, 255]));
        break;
      case 6:
        this.put8(ip + (this.below(2) ? 23 : 39), from, this.pick(ADDRESSES));
        break;
      case 7:
        this.put16(ip, from, 0x6000 | (this.below(256) << 4));
        break;
      default:
        this.put16(ip + 4, from, from + this.length - ip - 40);
        break;
    }
  }

  private changeTransport(from: number): void {
    const { valid, l4, protocol } = this.target(from);
    if (!valid) {
      this.flipBit(from);
      return;
    }
    switch (this.below(7)) {
      case 0:
        this.put16(l4, from, this.pick(PORTS));
        break;
      case 1:
        this.put16(l4 + 2, from, this.pick(PORTS));
        break;
      case 2:
        if (protocol === Protocol.udp) this.put16(l4 + 4, from, this.edge16(u16(this.bytes, l4 + 4)));
        else this.put8(l4 + 12, from, this.below(16) << 4);
        break;
      case 3:
        this.put8(l4 + 13, from, this.pick([0x02, 0x12, 0x10, 0x04, 0x11, 0xff, 0x00]));
        break;
      case 4: // an option's kind or length
        this.put8(l4 + 20 + this.below(20), from, this.pick([0, 1, 2, 3, 4, 5, 8, 10, 255]));
        break;
      case 5:
        this.put8(l4 + 8 + this.below(28), from, this.below(256)); // of an ICMP error: the quoted header
        break;
      default:
        this.put16(l4 + 22, from, this.pick([0, 1, 535, 536, 1400, 1460, 9000, 0xffff]));
        break;
    }
  }

  private growOptions(from: number, ip: number): void {
    const header = (u8(this.bytes, ip) & 15) * 4;
    const words = 1 + this.below(3);
    if (header + 4 * words > 60 || ip + header > from + this.length || this.length + 4 * words > LONGEST_FRAME) return;
    this.bytes.copyWithin(ip + header + 4 * words, ip + header, from + this.length);
    this.bytes.fill(this.below(2), ip + header, ip + header + 4 * words);
    this.length += 4 * words;
    this.bytes[ip] = (u8(this.bytes, ip) & 0xf0) | (header / 4 + words);
    if (this.below(3) > 0) this.put16(ip + 2, from, u16(this.bytes, ip + 2) + 4 * words);
  }

  private truncate(): void {
    const shortest = SHORTEST_FRAME - (this.below(200) === 0 ? 5 : 0);
    const less = this.below(4) === 0 ? 1 + this.below(4) : this.below(this.length);
    this.length = Math.max(shortest, this.length - less);
  }

  private extend(from: number): void {
    const more = Math.min(LONGEST_FRAME - this.length, this.below(4) === 0 ? this.below(1500) : this.below(46));
    this.bytes.fill(this.below(2) ? 0 : 0xa5, from + this.length, from + this.length + more);
    this.length += more;
  }

  /** The head of this frame and the tail of another. */
  private splice(from: number): void {
    const other = this.seed().frame;
    const [head, tail] = [this.boundary(this.length), this.boundary(other.length)];
    const more = Math.min(other.length - tail, LONGEST_FRAME - head);
    other.copy(this.bytes, from + head, tail, tail + more);
    this.length = Math.max(SHORTEST_FRAME, head + more);
  }

  /** Where a header may begin or end. */
  private boundary(length: number): number {
    return Math.min(length, this.below(3) > 0 ? this.pick([14, 18, 34, 42, 54, 62, 74, 94]) : this.below(length + 1));
  }

  private tag(from: number): void {
    if (this.length + 4 > LONGEST_FRAME) return;
    this.bytes.copyWithin(from + 16, from + 12, from + this.length);
    this.length += 4;
    this.put16(from + 12, from, this.below(2) ? 0x8100 : 0x88a8);
    this.put16(from + 14, from, this.pick([0, 0x1000, 0xe000, 100, 0xfff, 0x6001]));
  }

  /** Takes some bytes out, or says them twice. */
  private move(from: number): void {
    const at = this.place(from);
    const some = Math.min(1 + this.below(24), from + this.length - at);
    if (this.below(2) && this.length - some >= SHORTEST_FRAME) {
      this.bytes.copyWithin(at, at + some, from + this.length);
      this.length -= some;
    } else if (this.length + some <= LONGEST_FRAME) {
      this.bytes.copyWithin(at + some, at, from + this.length);
      this.length += some;
    }
  }

  private noise(from: number): void {
    const at = this.place(from);
    const end = Math.min(from + this.length, at + 1 + this.below(60));
    for (let i = at; i < end; i++) this.bytes[i] = this.below(256);
  }

  /** Of the IPv4 headers, so that what must be right is right and the change is seen for itself. */
  private correctChecksums(from: number): void {
    const end = from + this.length;
    const outer = this.reading.readFrame(this.bytes, from, end);
    if (outer.family !== 4) return;
    this.correct(from, outer.l3);
    const inner = outer.protocol === Protocol.ipip ? outer.l4 : outer.protocol === Protocol.udp ? outer.l4 + 8 : 0;
    if (inner > 0 && inner + 20 <= end && u8(this.bytes, inner) >> 4 === 4) this.correct(from, inner);
  }

  private correct(from: number, ip: number): void {
    const header = (u8(this.bytes, ip) & 15) * 4;
    if (header < 20 || ip + header > from + this.length) return;
    this.put16(ip + 10, from, 0);
    this.put16(ip + 10, from, ~onesSum(this.bytes, ip, ip + header) & 0xffff);
  }
}
