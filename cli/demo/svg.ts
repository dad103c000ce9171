import { round, text, xmlText } from '../svg-text.js';
import { type Bin, binned, formatMs, type LogScale, logScale } from './analysis.js';
import type { Picture, PicturedMove } from './picture.js';
import { decadeLabel } from './timeline.js';

const WIDTH = 1080;
const HEIGHT = 450;
const PLOT = { left: 72, right: WIDTH - 28, top: 118, bottom: HEIGHT - 66 };
const PIXELS_PER_BIN = 2;
const LABEL_LINE = 15;
const LEGEND_LINE = HEIGHT - 16;
const CHARACTER = 6.4; // mean advance of the label font at 12 px, to keep labels apart

/** The card brings its own background, so that it can be read on any page; it turns dark where the reader prefers that. */
const STYLE = `
  svg { --card: #ffffff; --edge: #d5dae1; --ink: #1d2733; --soft: #5b6877; --grid: #e6eaef; --max: #d9480f; --mid: #1c6fc4; --band: #7048e8; }
  @media (prefers-color-scheme: dark) {
    svg { --card: #14191f; --edge: #323b46; --ink: #e8edf2; --soft: #9aa7b5; --grid: #262e37; --max: #ff8a4c; --mid: #5db0ff; --band: #a08bff; }
  }
  text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 12px; fill: #1d2733; fill: var(--ink); }
  .title { font-size: 17px; font-weight: 600; }
  .soft { fill: #5b6877; fill: var(--soft); }
  .route { font-weight: 600; }
  .card { fill: #ffffff; fill: var(--card); stroke: #d5dae1; stroke: var(--edge); }
  .grid { stroke: #e6eaef; stroke: var(--grid); }
  .max { fill: none; stroke: #d9480f; stroke: var(--max); stroke-width: 1.6; stroke-linejoin: round; }
  .area { fill: #d9480f; fill: var(--max); opacity: 0.14; }
  .mid { fill: none; stroke: #1c6fc4; stroke: var(--mid); stroke-width: 1.6; stroke-linejoin: round; }
  .move { fill: #7048e8; fill: var(--band); opacity: 0.12; }
  .freeze { fill: #7048e8; fill: var(--band); opacity: 0.38; }
  .leader { stroke: #7048e8; stroke: var(--band); stroke-dasharray: 2 3; }
`;

export interface SvgTexts {
  readonly title: string;
  readonly subtitle: string;
}

/** The client's view of a run as an SVG document: longest and median latency over time, and a band per migration. */
export function svgTimeline(picture: Picture, texts: SvgTexts): string {
  const bins = binned(picture.samples, picture, Math.floor((PLOT.right - PLOT.left) / PIXELS_PER_BIN));
  const scale = logScale(bins.flatMap((bin) => [bin.maxMs, bin.medianMs ?? 0]));
  const x = (time: number): number =>
    PLOT.left + ((time - picture.from) / (picture.to - picture.from)) * (PLOT.right - PLOT.left);
  const y = (ms: number): number => PLOT.bottom - scale.at(ms) * (PLOT.bottom - PLOT.top);
  const body = [
    `<rect class="card" x="0.5" y="0.5" width="${WIDTH - 1}" height="${HEIGHT - 1}" rx="10"/>`,
    text(PLOT.left - 48, 32, texts.title, 'title'),
    text(PLOT.left - 48, 52, texts.subtitle, 'soft'),
    legend(),
    ...grid(picture, scale, x, y),
    ...bands(picture.moves, x),
    ...curves(bins, x, y),
    ...labels(picture.moves, x),
  ];
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img">
<title>${xmlText(texts.title)}</title>
<desc>${xmlText(texts.subtitle)}</desc>
<style>${STYLE}</style>
${body.join('\n')}
</svg>
`;
}

function curves(bins: readonly Bin[], x: (time: number) => number, y: (ms: number) => number): string[] {
  const middle = (bin: Bin): number => x((bin.from + bin.to) / 2);
  const longest = runs(bins, (bin) => (bin.maxMs > 0 ? [middle(bin), y(bin.maxMs)] : undefined));
  const median = runs(bins, (bin) => (bin.medianMs === undefined ? undefined : [middle(bin), y(bin.medianMs)]));
  const areas = longest.map((points) => {
    const [first, last] = [points[0], points.at(-1)];
    return `M${pair([first?.[0] ?? 0, PLOT.bottom])}L${points.map(pair).join('L')}L${pair([last?.[0] ?? 0, PLOT.bottom])}Z`;
  });
  return [
    `<path class="area" d="${areas.join('')}"/>`,
    `<path class="mid" d="${median.map(path).join('')}"/>`,
    `<path class="max" d="${longest.map(path).join('')}"/>`,
  ];
}

type Point = readonly [x: number, y: number];

/** Unbroken runs of points: a bin without a value ends one. */
function runs(bins: readonly Bin[], point: (bin: Bin) => Point | undefined): Point[][] {
  const result: Point[][] = [];
  let current: Point[] | undefined;
  for (const bin of bins) {
    const next = point(bin);
    if (next === undefined) {
      current = undefined;
      continue;
    }
    if (current === undefined) {
      current = [];
      result.push(current);
    }
    current.push(next);
  }
  return result;
}

function path(points: readonly Point[]): string {
  // A lone point needs a length to be seen.
  const [only] = points;
  return points.length === 1 && only !== undefined ? `M${pair(only)}h1` : `M${points.map(pair).join('L')}`;
}

function pair([x, y]: Point): string {
  return `${round(x)} ${round(y)}`;
}

function grid(picture: Picture, scale: LogScale, x: (time: number) => number, y: (ms: number) => number): string[] {
  const lines = scale.decades.flatMap((decade) => [
    `<line class="grid" x1="${PLOT.left}" x2="${PLOT.right}" y1="${round(y(decade))}" y2="${round(y(decade))}"/>`,
    text(PLOT.left - 8, y(decade) + 4, decadeLabel(decade), 'soft', 'end'),
  ]);
  const seconds = (picture.to - picture.from) / 1000;
  const step = [1, 2, 5, 10, 20, 30, 60, 120, 300].find((candidate) => seconds / candidate <= 14) ?? 600;
  for (let second = 0; second <= seconds; second += step) {
    const at = x(picture.from + second * 1000);
    lines.push(`<line class="grid" x1="${round(at)}" x2="${round(at)}" y1="${PLOT.bottom}" y2="${PLOT.bottom + 5}"/>`);
    lines.push(text(at, PLOT.bottom + 20, `${second} s`, 'soft', 'middle'));
  }
  return lines;
}

function bands(moves: readonly PicturedMove[], x: (time: number) => number): string[] {
  const band = (kind: string, from: number, to: number): string =>
    `<rect class="${kind}" x="${round(x(from))}" y="${PLOT.top}" width="${round(Math.max(1, x(to) - x(from)))}" height="${PLOT.bottom - PLOT.top}"/>`;
  return moves.flatMap((move) => [
    band('move', move.startedAt, move.endedAt),
    band('freeze', move.frozenAt, move.resumedAt),
  ]);
}

/** The words above each band; neighbours that would overlap take turns in two heights. */
function labels(moves: readonly PicturedMove[], x: (time: number) => number): string[] {
  const ends = [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];
  return moves.flatMap((move) => {
    const route = `${move.from} → ${move.to}`;
    const figures = `freeze ${formatMs(move.freezeMs)} · stall ${formatMs(move.stallMs)}`;
    const half = (Math.max(route.length, figures.length) * CHARACTER) / 2;
    const at = x((move.frozenAt + move.resumedAt) / 2);
    const middle = Math.min(PLOT.right - half, Math.max(PLOT.left + half, at));
    const lane = middle - half > (ends[0] ?? 0) + 12 ? 0 : 1;
    ends[lane] = middle + half;
    const base = PLOT.top - 8 - LABEL_LINE - lane * (LABEL_LINE * 2 + 2);
    return [
      `<line class="leader" x1="${round(at)}" x2="${round(at)}" y1="${base + LABEL_LINE + 3}" y2="${PLOT.top}"/>`,
      text(middle, base, route, 'route', 'middle'),
      text(middle, base + LABEL_LINE, figures, 'soft', 'middle'),
    ];
  });
}

function legend(): string {
  const entries = [
    ['max', 'longest latency'],
    ['mid', 'median latency'],
    ['move', 'migration'],
    ['freeze', 'frozen'],
  ] as const;
  let left = PLOT.right;
  return entries
    .toReversed()
    .map(([kind, words]) => {
      left -= words.length * CHARACTER + 34;
      const mark =
        kind === 'max' || kind === 'mid'
          ? `<line class="${kind}" x1="${round(left)}" x2="${round(left + 16)}" y1="${LEGEND_LINE - 4}" y2="${LEGEND_LINE - 4}"/>`
          : `<rect class="${kind}" x="${round(left)}" y="${LEGEND_LINE - 10}" width="16" height="12"/>`;
      return `${mark}${text(left + 22, LEGEND_LINE, words, 'soft')}`;
    })
    .join('');
}
