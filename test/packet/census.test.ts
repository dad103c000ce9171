/** What a count of the maps says, and how long a page of metrics with a thousand bindings takes to make. */

import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfMap } from '../../addon/lib/index.js';
import { Action, Reason } from '../../cli/forwarding/abi.gen.js';
import { takeCensus } from '../../cli/forwarding/census.js';
import { readBindingCounters } from '../../cli/forwarding/counters.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { addForwardingMetrics } from '../../cli/metrics/forwarding-metrics.js';
import { MetricsPage } from '../../cli/metrics/page.js';
import type { ProcessSeen } from '../../cli/metrics/process-series.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { sampleOf, samplesOf, sumOf } from '../exposition.js';
import { suite } from '../suite.js';
import { bindingOf } from './binding-fields.js';

const BINDINGS = 1000;
const OWN_SERIES = 100;
const HOME = '10.0.0.2';
const REASONS = [Reason.parked, Reason.tunnelled, Reason.guarded, Reason.too_big, Reason.replayed_home];

const pins = join(bpffs, 'census');
const datapath = await Datapath.open({
  objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
  pins,
  run: join(folder, 'census'),
  nodeAddress: HOME,
  uplinks: [],
  flowCapacity: 5000,
});
const { tables } = datapath;

const binding = bindingOf({ action: 'tunnel', egress: 'shut' }, HOME);

/** Counts as a program on every CPU would have: `packets` on each. */
function count(id: number, reason: number, packets: bigint): void {
  const key = tables.bindingCounterKeyCodec.encode({ binding: id, reason });
  const cpus = tables.counters.getPerCpu(Buffer.alloc(4))?.length ?? 1;
  const value = tables.counterCodec.encode({ packets, bytes: packets * 100n });
  tables.bindingCounters.setPerCpu(
    key,
    Array.from({ length: cpus }, () => value),
  );
}

const test = suite('a census of the maps');

test.before(() => {
  for (let id = 1; id <= BINDINGS; id++) {
    tables.putBinding(id, { ...binding, action: id === 1 ? Action.park : Action.tunnel });
    for (const reason of REASONS) count(id, reason, BigInt(id));
  }
  tables.parkStates.put(1, { parked: 50n, replayed: 8n });
  tables.parkStates.put(2, { parked: 50n, replayed: 50n });
});
test.after(() => datapath.close());

test('says of every binding what the counters of that binding say', async () => {
  const { actions, waiting, traffic } = await takeCensus(tables);
  assert.equal(Object.fromEntries(actions), { pass: 0, park: 1, tunnel: BINDINGS - 1, deliver: 0, drop: 0 });
  assert.equal([...waiting], [[1, 42]]);
  assert.is(traffic.size, BINDINGS);
  for (const id of [1, 2, BINDINGS]) {
    const expected = Object.entries(readBindingCounters(tables, id)).map(([reason, { packets, bytes }]) => [
      reason,
      { packets: Number(packets), bytes: Number(bytes) },
    ]);
    assert.is(expected.length, REASONS.length);
    assert.equal(Object.fromEntries(traffic.get(id) ?? []), Object.fromEntries(expected), `binding ${id}`);
  }
});

test('with a thousand bindings makes a page of bounded length; the time is printed', async () => {
  const seen = Array.from(
    { length: BINDINGS },
    (_, index): ProcessSeen => ({
      twin: `home-${index + 1}-abcdef`,
      home: 'home',
      pid: index + 1,
      comm: 'server',
      binding: index + 1,
      role: 'departed',
      location: 'host1',
      ports: 1,
      flows: 0,
    }),
  );
  const page = new MetricsPage();
  addForwardingMetrics(page, {
    counters: () => datapath.counters(),
    census: () => takeCensus(tables),
    processes: () => seen,
    uplinks: () => [],
    peers: ['host1'],
    parkPackets: 10_000,
    maxProcesses: OWN_SERIES,
  });
  const times: number[] = [];
  let text = '';
  for (let round = 0; round < 12; round++) {
    const began = performance.now();
    text = await page.render();
    times.push(performance.now() - began);
  }
  const sorted = times.slice(2).sort((left, right) => left - right);
  console.log(
    `  first page ${times[0]?.toFixed(1)} ms, then ${sorted[0]?.toFixed(1)} to ${sorted.at(-1)?.toFixed(1)} ms; ${text.length} bytes`,
  );
  assert.is(sumOf(text, 'homeproxy_collector_failures_total'), 0);
  assert.is(samplesOf(text, 'homeproxy_process_packets_total').length, (OWN_SERIES + 1) * REASONS.length);
  const cpus = tables.counters.getPerCpu(Buffer.alloc(4))?.length ?? 1;
  const tunnelled = { reason: 'tunnelled' };
  assert.is(sampleOf(text, 'homeproxy_process_packets_total', { ...tunnelled, pid: '7' }), 7 * cpus);
  assert.is(sumOf(text, 'homeproxy_process_packets_total', tunnelled), ((BINDINGS * (BINDINGS + 1)) / 2) * cpus);
  assert.is(sampleOf(text, 'homeproxy_departed_processes', { peer: 'host1' }), BINDINGS);
});

for (const [name, reason, offset] of [
  ['fast_counters', 'tunnelled', 0],
  ['guest_counters', 'delivered', 0],
  ['guest_counters', 'sent', 16],
  ['guest_counters', 'at_home', 32],
] as const) {
  test(`adds what the fast path has ${reason}, which has counters of its own, and forgets it with the binding`, async () => {
    const id = 5;
    const packets = async (): Promise<[number, number]> => [
      (await takeCensus(tables)).traffic.get(id)?.get(reason)?.packets ?? 0,
      Number(readBindingCounters(tables, id)[reason]?.packets ?? 0),
    ];
    const [before] = await packets();
    const map = BpfMap.openPinned(join(pins, 'maps', name));
    const key = Buffer.from(new Uint32Array([id]).buffer);
    const values = map.getPerCpu(key) ?? [];
    values[0]?.writeBigUInt64LE(1000n, offset);
    map.setPerCpu(key, values);
    map.close();
    assert.equal(await packets(), [before + 1000, before + 1000]);
    tables.fastPath.remove(id);
    assert.equal(await packets(), [before, before]);
  });
}

test.run();
