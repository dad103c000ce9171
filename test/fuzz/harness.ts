import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';
import { BpfMap, CHANGE_ROW, runBatch } from '../../addon/lib/index.js';
import { Counters, DeviceRole, Hook, Reason } from '../../cli/forwarding/abi.gen.js';
import { LOOPBACK_ADDRESSES, loopbackName } from '../../cli/forwarding/loopback.js';
import { ARRIVAL_IFINDEX, Bench, type BindingCount, type ProgramName, type ReasonName } from '../packet/bench.js';
import { Protocol } from '../packet/packets.js';
import { BINDING, furnish, HOME, HOME6, SERVICE_PORT } from '../packet/scene.js';
import {
  COPIED,
  DECOY_BINDING,
  DECOY_PORT,
  LISTENING_PORTS,
  SECOND_HOME,
  SHARED_BINDING,
  SHARED_PORT,
  STALE_BINDING,
  STALE_PORT,
  UNCOPIED,
} from './cast.js';
import { LONGEST_FRAME } from './mutate.js';
import type { Scene } from './scenes.js';

const BPF_F_MMAPABLE = 1 << 10;
/** struct __sk_buff of linux/bpf.h. */
export const SKB_BYTES = 192;
export const SKB_MARK = 8;
export const SKB_GSO_SEGMENTS = 164;
export const SKB_GSO_SIZE = 176;
/** What the programs remember of earlier packets: each scene begins without. */
const MEMORY = ['too_big_answers', 'fragments', 'path_mtus', 'narrowest_path'];
/** Places in the queue before a batch, where some are taken. */
const QUEUED = 5;

/** Packets that run one behind the other, and what becomes of them. */
export class Batch {
  readonly packets: Buffer;
  readonly lengths: Uint32Array;
  readonly offsets: Uint32Array;
  readonly contexts: Buffer;
  count = 0;

  constructor(readonly room: number) {
    this.packets = Buffer.alloc(room * LONGEST_FRAME);
    this.lengths = new Uint32Array(room);
    this.offsets = new Uint32Array(room);
    this.contexts = Buffer.alloc(room * SKB_BYTES);
  }

  get end(): number {
    return this.count === 0 ? 0 : (this.offsets[this.count - 1] as number) + (this.lengths[this.count - 1] as number);
  }

  clear(): void {
    this.count = 0;
  }

  /** Takes the frame that lies at `end`. @param gsoSize of a super-packet, the bytes of each segment */
  take(length: number, mark = 0, gsoSize = 0): void {
    const index = this.count;
    this.offsets[index] = this.end;
    this.lengths[index] = length;
    const context = index * SKB_BYTES;
    this.contexts.writeUInt32LE(mark, context + SKB_MARK);
    this.contexts.writeUInt32LE(gsoSize === 0 ? 0 : Math.ceil(length / gsoSize), context + SKB_GSO_SEGMENTS);
    this.contexts.writeUInt32LE(gsoSize, context + SKB_GSO_SIZE);
    this.count++;
  }

  packet(index: number): Buffer {
    const from = this.offsets[index] as number;
    return this.packets.subarray(from, from + (this.lengths[index] as number));
  }

  context(index: number): Buffer {
    return this.contexts.subarray(index * SKB_BYTES, (index + 1) * SKB_BYTES);
  }

  /** The same packets as ordinary ones. */
  withoutContexts(): Batch {
    return Object.assign(Object.create(Batch.prototype) as Batch, this, {
      contexts: Buffer.alloc(this.contexts.length),
    });
  }

  entries(): Entry[] {
    return Array.from({ length: this.count }, (_, index) => ({
      frame: Buffer.from(this.packet(index)),
      mark: this.context(index).readUInt32LE(SKB_MARK),
      gsoSize: this.context(index).readUInt32LE(SKB_GSO_SIZE),
    }));
  }

  static of(entries: readonly Entry[]): Batch {
    const batch = new Batch(entries.length);
    for (const { frame, mark, gsoSize } of entries) {
      frame.copy(batch.packets, batch.end);
      batch.take(frame.length, mark, gsoSize);
    }
    return batch;
  }
}

/** One packet of a batch, by itself. */
export interface Entry {
  readonly frame: Buffer;
  readonly mark: number;
  /** Bytes of each segment of a super-packet; 0: a plain packet. */
  readonly gsoSize: number;
}

/** Whether the kernel did not take the packet. -1 is no errno of a test run (EPERM), but how a tc program passes a packet on. */
export const wasRefused = (verdict: number): boolean => verdict < -1;

/** What became of the packets of a batch. */
export interface Outcomes {
  readonly verdicts: Int32Array;
  readonly outputs: Buffer;
  readonly outputOffsets: Uint32Array;
  readonly sizes: Uint32Array;
  readonly contextsOut: Buffer;
  /** Rows of CHANGE_ROW: which words of `counters` changed. */
  readonly changes: Uint32Array;
  /** How many places in the bindings' queues were taken, and given back. */
  readonly parked: number;
  readonly replayed: number;
  /** What was counted for the bindings. */
  readonly bindings: readonly (BindingCount & { readonly name: ReasonName })[];
  /** How many packets a fast path tunnelled. */
  readonly fast: number;
}

/** `general`: programs without their fast paths (`fast_path` of bpf/constants.h), which must do the same. */
export type Path = 'fast' | 'general';

interface Node {
  readonly bench: Bench;
  readonly counters: BpfMap;
}

/** The real programs, with counters that can be watched without a system call. */
export class Harness {
  private readonly nodes = new Map<string, Node>();
  /** Of each path its own: what came out of one is there while the other one runs. */
  private readonly outputs: Readonly<Record<Path, Buffer>>;
  private readonly contextsOut: Readonly<Record<Path, Buffer>>;

  constructor(room: number) {
    listen();
    const bothOf = (bytes: number) => ({ fast: Buffer.alloc(room * bytes), general: Buffer.alloc(room * bytes) });
    this.outputs = bothOf(LONGEST_FRAME + 256);
    this.contextsOut = bothOf(SKB_BYTES);
  }

  /** Sets the scene, runs the scene's program (or another one) on every packet. */
  run(scene: Scene, batch: Batch, program = scene.program, path: Path = 'fast'): Outcomes {
    const { bench, counters } = this.node(scene, path);
    this.setScene(bench, scene, program);
    const counted = bench.countedForBindings();
    const fast = bench.fastTunnelled();
    const contextBytes = batch.count * SKB_BYTES;
    const result = runBatch(bench.program(program), {
      packets: batch.packets.subarray(0, batch.end),
      lengths: batch.lengths.subarray(0, batch.count),
      outputs: this.outputs[path],
      ...(program === 'hp_xdp'
        ? {}
        : {
            contexts: batch.contexts.subarray(0, contextBytes),
            contextsOut: this.contextsOut[path].subarray(0, contextBytes),
          }),
      watch: [counters],
    });
    if (result.count !== batch.count) throw new Error(`${result.count} of ${batch.count} packets were run`);
    const own = bench.parkState(BINDING);
    const others = [SHARED_BINDING, DECOY_BINDING].map((id) => bench.parkState(id));
    const sum = (field: 'parked' | 'replayed'): number => others.reduce((all, state) => all + state[field], 0);
    const outputOffsets = new Uint32Array(batch.count);
    for (let i = 1; i < batch.count; i++) {
      outputOffsets[i] = (outputOffsets[i - 1] as number) + (result.sizes[i - 1] as number);
    }
    return {
      verdicts: result.verdicts,
      sizes: result.sizes,
      outputs: this.outputs[path],
      outputOffsets,
      contextsOut: this.contextsOut[path],
      changes: result.changes[0] as Uint32Array,
      parked: own.parked - QUEUED + sum('parked'),
      replayed: own.replayed - (scene.queued ? 0 : QUEUED) + sum('replayed'),
      bindings: difference(bench.countedForBindings(), counted),
      fast: bench.fastTunnelled() - fast,
    };
  }

  close(): void {
    for (const { bench, counters } of this.nodes.values()) {
      bench.close();
      counters.close();
    }
  }

  private setScene(bench: Bench, scene: Scene, program: ProgramName): void {
    bench
      .bind(BINDING, scene.binding)
      .bind(SHARED_BINDING, { ...scene.binding, action: scene.sharedAction })
      .bind(DECOY_BINDING, { ...scene.binding, action: scene.sharedAction })
      .setParkState(BINDING, QUEUED, scene.queued ? 0 : QUEUED)
      .setParkState(SHARED_BINDING, 0, 0)
      .setParkState(DECOY_BINDING, 0, 0)
      .device(
        ARRIVAL_IFINDEX,
        scene.knownDevice ? BINDING : STALE_BINDING,
        program === 'hp_replay' ? DeviceRole.park : DeviceRole.pod,
      );
    for (const name of MEMORY.filter((each) => bench.object.maps.includes(each))) {
      const map = bench.object.map(name);
      map.clear();
      map.close();
    }
  }

  /** One for each set of constants. */
  private node({ node, node6, transmitInPlace }: Scene, path: Path): Node {
    const key = `${node} ${transmitInPlace} ${path}`;
    const known = this.nodes.get(key);
    if (known !== undefined) return known;
    const counters = BpfMap.create({
      type: 'array',
      name: 'counters',
      keySize: 4,
      valueSize: 16,
      maxEntries: Hook.count * Counters.per_hook,
      flags: BPF_F_MMAPABLE,
    });
    const bench = new Bench(node, {
      other: node6,
      maps: { counters },
      rodata: { transmit_in_place: transmitInPlace ? 1 : 0, fast_path: path === 'fast' ? 1 : 0 },
    });
    for (const protocol of [Protocol.tcp, Protocol.udp]) {
      bench
        .claim(BINDING, HOME, SERVICE_PORT, { protocol })
        .claim(STALE_BINDING, HOME, STALE_PORT, { protocol })
        .claim(SHARED_BINDING, HOME, SHARED_PORT, { protocol, shared: true })
        .claim(DECOY_BINDING, HOME, DECOY_PORT, { protocol, shared: true })
        .claim(DECOY_BINDING, SECOND_HOME, SHARED_PORT, { protocol, shared: true });
      for (const loopback of LOOPBACK_ADDRESSES) {
        bench.claim(BINDING, loopbackName(HOME, loopback), SERVICE_PORT, { protocol });
      }
    }
    for (const { binding, local, remote, protocol } of COPIED) bench.flow(binding, [...local], [...remote], protocol);
    for (const { binding, local, remote, protocol } of UNCOPIED) {
      for (const id of [DECOY_BINDING, binding]) {
        bench.flow(id, [...local], [...remote], protocol, id === DECOY_BINDING);
      }
    }
    furnish(bench).local(node, node6);
    if (node !== HOME) bench.allowAs(HOME6, HOME);
    const made = { bench, counters };
    this.nodes.set(key, made);
    return made;
  }
}

function difference(after: readonly BindingCount[], before: readonly BindingCount[]): Outcomes['bindings'] {
  const names = Object.keys(Reason) as ReasonName[];
  const key = ({ id, reason }: BindingCount): string => `${id} ${reason}`;
  const sums = new Map<string, BindingCount>();
  const add = (count: BindingCount, sign: number): void => {
    const packets = (sums.get(key(count))?.packets ?? 0) + sign * count.packets;
    sums.set(key(count), { ...count, packets });
  };
  for (const count of before) add(count, -1);
  for (const count of after) add(count, 1);
  return [...sums.values()]
    .filter(({ packets }) => packets !== 0)
    .map((count) => ({ ...count, name: names[count.reason] as ReasonName }));
}

let listening = false;

/** Somebody who is there, for both protocols and families, as long as this process: a test run looks for him, and delivers nothing. */
function listen(): void {
  if (listening) return;
  listening = true;
  createServer().listen(LISTENING_PORTS[Protocol.tcp]).unref(); // without a host it listens before this returns
  const lookup = (
    host: string,
    _options: object,
    found: (error: null, address: string, family: number) => void,
  ): void => found(null, host, 6); // at once, and bind() is done as well
  createSocket({ type: 'udp6', lookup })
    .bind({ port: LISTENING_PORTS[Protocol.udp] as number, address: '::' })
    .unref();
}

export { CHANGE_ROW };
