/* Tables of packets that arrive on an uplink, each row through XDP and through tc. */

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import type { Bench, BindingFields, ReasonName, Verdict } from './bench.js';
import { BINDING, careOfBench, furnish, homeBench } from './scene.js';

export interface ArrivalRow {
  readonly description: string;
  readonly at: 'home' | 'care-of';
  readonly binding: BindingFields;
  readonly input: Buffer;
  /** Default: as it came. A function gets the actual frame, for what the program is free to choose. */
  readonly output?: Buffer | ((actual: Buffer) => Buffer);
  readonly xdp: Verdict;
  readonly tc: Verdict;
  readonly reason: ReasonName;
  /** When XDP leaves the decision to tc. */
  readonly xdpReason?: ReasonName;
  /** When tc leaves the MACs to the kernel. */
  readonly viaKernel?: boolean;
  readonly prepare?: (bench: Bench) => void;
}

export const pass = { xdp: 'pass', tc: 'pass' } as const;
export const drop = { xdp: 'drop', tc: 'drop' } as const;
export const redirect = { xdp: 'redirect', tc: 'redirect' } as const;
/** Out of the interface that it came in by. */
export const back = { xdp: 'tx', tc: 'redirect' } as const;

/** One test for each row and program. */
export function testArrivals(name: string, rows: readonly ArrivalRow[]): void {
  for (const program of ['hp_xdp', 'hp_ingress'] as const) {
    const test = suite(`${name}, ${program}`);
    const benches = { home: homeBench(), 'care-of': careOfBench() };
    for (const row of rows) {
      test(row.description, () => testArrival(furnish(benches[row.at].clear()), program, row));
    }
    test.after(() => Object.values(benches).forEach((bench) => void bench.close()));
    test.run();
  }
}

function testArrival(bench: Bench, program: 'hp_xdp' | 'hp_ingress', row: ArrivalRow): void {
  bench.bind(BINDING, row.binding).setParkState(BINDING, 0, 0);
  row.prepare?.(bench);
  const before = bench.parkState(BINDING);
  const outcome = bench.run(program, row.input);
  const slow = program === 'hp_xdp' && row.xdpReason !== undefined;
  assert.equal(
    [outcome.verdict, outcome.reason],
    [program === 'hp_xdp' ? row.xdp : row.tc, slow ? row.xdpReason : row.reason],
  );
  const rewritten = row.output !== undefined && outcome.verdict !== 'drop' && !slow;
  const viaKernel = program === 'hp_ingress' && row.viaKernel === true;
  if (!viaKernel && outcome.verdict !== 'drop') {
    const output = typeof row.output === 'function' && rewritten ? row.output(outcome.frame) : row.output;
    const expected = rewritten && output instanceof Buffer ? output : row.input;
    assert.is(outcome.frame.toString('hex'), expected.toString('hex'));
  }
  const parkedNow = outcome.reason === 'parked' ? 1 : 0;
  assert.is(bench.parkState(BINDING).parked - before.parked, parkedNow, 'the order counts what was parked');
}
