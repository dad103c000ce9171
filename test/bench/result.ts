import { BINDINGS, TAXES, taxName } from './home-tax.js';
import type { LabComparison } from './lab-comparison.js';
import { alternativesIn, GROUPS, RATIO_GROUPS, ratioName, type Spread, type VariantName } from './lab-ratios.js';
import type { MapMemory } from './map-memory.js';
import { type CASES, FLOOR, FLOWS, pointName } from './per-packet.js';
import type { Measurement } from './rounds.js';
import type { Figure } from './statistics.js';

/** All that was measured; `--quick` leaves the last three out. */
export interface Result {
  readonly packets: Measurement;
  readonly memory: MapMemory;
  readonly tc?: Measurement;
  readonly tax?: Measurement;
  readonly lab?: LabComparison;
}

/** What issue 5 wants to see, each from one run. */
export interface Goal {
  readonly words: string;
  readonly figure: Figure;
  readonly limit: number;
  /** Less is worse; otherwise more is. */
  readonly atLeast?: boolean;
  readonly unit: '' | ' ns';
}

const MOST = FLOWS[FLOWS.length - 1] ?? 1;

export function goals(result: Result): Goal[] {
  return [...packetGoals(result), ...(result.lab === undefined ? [] : labGoals(result.lab))];
}

function packetGoals({ packets }: Result): Goal[] {
  const encap = pointName('encap', 1);
  const encapMost = pointName('encap', MOST);
  const shared = pointName('encapShared', MOST);
  const hash = pointName('hashReference', MOST);
  return [
    {
      words: 'encapsulate, own ports: 1 M connections / 1',
      figure: packets.ratio(encapMost, encap),
      limit: 1.25,
      unit: '',
    },
    { words: 'encapsulate, own ports / floor program', figure: packets.ratio(encap, FLOOR), limit: 2, unit: '' },
    {
      words: 'encapsulate, 1 M flows on shared ports / hash reference',
      figure: packets.ratio(shared, hash),
      limit: 1.15,
      unit: '',
    },
    { words: 'miss at 1 M flows', figure: packets.net(pointName('miss', MOST)), limit: 20, unit: ' ns' },
  ];
}

/** A server that has departed beside the same one reached directly, and beside whatever else crosses the home node. */
function labGoals({ samples, ratios }: LabComparison): Goal[] {
  return (['upload', 'requests'] as const).flatMap((kind) => {
    const to = (other: string): Spread | undefined => ratios[GROUPS[kind]][ratioName('departed', other, CHOSEN, kind)];
    const words = `${GROUPS[kind]}, departed`;
    const goal = (name: string, figure: Spread | undefined, limit: number): Goal[] =>
      figure === undefined ? [] : [{ words: `${words} / ${name}`, figure, limit, atLeast: true, unit: '' }];
    const best = alternativesIn(Object.keys(samples[CHOSEN]))
      .map((name) => ({ name, figure: to(name) }))
      .sort((one, other) => (one.figure?.value ?? Infinity) - (other.figure?.value ?? Infinity))[0];
    return [
      ...goal('direct', to('direct'), LEAST_SHARE),
      ...goal(`the best that also crosses home (${best?.name})`, best?.figure, 1),
    ];
  });
}

/** How daemons attach to a lab's links unless they are told otherwise (hook-choice.ts, veth). */
const CHOSEN: VariantName = 'tc';

const LEAST_SHARE = 0.9;

/** The line that `--json` ends with. All nanoseconds are net of `pass`, the program that returns at once. */
export function jsonLine(result: Result): string {
  const { packets, memory, tax, lab } = result;
  const net = (point: string): number => rounded(packets.net(point).value);
  const byFlows = (what: (typeof CASES)[number], flows: readonly number[] = FLOWS) =>
    Object.fromEntries(flows.map((count) => [count, net(pointName(what, count))]));
  return JSON.stringify({
    ns: {
      floor: net(FLOOR),
      pass: 0,
      encap: byFlows('encap'),
      encapShared: byFlows('encapShared'),
      hashReference: byFlows('hashReference'),
      miss: byFlows('miss', [1, MOST]),
      deliver: net(pointName('deliver', MOST)),
      park: net(pointName('park', MOST)),
    },
    ratios: Object.fromEntries(
      RATIO_GROUPS.map((group) => [
        group,
        Object.fromEntries(Object.entries(lab?.ratios[group] ?? {}).map(([name, { value }]) => [name, toThree(value)])),
      ]),
    ),
    homeTax: tax === undefined ? {} : taxByBindings(tax),
    mapBytesPerFlow: rounded(memory.bytesPerFlow),
  });
}

/** Nanoseconds by kind of traffic and number of bindings. */
function taxByBindings(tax: Measurement) {
  return Object.fromEntries(
    TAXES.map((what) => [
      what,
      Object.fromEntries(BINDINGS.map((count) => [count, rounded(tax.net(taxName(what, count)).value)])),
    ]),
  );
}

function toThree(value: number): number {
  return Math.round(value * 1000) / 1000;
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
