import { BugError } from '../errors.js';
import { type CounterStruct, Counters, Hook, Reason } from './abi.gen.js';
import type { Tables } from './tables.js';

export interface PacketCount {
  readonly packets: bigint;
  readonly bytes: bigint;
}

export interface CounterRow extends PacketCount {
  readonly hook: string;
  readonly reason: string;
}

/** By reason. */
export type BindingTotals = Readonly<Record<string, PacketCount>>;

const HOOKS = names(Hook);
const REASONS = names(Reason);

/** Every counter of the node; see enum counters in bpf/abi.h for their places. */
export function readCounters(tables: Tables): CounterRow[] {
  const values = new Map<number, readonly Buffer[]>();
  for (const [key, perCpu] of tables.counters.entriesPerCpu()) values.set(key.readUInt32LE(), perCpu);
  return HOOKS.flatMap(([hook, hookName]) =>
    REASONS.map(([reason, reasonName]) => ({
      hook: hookName,
      reason: reasonName,
      ...sum(tables, values.get(hook * Counters.per_hook + reason) ?? []),
    })),
  );
}

/** The counters of one binding; reasons that never occurred are absent. */
export function readBindingCounters(tables: Tables, binding: number): BindingTotals {
  const totals: Record<string, PacketCount> = {};
  const fastCounts = new Map(tables.fastPath.counted(binding).map(({ reason, perCpu }) => [reason, perCpu]));
  for (const [reason, name] of REASONS) {
    const key = tables.bindingCounterKeyCodec.encode({ binding, reason });
    const values = tables.bindingCounters.getPerCpu(key);
    const total = sum(tables, [...(values ?? []), ...(fastCounts.get(reason) ?? [])]);
    if (values !== undefined || total.packets > 0n) totals[name] = total;
  }
  return totals;
}

/**
 * Counts packets of a binding that the programs could not: only under a reason that no program gives, because what a program
 * adds meanwhile would be lost.
 */
export function countForPrograms(tables: Tables, hook: number, reason: number, binding: number, packets: bigint): void {
  const index = Buffer.alloc(4);
  index.writeUInt32LE(hook * Counters.per_hook + reason);
  const total = tables.counters.getPerCpu(index) ?? [];
  const zero = tables.counterCodec.encode({ packets: 0n, bytes: 0n });
  tables.counters.setPerCpu(index, withMore(tables, total, packets));
  const key = tables.bindingCounterKeyCodec.encode({ binding, reason });
  const own = tables.bindingCounters.getPerCpu(key) ?? total.map(() => zero);
  tables.bindingCounters.setPerCpu(key, withMore(tables, own, packets));
}

function withMore(tables: Tables, [first, ...others]: readonly Buffer[], packets: bigint): Buffer[] {
  if (first === undefined) throw new BugError('a counter without a value for the first CPU');
  const counter = tables.counterCodec.decode(first) as CounterStruct;
  return [tables.counterCodec.encode({ ...counter, packets: counter.packets + packets }), ...others];
}

function sum(tables: Tables, perCpu: readonly Buffer[]): PacketCount {
  let packets = 0n;
  let bytes = 0n;
  for (const value of perCpu) {
    const counter = tables.counterCodec.decode(value) as CounterStruct;
    packets += counter.packets;
    bytes += counter.bytes;
  }
  return { packets, bytes };
}

function names(members: Readonly<Record<string, number>>): [number, string][] {
  return Object.entries(members)
    .filter(([name]) => name !== 'count')
    .map(([name, value]) => [value, name]);
}
