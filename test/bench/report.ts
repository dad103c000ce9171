import { BINDINGS, TAXES, taxName } from './home-tax.js';
import type { LabComparison } from './lab-comparison.js';
import { PROFILED } from './lab-profile.js';
import { RATIO_GROUPS, spreadOf } from './lab-ratios.js';
import { KINDS } from './lab-traffic.js';
import { STEP_PROGRAMS } from './node.js';
import { inTerminal, type Section, writePage } from './page.js';
import { BASE, CASES, FLOOR, FLOWS, pointName } from './per-packet.js';
import { barPlot, linePlot, type Series } from './plot.js';
import { type Goal, goals, type Result } from './result.js';
import type { Measurement } from './rounds.js';
import type { Figure } from './statistics.js';
import { PATHS, type Station, stationName } from './tc-packets.js';

const WORDS: Readonly<Record<(typeof CASES)[number], string>> = {
  encap: 'encapsulate, own ports',
  encapShared: 'encapsulate, shared port',
  hashReference: 'one hash lookup + encapsulation',
  miss: 'not ours (miss)',
  deliver: 'decapsulate + deliver',
  park: 'park',
};

/** For the terminal. */
export function terminalReport(result: Result): string {
  return inTerminal(sections(result));
}

/** Writes README.md and its pictures. @returns the path of the page. */
export function writeReport(folder: string, result: Result): string {
  return writePage(folder, 'The datapath, measured', sections(result));
}

function sections(result: Result): Section[] {
  const { tc, tax, lab } = result;
  return [
    goalSection(goals(result)),
    packetSection(result),
    stepSection(result),
    ...(tc === undefined ? [] : [tcSection(tc)]),
    ...(lab === undefined ? [] : [...labSections(lab), processorSection(lab), programSection(lab)]),
    ...(tax === undefined ? [] : [taxSection(tax, lab)]),
    memorySection(result),
  ];
}

const TAX_WORDS: Readonly<Record<(typeof TAXES)[number], string>> = {
  xdp: 'hp_xdp',
  ingress: 'hp_ingress (tc)',
  egress: 'hp_egress (tc)',
  xdpSamePort: 'hp_xdp, a bound port number on another address',
};

function taxSection(tax: Measurement, lab: LabComparison | undefined): Section {
  const series = TAXES.map((what) => ({
    name: TAX_WORDS[what],
    points: BINDINGS.filter((count) => count > 0).map((count) => ({ x: count, ...tax.net(taxName(what, count)) })),
  }));
  const texts = {
    title: 'One packet of somebody else',
    subtitle: 'nanoseconds net of a program that returns at once, by bindings on the node',
  };
  const attached = Object.values(lab?.ratios ?? {})
    .flatMap((group) => Object.entries(group))
    .filter(([name]) => name.startsWith('direct/plain'))
    .map(([name, { value }]) => `${name} ${value.toFixed(3)}`);
  const inLab =
    attached.length === 0 ? '' : ` In the lab, with the programs attached against without: ${attached.join(', ')}.`;
  return {
    title: "The tax on a node's other traffic",
    text: `What one packet that belongs to no binding pays.${inLab}`,
    head: ['ns', ...BINDINGS.map((count) => `${count.toLocaleString('en')} bindings`)],
    rows: TAXES.map((what) => [
      TAX_WORDS[what],
      ...BINDINGS.map((count) =>
        what === 'xdpSamePort' && count === 0 ? '' : spread(tax.net(taxName(what, count)), 1),
      ),
    ]),
    picture: { file: 'home-tax.svg', svg: linePlot(texts, 'ns', series) },
  };
}

function labSections({ ratios, rounds }: LabComparison): Section[] {
  return RATIO_GROUPS.filter((group) => Object.keys(ratios[group]).length > 0).map((group) => {
    const bars = Object.entries(ratios[group]).map(([name, figure]) => ({ name, ...figure }));
    const better = group === 'rtt' ? 'less is better' : 'more is better';
    const texts = {
      title: `In the lab: ${group}`,
      subtitle: `ratios from the same rounds, ${better}; the line is the extremes`,
    };
    return {
      title: texts.title,
      text: `Ratios of samples of the same round, ${rounds} rounds; ${better}. In brackets the extremes.`,
      head: ['compared', 'ratio'],
      rows: bars.map((bar) => [bar.name, spread(bar, 2)]),
      picture: { file: `lab-${group}.svg`, svg: barPlot(texts, bars, (value) => value.toFixed(2)) },
    };
  });
}

/** What each path costs the machine: with both processors busy, a path carries as much as this allows. */
function processorSection({ samples, rounds }: LabComparison): Section {
  const paths = Object.entries(samples).flatMap(([variant, byPath]) =>
    Object.entries(byPath).map(([path, byKind]) => ({ variant, path, byKind })),
  );
  return {
    title: 'Processor time in the lab',
    text: `Of the whole machine, with client, home node and host on it: seconds for 1 GB, or for a million requests. Medians of ${rounds} rounds; in brackets the extremes.`,
    head: ['through', 'path', ...ACCOUNTED_KINDS],
    rows: paths.map(({ variant, path, byKind }) => [
      variant,
      path,
      ...ACCOUNTED_KINDS.map((kind) => spread(spreadOf(byKind[kind].map(({ cpu }) => cpu ?? Number.NaN)), 2)),
    ]),
  };
}

const ACCOUNTED_KINDS = KINDS.filter((kind) => kind !== 'rtt');

/** How much of that our programs are. */
function programSection({ profiles }: LabComparison): Section {
  const rows = Object.entries(profiles).flatMap(([variant, profile]) =>
    PROFILED.flatMap((kind) => [
      ...profile[kind].map(({ node, program, runs, nanoseconds, share }) => [
        ...[variant, kind, node, program],
        ...[runs.toLocaleString('en'), nanoseconds.toFixed(0), percent(share)],
      ]),
      [variant, kind, 'all', '', '', '', percent(profile[kind].reduce((sum, { share }) => sum + share, 0))],
    ]),
  );
  return {
    title: 'The programs on the way of a departed process',
    text: 'As the kernel accounts them (kernel.bpf_stats_enabled), which itself takes some tens of nanoseconds of each run; the share is of all processor time that the machine spent meanwhile.',
    head: ['through', 'measured', 'node', 'program', 'runs', 'ns each', 'share'],
    rows,
  };
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

function goalSection(wanted: readonly Goal[]): Section {
  return {
    title: 'What it must show',
    text: 'Nanoseconds are net of a program that returns at once; in brackets the middle half of the rounds, or in the lab their extremes.',
    head: ['figure', 'measured', 'limit', ''],
    rows: wanted.map(({ words, figure, limit, atLeast, unit }) => [
      words,
      `${spread(figure, unit === '' ? 2 : 1)}${unit}`,
      `${atLeast ? 'at least' : 'at most'} ${limit}${unit}`,
      (atLeast ? figure.value >= limit : figure.value <= limit) ? 'reached' : 'not reached',
    ]),
  };
}

function packetSection({ packets }: Result): Section {
  const series: Series[] = CASES.map((what) => ({
    name: WORDS[what],
    points: FLOWS.map((flows) => ({ x: flows, ...packets.net(pointName(what, flows)) })),
  }));
  const floor = packets.net(FLOOR);
  const flat = { name: 'floor', points: FLOWS.map((flows) => ({ x: flows, ...floor })) };
  const texts = {
    title: 'One packet through hp_xdp',
    subtitle: 'nanoseconds net of a program that returns at once, by flows in the tables; random flows, medians',
  };
  return {
    title: 'Nanoseconds per packet',
    text: `BPF_PROG_TEST_RUN, one run for each packet, ${packets.runsEach.toLocaleString('en')} packets of random flows for each figure, all programs in turn. The program that returns at once takes ${packets.gross(BASE).toFixed(1)} ns, most of it the measuring; every figure is net of it. Medians; in brackets the middle half of the rounds.`,
    head: ['ns', ...FLOWS.map((flows) => `${flows.toLocaleString('en')} flows`)],
    rows: [
      ['floor: parse, prepend a constant header', spread(floor, 1)],
      ...CASES.map((what) => [WORDS[what], ...FLOWS.map((flows) => spread(packets.net(pointName(what, flows)), 1))]),
    ],
    picture: { file: 'ns-per-packet.svg', svg: linePlot(texts, 'ns', [...series, flat]) },
  };
}

const STEP_WORDS: Readonly<Record<(typeof STEP_PROGRAMS)[number], string>> = {
  step_route: 'is sure of what the packet is; the header comes out of a table, with length, TOS, checksum',
  step_filter: 'asks the filter whether the port is of anybody who departed',
  step_owner: 'asks the port of whom',
  step_count: 'counts, for the node and for the binding',
};

/** Why an encapsulation takes what it takes: what is added to the floor, thing by thing. */
function stepSection({ packets }: Result): Section {
  const steps: [name: string, words: string][] = [
    [FLOOR, 'the floor'],
    ...STEP_PROGRAMS.map((name): [string, string] => [name, STEP_WORDS[name]]),
    [pointName('encap', FLOWS[3]), 'has the general path beside it: the whole of hp_xdp'],
  ];
  return {
    title: 'Where the nanoseconds of an encapsulation go',
    text: 'On ports of its own, a million connections. Each line does what those before it do and one thing more, with the same source (test/bench/steps.bpf.c, bpf/fast.h); by the kernel as above.',
    head: ['step', 'ns', 'more', '/ floor'],
    rows: steps.map(([name, words], index) => [
      words,
      spread(packets.net(name), 1),
      index === 0 ? '' : (packets.net(name).value - packets.net(steps[index - 1]?.[0] ?? name).value).toFixed(1),
      packets.ratio(name, FLOOR).value.toFixed(2),
    ]),
  };
}

const STATION_WORDS: Readonly<Record<Station, string>> = {
  tunnel: 'home, hp_ingress: encapsulate',
  tunnelLeaves: 'home, hp_egress: the tunnel packet leaves',
  deliver: 'host, hp_ingress: decapsulate + deliver',
  entry: 'pod, hp_entry: what is delivered enters',
  said: 'host, hp_pod: what the process says',
  saidLeaves: 'host, hp_egress: that leaves',
  miss: 'hp_ingress: not ours (miss)',
};

function tcSection(tc: Measurement): Section {
  const stations = Object.keys(STATION_WORDS) as Station[];
  return {
    title: 'Through tc',
    text: 'One packet and the answer to it, by the programs that they meet; net of a tc program that returns at once. The general path is what IPv6, UDP encapsulation, SYNs, fragments and packets with options take.',
    head: ['ns', 'fast path', 'general path'],
    rows: stations.map((station) => [
      STATION_WORDS[station],
      ...PATHS.map((path) => spread(tc.net(stationName(station, path)), 1)),
    ]),
  };
}

function memorySection({ memory }: Result): Section {
  return {
    title: 'Memory of the maps',
    text: `As the kernel accounts it. One more flow on a shared port takes ${memory.bytesPerFlow.toFixed(0)} bytes, 1,000 of them ${bytes(memory.bytesPerFlow * 1000)}; one more on a port of its process's own takes nothing. Of the total at ${(FLOWS.at(-1) ?? 0).toLocaleString('en')} flows: ${memory.byMap
      .slice(0, 6)
      .map(([name, size]) => `${name} ${bytes(size)}`)
      .join(', ')}.`,
    head: ['flows', 'all maps'],
    rows: Object.entries(memory.bytes).map(([flows, size]) => [Number(flows).toLocaleString('en'), bytes(size)]),
  };
}

function spread({ value, low, high }: Figure, digits: number): string {
  return `${value.toFixed(digits)} [${low.toFixed(digits)}–${high.toFixed(digits)}]`;
}

function bytes(size: number): string {
  return size < 1 << 20 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / (1 << 20)).toFixed(1)} MiB`;
}
