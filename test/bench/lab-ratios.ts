import { KINDS, type Kind, type Sample } from './lab-traffic.js';

/** The links of a lab and where the daemons attach to them: super-packets and tc, or finished packets and native XDP. */
export type VariantName = 'tc' | 'xdp';

/** What was measured of each path, by kind, one sample per round. */
export type Samples = Readonly<Record<string, Readonly<Record<Kind, readonly Sample[]>>>>;

/** The median of the rounds, and the extremes: there are only a few rounds. */
export interface Spread {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

export const RATIO_GROUPS = ['throughput', 'requests', 'rtt'] as const;
export type RatioGroup = (typeof RATIO_GROUPS)[number];

/** Ratios by group and name; see {@link ratioName}. */
export type Ratios = Record<RatioGroup, Record<string, Spread>>;

export const GROUPS: Readonly<Record<Kind, RatioGroup>> = {
  upload: 'throughput',
  download: 'throughput',
  requests: 'requests',
  connects: 'requests',
  rtt: 'rtt',
};

/** What distinguishes a ratio from the first of its group. */
const KIND_NOTES: Readonly<Record<Kind, string | undefined>> = {
  upload: undefined,
  download: 'download',
  requests: undefined,
  connects: 'new connections',
  rtt: undefined,
};

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const value = ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle)] ?? Number.NaN)) / 2;
  return { value, low: sorted[0] ?? Number.NaN, high: sorted.at(-1) ?? Number.NaN };
}

/**
 * `departed/direct`, `departed/direct (download)`, `departed/direct (xdp, new connections)`. Without a note: through tc, and
 * throughput from the client to the server, which is the direction that crosses the home node.
 */
export function ratioName(path: string, reference: string, variant: VariantName, kind: Kind): string {
  const notes = [variant === 'tc' ? undefined : variant, KIND_NOTES[kind]].filter((note) => note !== undefined);
  return `${path}/${reference}${notes.length === 0 ? '' : ` (${notes.join(', ')})`}`;
}

/** The pairs of paths that are compared: each departure with everything else, and what the node itself costs. */
export function comparedPairs(paths: readonly string[]): [path: string, reference: string][] {
  const others = paths.filter((path) => path !== 'departed');
  return [
    ...others.map((other): [string, string] => ['departed', other]),
    ['home', 'direct'],
    ['direct', 'plain'],
    ...(others.includes('routed') ? [['routed', 'plain'] satisfies [string, string]] : []),
    ...alternativesIn(others).map((path): [string, string] => [path, 'plain']),
  ];
}

/** What a user would put on the home node instead. */
export function alternativesIn(paths: readonly string[]): string[] {
  return paths.filter((path) => !REFERENCES.has(path));
}

/** What no user would put there: our paths, the one without us, and the kernel's plain routing, which every client would have to know. */
const REFERENCES = new Set(['direct', 'home', 'departed', 'plain', 'routed']);

/** Ratios of samples of the same round, so that what disturbed the machine at that time disturbed both. */
export function ratiosOf(variants: Readonly<Partial<Record<VariantName, Samples>>>): Ratios {
  const ratios: Ratios = { throughput: {}, requests: {}, rtt: {} };
  for (const [variant, samples] of Object.entries(variants) as [VariantName, Samples][]) {
    for (const kind of KINDS) {
      for (const [path, reference] of comparedPairs(Object.keys(samples))) {
        const values = samples[path]?.[kind].map(
          ({ value }, round) => value / (samples[reference]?.[kind][round]?.value ?? Number.NaN),
        );
        ratios[GROUPS[kind]][ratioName(path, reference, variant, kind)] = spreadOf(values ?? []);
      }
    }
  }
  return ratios;
}
