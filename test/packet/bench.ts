import { BpfObject, type BpfProgram, htons, StructCodec } from '../../addon/lib/index.js';
import type { OpenOptions } from '../../addon/lib/types.js';
import { Counters, Hook, Reason } from '../../cli/forwarding/abi.gen.js';
import { FastFlows } from '../../cli/forwarding/fast-flows.js';
import { FastPath, type FastPlace } from '../../cli/forwarding/fast-path.js';
import { projectFile } from '../../cli/system/project.js';
import { addressWords, type BindingFields, bindingOf, OTHER_IFINDEX, TUNNEL_PORT } from './binding-fields.js';
import { Protocol } from './packets.js';

export { ARRIVAL_IFINDEX, type BindingFields, BRIDGE_IFINDEX, OTHER_IFINDEX, TUNNEL_PORT } from './binding-fields.js';

/** All programs of bpf/homeproxy.bpf.c. */
export type ProgramName = keyof typeof HOOKS;
export type ReasonName = Exclude<keyof typeof Reason, 'count'>;
export type Verdict = 'aborted' | 'drop' | 'pass' | 'tx' | 'redirect' | `unknown ${number}`;

export const HOOKS = {
  hp_xdp: Hook.xdp,
  hp_ingress: Hook.ingress,
  hp_egress: Hook.egress,
  hp_pod: Hook.pod,
  hp_replay: Hook.replay,
  hp_loopback: Hook.loopback,
  hp_inside: Hook.inside,
  hp_entry: Hook.entry,
} as const;
const XDP_VERDICTS: readonly Verdict[] = ['aborted', 'drop', 'pass', 'tx', 'redirect'];
const TC_VERDICTS: Readonly<Record<number, Verdict>> = { 4294967295: 'pass', 2: 'drop', 7: 'redirect' };

const EMPTIED = [
  'bindings',
  'ports',
  'flows',
  'nodes',
  'local_addresses',
  'port_blocks',
  'devices',
  'park_states',
  'park_releases',
  'fragments',
  'binding_counters',
];

/** What was counted for one binding under one reason, by the fast paths or by the others. */
export interface BindingCount {
  readonly id: number;
  readonly reason: number;
  readonly packets: number;
}

export interface Outcome {
  readonly verdict: Verdict;
  readonly reason: ReasonName;
  readonly frame: Buffer;
  /** The skb's afterwards, of a packet that was given one. */
  readonly mark: number;
  /** What was counted for the binding, by reason. */
  readonly binding: ReadonlyMap<ReasonName, number>;
}

const nameOf = ({ protocol, port, local }: FastPlace): string => `${protocol} ${local.word.join(' ')} ${port}`;

function addressBytes(text: string): Buffer {
  return Buffer.from(new Uint32Array(addressWords(text)).buffer);
}

function u32(value: number): Buffer {
  return Buffer.from(new Uint32Array([value]).buffer);
}

/** The datapath's programs with maps of their own, run on single packets. */
export class Bench {
  readonly object: BpfObject;
  /** The copies that the fast paths work with: written beside the maps, as Tables does. */
  private readonly fastPath: FastPath;
  private readonly fastFlows: FastFlows;
  private readonly programs = new Map<ProgramName, BpfProgram>();
  private readonly bound = new Set<number>();
  private readonly places = new Map<string, FastPlace>();
  /** Ports on which flows were left behind: those have no copies. */
  private readonly general = new Set<string>();

  readonly other: string | undefined;

  /** @param options its address of the other family; constants and maps for the object, beside those that every bench sets */
  constructor(
    readonly node: string,
    { other, ...options }: Pick<OpenOptions, 'rodata' | 'maps'> & { readonly other?: string } = {},
  ) {
    this.other = other;
    this.object = BpfObject.open(projectFile('bpf/build/homeproxy.bpf.o'), {
      ...options,
      rodata: {
        node_address: addressBytes(node),
        ...(other === undefined ? {} : { other_address: addressBytes(other) }),
        tunnel_port: htons(TUNNEL_PORT),
        ...options.rodata,
      },
      mapSizes: { flows: 1024, ports: 1024, binding_counters: 4096 },
    }).load();
    this.fastPath = new FastPath(this.object);
    this.set('outlets', u32(OTHER_IFINDEX), 'outlet', { known: 1 });
    this.fastFlows = new FastFlows(this.object);
  }

  bind(id: number, fields: BindingFields): this {
    const binding = bindingOf(fields, this.node, this.other);
    this.fastPath.invalidate(id);
    this.set('bindings', u32(id), 'binding', binding);
    this.fastPath.copy(id, binding);
    this.bound.add(id);
    return this;
  }

  claim(
    id: number,
    address: string,
    port: number,
    options: { protocol?: number; shared?: boolean; leftBehind?: boolean } = {},
  ): this {
    const { protocol = Protocol.tcp, shared = false, leftBehind = false } = options;
    const key = { local: { word: addressWords(address) }, port: htons(port), protocol };
    const place = this.place(protocol === Protocol.udp ? 'udp' : 'tcp', address, port);
    this.fastPath.release(place);
    this.map('ports', (map) =>
      map.set(
        this.encode('port_key', key),
        this.encode('port_entry', { binding: id, shared: shared ? 1 : 0, left_behind: leftBehind ? 1 : 0 }),
      ),
    );
    this.map('port_filter', (map) => {
      const bit = port + (protocol === Protocol.udp ? 65536 : 0);
      const word = map.get(u32(Math.floor(bit / 64))) ?? Buffer.alloc(8);
      word[Math.floor((bit % 64) / 8)] = (word[Math.floor((bit % 64) / 8)] ?? 0) | (1 << (bit % 8));
      map.set(u32(Math.floor(bit / 64)), word);
    });
    if (leftBehind) this.general.add(nameOf(place));
    else this.fastPath.claim(place, id, shared);
    return this;
  }

  /** @param copied false: the fast paths find no room for a copy of it */
  flow(
    id: number,
    local: [string, number],
    remote: [string, number],
    protocol: number = Protocol.tcp,
    copied = true,
  ): this {
    const key = this.encode('flow_key', {
      local: { word: addressWords(local[0]) },
      remote: { word: addressWords(remote[0]) },
      local_port: htons(local[1]),
      remote_port: htons(remote[1]),
      protocol,
    });
    this.fastFlows.remove([key]);
    this.set('flows', key, 'flow_entry', { binding: id });
    if (copied) this.fastFlows.copy([key], id);
    return this;
  }

  allow(...nodes: readonly string[]): this {
    for (const node of nodes) this.allowAs(node, node);
    return this;
  }

  /** Makes a node's address known. @param home by which of its addresses its loopback goes */
  allowAs(node: string, home: string): this {
    this.set('nodes', addressBytes(node), 'node_entry', { id: 1, address: { word: addressWords(home) } });
    return this;
  }

  device(ifindex: number, id: number, role: number): this {
    this.set('devices', u32(ifindex), 'device', { binding: id, role });
    return this;
  }

  /** Makes addresses this node's own. */
  local(...addresses: readonly string[]): this {
    for (const address of addresses) this.set('local_addresses', addressBytes(address), 'local_entry', { known: 1 });
    return this;
  }

  /** Gives the 64 ports from `port` on, of both protocols, to a binding. */
  claimBlock(id: number, address: string, port: number): this {
    const index = Math.floor(port / 64);
    const key = this.encode('block_key', { local: { word: addressWords(address) }, index });
    this.set('port_blocks', key, 'block_entry', { binding: id });
    this.map('port_filter', (map) => {
      for (const word of [index, index + 1024]) map.set(u32(word), Buffer.alloc(8, 0xff));
    });
    const ports = Array.from({ length: 64 }, (_, offset) => index * 64 + offset);
    const places = ports.flatMap((each) => [this.place('tcp', address, each), this.place('udp', address, each)]);
    this.fastPath.claimFree(
      places.filter((place) => !this.general.has(nameOf(place))),
      id,
    );
    return this;
  }

  setParkState(id: number, parked: number, replayed: number, released = replayed): this {
    this.set('park_states', u32(id), 'park_state', { parked, replayed });
    this.set('park_releases', u32(id), 'park_release', { replayed: released });
    return this;
  }

  parkState(id: number): { parked: number; replayed: number } {
    const bytes = this.map('park_states', (map) => map.get(u32(id)));
    if (bytes === undefined) throw new Error(`binding ${id} has no park state`);
    const { parked, replayed } = new StructCodec(this.object.btf, 'park_state').decode(bytes);
    return { parked: Number(parked), replayed: Number(replayed) };
  }

  /**
   * Runs one packet. Throws unless it was counted exactly once: one reason of the program's own hook, with all its bytes.
   * `mark` and `gsoSize` are the skb's; tc only.
   */
  run(
    name: ProgramName,
    data: Uint8Array,
    skb: { mark?: number; gsoSize?: number; gsoSegments?: number } = {},
  ): Outcome {
    const before = this.counters();
    const beforeBinding = this.bindingCounters();
    const ctx = Object.keys(skb).length > 0 ? skBuff(skb) : undefined;
    const ran = this.program(name).testRun({ data, ...(ctx === undefined ? {} : { ctx }) });
    const { retval, data: frame } = ran;
    const counted = [...this.counters()].flatMap(([index, { packets, bytes }]) => {
      const more = packets - (before.get(index)?.packets ?? 0);
      return more === 0 ? [] : [{ index, packets: more, bytes: bytes - (before.get(index)?.bytes ?? 0) }];
    });
    const [only] = counted;
    if (only === undefined || counted.length > 1 || only.packets !== 1) {
      throw new Error(`${name} must count a packet exactly once, counted ${JSON.stringify(counted)}`);
    }
    if (only.bytes !== data.length) throw new Error(`${name} counted ${only.bytes} bytes of a frame of ${data.length}`);
    const reasons = Object.keys(Reason) as ReasonName[];
    if (Math.floor(only.index / Counters.per_hook) !== HOOKS[name])
      throw new Error(`${name} counted under another hook`);
    const verdict = name === 'hp_xdp' ? XDP_VERDICTS[retval] : TC_VERDICTS[retval];
    const binding = new Map<ReasonName, number>();
    for (const [reason, packets] of this.bindingCounters()) {
      const more = packets - (beforeBinding.get(reason) ?? 0);
      if (more !== 0) binding.set(reasons[reason] ?? 'malformed', more);
    }
    const reason = reasons[only.index % Counters.per_hook] ?? 'malformed';
    return { verdict: verdict ?? `unknown ${retval}`, reason, frame, mark: ran.ctx?.readUInt32LE(8) ?? 0, binding };
  }

  /** Empties the maps: the bench is as new, at a hundredth of the time of another one. */
  clear(): this {
    this.map('flows', (map) => this.fastFlows.remove([...map.keys()]));
    for (const name of EMPTIED) this.map(name, (map) => [...map.keys()].forEach((key) => void map.delete(key)));
    this.map('port_filter', (map) => {
      for (const [key, word] of map.entries()) if (word.some((byte) => byte !== 0)) map.set(key, Buffer.alloc(8));
    });
    for (const id of this.bound) this.fastPath.remove(id);
    for (const place of this.places.values()) this.fastPath.release(place);
    this.bound.clear();
    this.places.clear();
    this.general.clear();
    return this;
  }

  /** Packets that a fast path tunnelled, of all bindings. */
  fastTunnelled(): number {
    return [...this.bound].reduce((sum, id) => sum + this.fastTunnelledFor(id), 0);
  }

  private fastTunnelledFor(id: number): number {
    return this.fastPath.tunnelled(id).reduce((sum, counter) => sum + Number(counter.readBigUInt64LE()), 0);
  }

  close(): void {
    for (const program of this.programs.values()) program.close();
    this.fastPath.close();
    this.fastFlows.close();
    this.object.close();
  }

  program(name: ProgramName): BpfProgram {
    const known = this.programs.get(name);
    if (known !== undefined) return known;
    const opened = this.object.program(name);
    this.programs.set(name, opened);
    return opened;
  }

  private counters(): Map<number, { packets: number; bytes: number }> {
    return this.map('counters', (map) => {
      const sums = new Map<number, { packets: number; bytes: number }>();
      for (const [key, values] of map.entriesPerCpu()) {
        const [packets, bytes] = [0, 8].map((offset) =>
          values.reduce((sum, value) => sum + Number(value.readBigUInt64LE(offset)), 0),
        );
        if (packets) sums.set(key.readUInt32LE(0), { packets, bytes: bytes ?? 0 });
      }
      return sums;
    });
  }

  /** Packets of all bindings by reason. */
  bindingCounters(): Map<number, number> {
    const sums = new Map<number, number>();
    for (const { reason, packets } of this.countedForBindings()) sums.set(reason, (sums.get(reason) ?? 0) + packets);
    return sums;
  }

  /** Packets of each binding. @throws {Error} when something was counted for a binding that is not there */
  countedForBindings(): BindingCount[] {
    const packetsOf = (perCpu: readonly Buffer[]): number =>
      perCpu.reduce((sum, counter) => sum + Number(counter.readBigUInt64LE()), 0);
    const fast = [...this.bound].flatMap((id) =>
      this.fastPath
        .counted(id)
        .map(({ reason, perCpu }) => ({ id, reason: Number(reason), packets: packetsOf(perCpu) })),
    );
    const general = this.map('binding_counters', (map) =>
      [...map.entriesPerCpu()].map(([key, values]) => {
        const id = key.readUInt32LE(0);
        if (this.map('bindings', (bindings) => bindings.get(u32(id))) === undefined) {
          throw new Error(`a packet was counted for binding ${id}, which does not exist`);
        }
        return { id, reason: key.readUInt32LE(4), packets: packetsOf(values) };
      }),
    );
    const sums = new Map<string, BindingCount>();
    for (const { id, reason, packets } of [...fast, ...general]) {
      const name = `${id} ${reason}`;
      sums.set(name, { id, reason, packets: packets + (sums.get(name)?.packets ?? 0) });
    }
    return [...sums.values()].filter(({ packets }) => packets > 0);
  }

  private place(protocol: FastPlace['protocol'], address: string, port: number): FastPlace {
    const place = { protocol, port, local: { word: addressWords(address) } };
    this.places.set(nameOf(place), place);
    return place;
  }

  private encode(struct: string, values: Parameters<StructCodec['encode']>[0]): Buffer {
    return new StructCodec(this.object.btf, struct).encode(values);
  }

  private set(map: string, key: Uint8Array, struct: string, values: Parameters<StructCodec['encode']>[0]): void {
    this.map(map, (opened) => opened.set(key, this.encode(struct, values)));
  }

  private map<R>(name: string, use: (map: ReturnType<BpfObject['map']>) => R): R {
    const map = this.object.map(name);
    try {
      return use(map);
    } finally {
      map.close();
    }
  }
}

/** struct __sk_buff of linux/bpf.h with the fields that a test run takes. */
export function skBuff(fields: { mark?: number; gsoSize?: number; gsoSegments?: number }): Buffer {
  const ctx = Buffer.alloc(192);
  ctx.writeUInt32LE(fields.mark ?? 0, 8);
  ctx.writeUInt32LE(fields.gsoSegments ?? 0, 164);
  ctx.writeUInt32LE(fields.gsoSize ?? 0, 176);
  return ctx;
}
