import { setImmediate as turn } from 'node:timers/promises';
import { Action, Reason } from './abi.gen.js';
import type { Tables } from './tables.js';

export interface Traffic {
  readonly packets: number;
  readonly bytes: number;
}

/** What the maps hold at one time, for those who count and do not decide. */
export interface Census {
  /** Bindings by their action: every action is there. */
  readonly actions: ReadonlyMap<string, number>;
  /** Packets that wait in the park queue of each binding that has some waiting. */
  readonly waiting: ReadonlyMap<number, number>;
  /** By binding and reason; reasons that never occurred are absent. */
  readonly traffic: ReadonlyMap<number, ReadonlyMap<string, Traffic>>;
}

const NAME_OF_ACTION = new Map<number, string>(Object.entries(Action).map(([name, value]) => [value, name]));
const NAME_OF_REASON = new Map<number, string>(Object.entries(Reason).map(([name, value]) => [value, name]));
/** Entries between two turns of the event loop: whoever counts must not hold up a process that is frozen. */
const SLICE = 512;

/** Walks over the maps once, with few system calls, and lets others run in between. */
export async function takeCensus(tables: Tables): Promise<Census> {
  const pause = pacer();
  const actions = new Map([...NAME_OF_ACTION.values()].map((name) => [name, 0]));
  const waiting = new Map<number, number>();
  const traffic = new Map<number, Map<string, Traffic>>();
  const ids: number[] = [];
  const bindingOf = tables.bindingCounterKeyCodec.numberReader('binding');
  const reasonOf = tables.bindingCounterKeyCodec.numberReader('reason');
  const sum = adder(tables);
  for (const [id, action] of tables.bindings.column('action')) {
    const name = NAME_OF_ACTION.get(action);
    if (name !== undefined) actions.set(name, (actions.get(name) ?? 0) + 1);
    ids.push(id);
    await pause();
  }
  for (const [id, { parked, replayed }] of tables.parkStates.entries()) {
    if (parked > replayed) waiting.set(id, Number(parked - replayed));
    await pause();
  }
  for (const [key, values] of tables.bindingCounters.entriesPerCpu()) {
    add(traffic, bindingOf(key), NAME_OF_REASON.get(reasonOf(key)), sum(values));
    await pause();
  }
  for (const id of ids) {
    for (const { reason, perCpu } of tables.fastPath.counted(id)) {
      add(traffic, id, NAME_OF_REASON.get(reason), sum(perCpu));
    }
    await pause();
  }
  return { actions, waiting, traffic };
}

function pacer(): () => Promise<void> | undefined {
  let seen = 0;
  return () => (++seen % SLICE === 0 ? turn() : undefined);
}

function add(
  traffic: Map<number, Map<string, Traffic>>,
  binding: number,
  reason: string | undefined,
  { packets, bytes }: Traffic,
): void {
  if (reason === undefined || packets === 0) return;
  const own = traffic.get(binding) ?? new Map<string, Traffic>();
  const present = own.get(reason) ?? { packets: 0, bytes: 0 };
  own.set(reason, { packets: present.packets + packets, bytes: present.bytes + bytes });
  traffic.set(binding, own);
}

/** Sums the values of all CPUs. */
function adder({ counterCodec }: Tables): (perCpu: readonly Buffer[]) => Traffic {
  const packetsOf = counterCodec.numberReader('packets');
  const bytesOf = counterCodec.numberReader('bytes');
  return (perCpu) => {
    let packets = 0;
    let bytes = 0;
    for (const value of perCpu) {
      packets += packetsOf(value);
      bytes += bytesOf(value);
    }
    return { packets, bytes };
  };
}
