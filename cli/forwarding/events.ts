import { type BpfObject, ntohs, RingBuffer, StructCodec } from '../../addon/lib/index.js';
import { kernelClock } from '../system/procfs.js';
import { type EventStruct, Hook, Reason, type TraceSettingsStruct, Verdict } from './abi.gen.js';
import { decodeAddress } from './address.js';
import type { ReasonName } from './reasons.js';

const NAME_OF_REASON = new Map<number, string>(Object.entries(Reason).map(([name, value]) => [value, name]));
const NAME_OF_HOOK = new Map<number, string>(Object.entries(Hook).map(([name, value]) => [value, name]));
const NAME_OF_VERDICT = new Map<number, string>(Object.entries(Verdict).map(([name, value]) => [value, name]));

export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** What a program did with one packet. */
export interface PacketEvent {
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly hook: string;
  /** `pass`, `drop`, `redirect`, or `answer`: dropped, and its sender told so by ICMP. */
  readonly verdict: string;
  readonly reason: string;
  /** 0: none. */
  readonly binding: number;
  readonly ifindex: number;
  /** Of the frame, in bytes. */
  readonly length: number;
  /** Number of the IP protocol. */
  readonly protocol: number;
  /** Absent when the headers could not be read. Of a tunnelled packet, the inner one's. */
  readonly flow?: { readonly family: 4 | 6; readonly source: Endpoint; readonly destination: Endpoint };
  /** Events of this kind (drops of this reason, or samples) that one CPU left out before this one, to bound the rate. */
  readonly suppressed: number;
}

/** Which events somebody wants to see. */
export interface EventFilter {
  /** Drops alone; else drops and a sample of all other decisions. */
  readonly drops: boolean;
  /** One in so many of the packets that were not dropped. */
  readonly oneIn: number;
  readonly binding?: number;
  /** Empty: all. */
  readonly reasons: readonly ReasonName[];
}

/** Drops that are kept for those who come too late. */
const KEPT_DROPS = 512;
const ALL_REASONS = (1n << 64n) - 1n;
const NOTHING: TraceSettingsStruct = { reasons: 0n, one_in: 0, binding: 0 };

/**
 * Events of the datapath's programs. The ring in the kernel has one reader, and it is us: every subscriber gets a copy of
 * what it asked for. The programs report beside drops only what some subscriber wants.
 */
export class DatapathEvents {
  private readonly ring: RingBuffer;
  private readonly codec: StructCodec;
  private readonly subscribers = new Map<object, { filter: EventFilter; take: (event: PacketEvent) => void }>();
  private readonly kept: PacketEvent[] = [];

  constructor(private readonly object: BpfObject) {
    this.codec = new StructCodec(object.btf, 'event');
    const map = object.map('events');
    try {
      this.ring = new RingBuffer(map, (sample) => this.take(sample));
    } finally {
      map.close();
    }
    this.apply();
  }

  /** Calls `take` for every event that passes the filter, until the returned function is called. */
  subscribe(filter: EventFilter, take: (event: PacketEvent) => void): () => void {
    const key = {};
    this.subscribers.set(key, { filter, take });
    this.apply();
    return () => {
      if (this.subscribers.delete(key)) this.apply();
    };
  }

  /** The last drops, oldest first, at most so many. */
  recentDrops(filter: EventFilter, most: number): PacketEvent[] {
    if (most === 0) return [];
    return this.kept.filter((event) => wants(filter, event)).slice(-most);
  }

  /** Nobody traces any more. */
  close(): void {
    this.subscribers.clear();
    this.apply();
    this.ring.close();
  }

  private take(sample: Buffer): void {
    if (sample.length !== this.codec.size) return; // left in the ring by programs of another version
    const event = decode(this.codec.decode(sample) as EventStruct);
    if (isDrop(event)) {
      this.kept.push(event);
      if (this.kept.length > KEPT_DROPS) this.kept.shift();
    }
    for (const { filter, take } of [...this.subscribers.values()]) if (wants(filter, event)) take(event);
  }

  /** Tells the programs what to sample: no more than what all subscribers together want. */
  private apply(): void {
    const sampling = [...this.subscribers.values()].map(({ filter }) => filter).filter(({ drops }) => !drops);
    this.writeSettings(sampling.length === 0 ? NOTHING : settingsFor(sampling));
  }

  private writeSettings(settings: TraceSettingsStruct): void {
    const section = this.object.map('.bss');
    const place = this.object.btf.variables('.bss').find(({ name }) => name === 'tracing');
    try {
      const key = Buffer.alloc(4);
      const bytes = section.get(key);
      if (place === undefined || bytes === undefined) throw new RangeError('the object has no variable `tracing`');
      new StructCodec(this.object.btf, 'trace_settings').encode(settings).copy(bytes, place.offset);
      section.set(key, bytes);
    } finally {
      section.close();
    }
  }
}

function settingsFor(filters: readonly EventFilter[]): TraceSettingsStruct {
  const bindings = new Set(filters.map(({ binding }) => binding));
  const [only] = bindings;
  const everything = filters.some(({ reasons }) => reasons.length === 0);
  const mask = filters
    .flatMap(({ reasons }) => reasons)
    .reduce((bits, name) => bits | (1n << BigInt(Reason[name])), 0n);
  return {
    reasons: everything ? ALL_REASONS : mask,
    one_in: Math.min(...filters.map(({ oneIn }) => oneIn)),
    binding: bindings.size === 1 && only !== undefined ? only : 0,
  };
}

/** Among several subscribers the smallest `oneIn` counts for all: each sees at least what it asked for. */
function wants({ drops, binding, reasons }: EventFilter, event: PacketEvent): boolean {
  if (drops && !isDrop(event)) return false;
  if (binding !== undefined && event.binding !== binding) return false;
  return reasons.length === 0 || reasons.some((reason) => reason === event.reason);
}

function isDrop({ verdict }: PacketEvent): boolean {
  return verdict === 'drop' || verdict === 'answer';
}

function decode(event: EventStruct): PacketEvent {
  const ageMs = Number(kernelClock() - event.time) / 1e6;
  const readable = [...event.source.word, ...event.destination.word].some((word) => word !== 0);
  const source = { address: decodeAddress(event.source), port: ntohs(event.source_port) };
  const destination = { address: decodeAddress(event.destination), port: ntohs(event.destination_port) };
  return {
    time: Date.now() - ageMs,
    hook: NAME_OF_HOOK.get(event.hook) ?? String(event.hook),
    verdict: NAME_OF_VERDICT.get(event.verdict) ?? String(event.verdict),
    reason: NAME_OF_REASON.get(event.reason) ?? String(event.reason),
    binding: event.binding,
    ifindex: event.ifindex,
    length: event.length,
    protocol: event.protocol,
    ...(readable ? { flow: { family: source.address.includes(':') ? 6 : 4, source, destination } } : {}),
    suppressed: event.suppressed,
  };
}
