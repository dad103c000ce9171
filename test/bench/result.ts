import type { MapMemory } from './map-memory.js';
import { type CASES, FLOOR, FLOWS, pointName } from './per-packet.js';
import type { Measurement } from './rounds.js';
import type { Figure } from './statistics.js';

/** All that was measured. */
export interface Result {
  readonly packets: Measurement;
  readonly memory: MapMemory;
}

/** What issue 5 wants to see, each from one run. */
export interface Goal {
  readonly words: string;
  readonly figure: Figure;
  readonly limit: number;
  readonly unit: '' | ' ns';
}

const MOST = FLOWS[FLOWS.length - 1] ?? 1;

export function goals({ packets }: Result): Goal[] {
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

/** The line that `--json` ends with. All nanoseconds are net of `pass`, the program that returns at once. */
export function jsonLine(result: Result): string {
  const { packets, memory } = result;
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
    ratios: { throughput: {}, requests: {}, rtt: {} },
    homeTax: {},
    mapBytesPerFlow: rounded(memory.bytesPerFlow),
  });
}

export function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
