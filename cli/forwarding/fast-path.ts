import { type BpfMap, type BpfObject, StructCodec } from '../../addon/lib/index.js';
import type { Field } from '../../addon/lib/types.js';
import {
  Action,
  type AddressStruct,
  type BindingStruct,
  Encapsulation,
  type FastBindingStruct,
  FastKind,
  type FastPortStruct,
  type FastRouteStruct,
  Hold,
  Reason,
} from './abi.gen.js';
import { MAPPED } from './address.js';

const ETHERNET_BYTES = 14;
const TYPE_IPV4 = 0x0800;
const IPIP = 4;
const OUTER_TTL = 64;
const DONT_FRAGMENT = 0x4000;
const HEADER_BYTES = 34;
const VERSIONS = 128; // the odd ones of 1 to 255: they differ in a single byte, which changes at once; odd, see bpf/abi.h

/** Per CPU a `struct counter`. */
export interface FastCount {
  readonly reason: number; // enum reason
  readonly perCpu: readonly Buffer[];
}

/** A port of one of the node's addresses. */
export interface FastPlace {
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
  readonly local: AddressStruct;
}

/**
 * The copies that the fast paths work with (bpf/fast.h, fast_tc.h). Whatever changes in `ports` or `bindings` is first invalidated
 * here, then written there, then copied: a packet meets the old record or the new one, and always the one that all others
 * meet at that time.
 */
export class FastPath {
  private readonly ports: BpfMap;
  private readonly bindings: BpfMap;
  private readonly counters: BpfMap;
  private readonly guestCounters: BpfMap;
  private readonly guestCounts: readonly Field[];
  private readonly portCodec: StructCodec;
  private readonly bindingCodec: StructCodec;

  constructor(object: BpfObject) {
    this.ports = object.map('fast_ports');
    this.bindings = object.map('fast_bindings');
    this.counters = object.map('fast_counters');
    this.guestCounters = object.map('guest_counters');
    this.guestCounts = object.btf.struct('guest_counts').fields;
    this.portCodec = new StructCodec(object.btf, 'fast_port');
    this.bindingCodec = new StructCodec(object.btf, 'fast_binding');
  }

  /** Sends the binding's packets by the general path. */
  invalidate(id: number): void {
    const present = this.binding(id);
    if (present !== undefined && present.version !== 0) this.putBinding(id, { ...present, version: 0 });
  }

  /** Copies a binding that is invalid here, if the fast path can serve it. */
  copy(id: number, binding: BindingStruct): void {
    const present = this.binding(id);
    if (present === undefined || !serves(binding)) return;
    const latest = 2 * (((present.latest + 1) >> 1) % VERSIONS) + 1;
    const routes = present.routes.map((route, index) => (index === latest % 2 ? routeOf(binding) : route));
    this.putBinding(id, { version: 0, latest, routes });
    this.putBinding(id, { version: latest, latest, routes });
  }

  /** Forgets a binding and what was counted for it. */
  remove(id: number): void {
    this.invalidate(id);
    for (const map of [this.counters, this.guestCounters]) {
      if (id >= map.maxEntries) continue;
      const zero = (map.getPerCpu(u32(id)) ?? []).map((value) => Buffer.alloc(value.length));
      map.setPerCpu(u32(id), zero);
    }
  }

  /** What the fast paths have tunnelled for a binding: one counter for every CPU. */
  tunnelled(id: number): Buffer[] {
    return id < this.counters.maxEntries ? (this.counters.getPerCpu(u32(id)) ?? []) : [];
  }

  /** All that the fast paths have counted for a binding. */
  counted(id: number): FastCount[] {
    const guest = id < this.guestCounters.maxEntries ? (this.guestCounters.getPerCpu(u32(id)) ?? []) : [];
    return [
      { reason: Reason.tunnelled, perCpu: this.tunnelled(id) },
      ...this.guestCounts.map(({ name, offset, size }) => ({
        reason: Reason[name as keyof typeof Reason],
        perCpu: guest.map((value) => value.subarray(offset, offset + size)),
      })),
    ];
  }

  /** Copies an entry of `ports`, if the fast path can serve it. */
  claim(place: FastPlace, binding: number, shared: boolean): void {
    const local = ipv4Of(place.local);
    if (local === undefined) return;
    if (binding >= this.bindings.maxEntries) {
      this.release(place);
      return;
    }
    const present = this.port(place);
    if (present.kind !== FastKind.none && present.local !== local) return; // another address has the entry
    const next: FastPortStruct = shared
      ? { local, binding: 0, kind: FastKind.shared }
      : { local, binding, kind: FastKind.own };
    if (same(present, next)) return;
    this.putPort(place, { ...present, kind: FastKind.none });
    this.putPort(place, { ...next, kind: FastKind.none });
    this.putPort(place, next);
  }

  /** Copies a block's entry to those of its ports that nobody's copy stands for. None of them may have an entry of its own. */
  claimFree(places: readonly FastPlace[], binding: number): void {
    const local = ipv4Of(places[0]?.local ?? { word: [] });
    if (local === undefined || binding >= this.bindings.maxEntries) return;
    const free = places.filter((place) => this.port(place).kind === FastKind.none).map(indexOf);
    for (const kind of [FastKind.none, FastKind.own]) {
      const entry = this.portCodec.encode({ local, binding, kind } satisfies FastPortStruct);
      this.ports.setBatch(free.map((index) => [index, entry] as const));
    }
  }

  /** Sends the packets of an address's ports by the general path. */
  releaseAll(places: readonly FastPlace[]): void {
    const local = ipv4Of(places[0]?.local ?? { word: [] });
    if (local === undefined) return;
    const own = places.map((place) => [place, this.port(place)] as const).filter(([, entry]) => entry.local === local);
    const changed = own.map(([place, entry]): [Buffer, Buffer] => [
      indexOf(place),
      this.portCodec.encode({ ...entry, kind: FastKind.none }),
    ]);
    this.ports.setBatch(changed);
  }

  /** Sends the port's packets by the general path. */
  release(place: FastPlace): void {
    const present = this.port(place);
    if (present.local === ipv4Of(place.local)) this.putPort(place, { ...present, kind: FastKind.none });
  }

  close(): void {
    for (const map of [this.ports, this.bindings, this.counters, this.guestCounters]) map.close();
  }

  private binding(id: number): FastBindingStruct | undefined {
    const bytes = id < this.bindings.maxEntries ? this.bindings.get(u32(id)) : undefined;
    return bytes === undefined ? undefined : (this.bindingCodec.decode(bytes) as unknown as FastBindingStruct);
  }

  private putBinding(id: number, binding: FastBindingStruct): void {
    this.bindings.set(u32(id), this.bindingCodec.encode(binding));
  }

  private port(place: FastPlace): FastPortStruct {
    return this.portCodec.decode(this.ports.get(indexOf(place)) as Buffer) as FastPortStruct;
  }

  private putPort(place: FastPlace, entry: FastPortStruct): void {
    this.ports.set(indexOf(place), this.portCodec.encode(entry));
  }
}

/** What the fast paths take for granted of every copy of a binding. */
function serves(binding: BindingStruct): boolean {
  return (
    binding.action === Action.tunnel &&
    binding.draining === 0 &&
    binding.hold === Hold.nothing &&
    binding.next_hop.resolved === 1 &&
    binding.next_hop.ifindex !== 0 &&
    binding.encapsulation === Encapsulation.ip &&
    ipv4Of(binding.care_of) !== undefined &&
    ipv4Of(binding.node) !== undefined
  );
}

/** Ethernet and outer IPv4 header as bpf/encapsulate.h builds them, with TOS, length and checksum 0. */
function routeOf({ node, care_of, next_hop }: BindingStruct): FastRouteStruct {
  const header = Buffer.alloc(HEADER_BYTES);
  header.set(next_hop.destination, 0);
  header.set(next_hop.source, 6);
  header.writeUInt16BE(TYPE_IPV4, 12);
  const ip = header.subarray(ETHERNET_BYTES);
  ip[0] = 0x45;
  ip.writeUInt16BE(DONT_FRAGMENT, 6);
  ip[8] = OUTER_TTL;
  ip[9] = IPIP;
  ip.writeUInt32LE(node.word[3] ?? 0, 12);
  ip.writeUInt32LE(care_of.word[3] ?? 0, 16);
  let sum = 0;
  for (let offset = 0; offset < ip.length; offset += 2) sum += ip.readUInt16LE(offset);
  return { header, mtu: next_hop.mtu, sum, ifindex: next_hop.ifindex };
}

/** An IPv4 address as it lies in memory; undefined: it is of IPv6. */
function ipv4Of({ word: [first, second, third, last] }: AddressStruct): number | undefined {
  return first === 0 && second === 0 && third === MAPPED ? last : undefined;
}

function indexOf({ protocol, port }: FastPlace): Buffer {
  return u32(port + (protocol === 'udp' ? 65_536 : 0));
}

function same(left: FastPortStruct, right: FastPortStruct): boolean {
  return left.local === right.local && left.binding === right.binding && left.kind === right.kind;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
