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
  const rows: CounterRow[] = [];
  for (const [hook, hookName] of HOOKS) {
    for (const [reason, reasonName] of REASONS) {
      const key = Buffer.alloc(4);
      key.writeUInt32LE(hook * Counters.per_hook + reason);
      rows.push({ hook: hookName, reason: reasonName, ...sum(tables, tables.counters.getPerCpu(key) ?? []) });
    }
  }
  return rows;
}

/** The counters of one binding; reasons that never occurred are absent. */
export function readBindingCounters(tables: Tables, binding: number): BindingTotals {
  const totals: Record<string, PacketCount> = {};
  for (const [reason, name] of REASONS) {
    const key = tables.bindingCounterKeyCodec.encode({ binding, reason });
    const values = tables.bindingCounters.getPerCpu(key);
    const fast = reason === Reason.tunnelled ? tables.fastPath.tunnelled(binding) : [];
    const total = sum(tables, [...(values ?? []), ...fast]);
    if (values !== undefined || total.packets > 0n) totals[name] = total;
  }
  return totals;
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
