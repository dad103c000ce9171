import { round, text, xmlText } from '../svg-text.js';

const WIDTH = 1040;
const LEFT = 96;
const RIGHT = WIDTH - 20;
const LANE = 34;
const HEAD = 26;
const CHARACTER = 6.6; // mean advance of the label font at 12 px

/** A stretch of time with a name. Times in epoch milliseconds. */
export interface Span {
  readonly name: string;
  readonly from: number;
  readonly to: number;
}

export interface Mark {
  readonly name: string;
  readonly at: number;
}

export interface TimelineData {
  readonly title: string;
  readonly from: number;
  readonly to: number;
  /** The time that counts as 0. Default: `from`. */
  readonly zero?: number;
  /** One after the other, in the first lane. */
  readonly phases: readonly Span[];
  /** A lane for each. */
  readonly nodes: readonly { readonly name: string; readonly marks: readonly Mark[] }[];
  readonly freeze: Span | undefined;
}

/** Phases as bars, below them a lane for each node with its steps as marks, the freeze as a band behind all; an `<svg>` element. */
export function migrationTimeline({ title, from, to, zero = from, phases, nodes, freeze }: TimelineData): string {
  const lanes = [...(phases.length > 0 ? ['phases'] : []), ...nodes.map(({ name }) => name)];
  const bottom = HEAD + lanes.length * LANE;
  const height = bottom + 30;
  const x = (at: number): number =>
    LEFT + ((Math.min(to, Math.max(from, at)) - from) / Math.max(1e-3, to - from)) * (RIGHT - LEFT);
  const top = (lane: string): number => HEAD + lanes.indexOf(lane) * LANE;
  const band =
    freeze === undefined
      ? []
      : [
          `<rect class="freeze" x="${round(x(freeze.from))}" y="${HEAD}" width="${round(Math.max(1, x(freeze.to) - x(freeze.from)))}" height="${bottom - HEAD}"><title>${xmlText(freeze.name)}</title></rect>`,
        ];
  const shown = phases.filter((phase) => phase.to > from && phase.from < to);
  const bars = shown.flatMap((phase, index) => bar(phase, x(phase.from), x(phase.to), top('phases'), index));
  const marks = nodes.flatMap(({ name, marks }) =>
    marks
      .filter(({ at }) => at >= from && at <= to)
      .map(
        ({ name: step, at }) =>
          `<circle class="mark ${step.split(':')[0]}" cx="${round(x(at))}" cy="${top(name) + LANE / 2}" r="4.5"><title>${xmlText(`${step}, ${(at - zero).toFixed(1)} ms`)}</title></circle>`,
      ),
  );
  const labels = lanes.map((name) => text(LEFT - 10, top(name) + LANE / 2 + 4, name, 'soft', 'end'));
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${xmlText(title)}">
${text(LEFT, 14, title, 'title')}
${[...grid({ from, to, zero }, x, bottom), ...band, ...rules(lanes, top), ...bars, ...marks, ...labels].join('\n')}
</svg>`;
}

function bar({ name, from, to }: Span, left: number, right: number, top: number, index: number): string[] {
  const words = `${name} ${(to - from).toFixed(1)} ms`;
  const fits = right - left > words.length * CHARACTER;
  return [
    `<rect class="phase shade${index % 2}" x="${round(left)}" y="${top + 5}" width="${round(Math.max(1, right - left))}" height="${LANE - 10}"><title>${xmlText(words)}</title></rect>`,
    ...(fits ? [text((left + right) / 2, top + LANE / 2 + 4, words, 'inside', 'middle')] : []),
  ];
}

function rules(lanes: readonly string[], top: (lane: string) => number): string[] {
  return lanes.map((lane) => `<line class="rule" x1="${LEFT}" x2="${RIGHT}" y1="${top(lane)}" y2="${top(lane)}"/>`);
}

function grid(
  { from, to, zero }: { from: number; to: number; zero: number },
  x: (at: number) => number,
  bottom: number,
): string[] {
  const step = niceStep((to - from) / 9);
  const lines: string[] = [];
  for (let offset = Math.ceil((from - zero) / step) * step; zero + offset <= to; offset += step) {
    const at = round(x(zero + offset));
    lines.push(`<line class="grid" x1="${at}" x2="${at}" y1="${HEAD}" y2="${bottom + 5}"/>`);
    lines.push(text(at, bottom + 20, `${Number(offset.toFixed(3))} ms`, 'soft', 'middle'));
  }
  return lines;
}

/** 1, 2 or 5 times a power of ten, not below `least`. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1e-3, least)));
  return ([1, 2, 5].find((factor) => factor * power >= least) ?? 10) * power;
}
