/** What the benchmark of the datapath says of what it measured. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { BpfProgram } from '../../addon/lib/index.js';
import { BINDINGS, TAXES, taxName } from '../bench/home-tax.js';
import { ratiosOf, type Samples } from '../bench/lab-ratios.js';
import { STEP_PROGRAMS } from '../bench/node.js';
import { BASE, CASES, FLOOR, FLOWS, pointName } from '../bench/per-packet.js';
import { terminalReport, writeReport } from '../bench/report.js';
import { goals, jsonLine } from '../bench/result.js';
import { Measurement, type Point } from '../bench/rounds.js';
import { Durations, figureOf } from '../bench/statistics.js';
import { PATHS, STATIONS, type Station, stationName } from '../bench/tc-packets.js';
import { suite } from '../suite.js';

const test = suite('bench result');
const NOTHING = { upload: [], requests: [] };
const MEMORY = { bytes: {}, byMap: [], bytesPerFlow: 104.04 };

/** Three rounds in which each point took as long as it says. */
function measured(base: string, nanoseconds: Readonly<Record<string, number>>): Measurement {
  const point = { program: {} as BpfProgram, frames: { template: Buffer.alloc(0), write: () => undefined }, flows: 1 };
  const points = Object.keys(nanoseconds).map((name): Point => ({ ...point, name, base, verdict: 0 }));
  const measurement = new Measurement(points);
  for (let round = 0; round < 3; round++) {
    for (const [name, ns] of Object.entries(nanoseconds)) measurement.add(name, new Uint32Array(100).fill(ns));
  }
  return measurement;
}

const packets = measured(BASE, {
  [BASE]: 70,
  [FLOOR]: 90,
  ...Object.fromEntries(CASES.flatMap((what) => FLOWS.map((flows) => [pointName(what, flows), 100]))),
  ...Object.fromEntries(STEP_PROGRAMS.map((name, step) => [name, 95 + 5 * step])),
  [pointName('encap', 1)]: 110,
  [pointName('encap', 1_000_000)]: 120,
  [pointName('miss', 1_000_000)]: 75,
});

test('--json says everything net of the program that returns at once', () => {
  const { ns, ratios, homeTax, mapBytesPerFlow } = JSON.parse(jsonLine({ packets, memory: MEMORY }));
  const same = { '1': 30, '1000': 30, '100000': 30, '1000000': 30 };
  assert.equal(ns, {
    floor: 20,
    pass: 0,
    encap: { ...same, '1': 40, '1000000': 50 },
    encapShared: same,
    hashReference: same,
    miss: { '1': 30, '1000000': 5 },
    deliver: 30,
    park: 30,
  });
  assert.equal(ratios, { throughput: {}, requests: {}, rtt: {} });
  assert.equal(homeTax, {});
  assert.is(mapBytesPerFlow, 104);
});

test('--json has the tax by kind of traffic and number of bindings, and the ratios of the lab by name', () => {
  const tax = measured('base', {
    base: 60,
    ...Object.fromEntries(TAXES.flatMap((what) => BINDINGS.map((count) => [taxName(what, count), 65]))),
  });
  const spread = { value: 0.97654, low: 0.9, high: 1 };
  const lab = {
    rounds: 3,
    samples: { tc: {}, xdp: {} },
    ratios: { throughput: { 'a/b': spread }, requests: {}, rtt: {} },
    profiles: { tc: NOTHING, xdp: NOTHING },
  };
  const { ratios, homeTax } = JSON.parse(jsonLine({ packets, memory: MEMORY, tax, lab }));
  assert.equal(homeTax.xdp, { '0': 5, '1': 5, '1000': 5, '100000': 5 });
  assert.equal(Object.keys(homeTax), [...TAXES]);
  assert.equal(ratios.throughput, { 'a/b': 0.977 });
});

test('the report is a page with a picture for each part', () => {
  const tax = measured('base', {
    base: 60,
    ...Object.fromEntries(TAXES.flatMap((what) => BINDINGS.map((count) => [taxName(what, count), 65]))),
  });
  const ratios = { throughput: { 'direct/plain': { value: 0.97, low: 0.9, high: 1 } }, requests: {}, rtt: {} };
  const lab = { rounds: 3, samples: { tc: {}, xdp: {} }, ratios, profiles: { tc: NOTHING, xdp: NOTHING } };
  const folder = mkdtempSync(join(tmpdir(), 'homeproxy-bench-'));
  try {
    const page = readFileSync(writeReport(join(folder, 'new'), { packets, memory: MEMORY, tax, lab }), 'utf8');
    const pictures = [...page.matchAll(/\]\((.*\.svg)\)/g)].map(([, file]) => file ?? '');
    assert.equal(pictures, ['ns-per-packet.svg', 'lab-throughput.svg', 'home-tax.svg']);
    for (const file of pictures) {
      const svg = readFileSync(join(folder, 'new', file), 'utf8');
      assert.match(svg, /^<\?xml[\s\S]*<\/svg>\n$/);
      assert.not.match(svg, /NaN|undefined|Infinity/);
    }
    assert.match(page, /direct\/plain 0\.970/);
    assert.not.match(page, /NaN|undefined/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('an encapsulation is taken apart, each step with what it adds and beside the floor', () => {
  const report = terminalReport({ packets, memory: MEMORY });
  assert.match(report, /asks the port of whom +35\.0 \[35\.0–35\.0\] +5\.0 +1\.75\n/);
  assert.match(report, /counts, for the node and for the binding +40\.0 \[40\.0–40\.0\] +5\.0 +2\.00\n/);
  assert.match(report, /the whole of hp_xdp +50\.0 \[50\.0–50\.0\] +10\.0 +2\.50\n/);
});

test('the goals are ratios of net figures', () => {
  assert.equal(
    goals({ packets, memory: MEMORY }).map(({ figure }) => figure.value),
    [1.25, 2, 1, 5],
  );
});

/** Two rounds of everything, at so much of each path; requests at a tenth. */
function samplesOf(values: Readonly<Record<string, number>>): Samples {
  return Object.fromEntries(
    Object.entries(values).map(([path, value]) => {
      const twice = (each: number) => [each, each].map((one) => ({ value: one, cpu: 1 / one }));
      const many = { upload: twice(value), download: twice(value), rtt: twice(1) };
      return [path, { ...many, requests: twice(value / 10), connects: twice(value / 10) }];
    }),
  );
}

test('the way through tc stands with its fast paths and without', () => {
  const names = (Object.keys(STATIONS) as Station[]).flatMap((station) =>
    PATHS.map((path) => stationName(station, path)),
  );
  const tc = measured('base', {
    base: 60,
    ...Object.fromEntries(names.map((name) => [name, name.includes('fast') ? 70 : 90])),
  });
  const report = terminalReport({ packets, memory: MEMORY, tc });
  assert.match(report, /home, hp_ingress: encapsulate +10\.0 \[10\.0–10\.0\] +30\.0 \[/);
});

test('goals in the lab are the direct path, and the best of what else crosses the home node', () => {
  const samples = {
    tc: samplesOf({ direct: 10, home: 10, departed: 9.5, plain: 20, routed: 19, nftables: 9, socat: 2 }),
    xdp: samplesOf({ direct: 10, home: 10, departed: 8, plain: 20, nftables: 9, socat: 2 }),
  };
  const program = { node: 'home', program: 'hp_ingress', runs: 1000, nanoseconds: 250, share: 0.05 };
  const profiles = { tc: { upload: [program], requests: [program] }, xdp: NOTHING };
  const lab = { rounds: 2, samples, ratios: ratiosOf(samples), profiles };
  const result = { packets, memory: MEMORY, lab };
  const inLab = goals(result).slice(4);
  assert.equal(
    inLab.map(({ words, figure }) => `${words}: ${figure.value.toFixed(2)}`),
    [
      'throughput, departed / direct: 0.95',
      'throughput, departed / the best that also crosses home (nftables): 1.06',
      'requests, departed / direct: 0.95',
      'requests, departed / the best that also crosses home (nftables): 1.06',
    ],
  );
  const report = terminalReport(result);
  assert.match(report, /departed \/ direct +0\.95 \[0\.95–0\.95\] +at least 0\.9 +reached/);
  assert.match(report, /departed\/direct \(xdp\) +0\.80 \[/);
  assert.match(report, /routed\/plain +0\.95 \[/);
  assert.match(report, /tc +upload +home +hp_ingress +1,000 +250 +5\.0 %/);
  assert.match(report, /tc +departed +0\.11 \[0\.11–0\.11\]/);
});

test('a median is finer than the steps of the clock', () => {
  const durations = new Durations().add(Uint32Array.from({ length: 100 }, (_, run) => (run < 70 ? 70 : 80)));
  const median = durations.quantile(0.5);
  assert.ok(median > 70 && median < 75, String(median));
  assert.is(durations.runs, 100);
});

test('what takes longer than anything counted counts as the longest', () => {
  assert.ok(new Durations().add(Uint32Array.of(1_000_000)).quantile(0.5) < 10_000);
});

test('a figure is the median of the rounds with their middle half', () => {
  assert.equal(figureOf([5, 1, 4, 2, 3]), { value: 3, low: 2, high: 4 });
});

test.run();
