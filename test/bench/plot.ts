import { round, text, xmlText } from '../../cli/svg-text.js';

const WIDTH = 900;
const HEIGHT = 440;
const PLOT = { left: 74, right: WIDTH - 190, top: 78, bottom: HEIGHT - 58 };
const BAR = { height: 20, gap: 12, left: 250, right: WIDTH - 120 };
const GRID_LINES = 6;

/** Brings its own background, as the demo's picture does; dark where the reader prefers that. */
const STYLE = `
  svg { --card: #ffffff; --edge: #d5dae1; --ink: #1d2733; --soft: #5b6877; --grid: #e6eaef; }
  @media (prefers-color-scheme: dark) {
    svg { --card: #14191f; --edge: #323b46; --ink: #e8edf2; --soft: #9aa7b5; --grid: #262e37; }
  }
  text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 12px; fill: var(--ink); }
  .title { font-size: 17px; font-weight: 600; }
  .soft { fill: var(--soft); }
  .card { fill: var(--card); stroke: var(--edge); }
  .grid { stroke: var(--grid); }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  .spread { stroke-width: 1; opacity: 0.6; }
`;
const COLOURS = ['#d9480f', '#1c6fc4', '#2f9e44', '#7048e8', '#c2255c', '#868e96', '#e8a200'];

export interface PlotPoint {
  readonly x: number;
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

export interface Series {
  readonly name: string;
  readonly points: readonly PlotPoint[];
}

export interface PlotTexts {
  readonly title: string;
  readonly subtitle: string;
}

/** Lines over a logarithmic x axis, with their spread; y begins at 0 and has `unit`. */
export function linePlot(texts: PlotTexts, unit: string, series: readonly Series[]): string {
  const points = series.flatMap((each) => each.points);
  const logs = points.map((point) => Math.log10(point.x));
  const [first, last] = [Math.min(...logs), Math.max(...logs)];
  const top = niceTop(Math.max(...points.map((point) => point.high)));
  const x = (at: number): number =>
    PLOT.left + ((Math.log10(at) - first) / Math.max(1, last - first)) * (PLOT.right - PLOT.left);
  const y = (value: number): number => PLOT.bottom - (Math.max(0, value) / top) * (PLOT.bottom - PLOT.top);
  const grid = Array.from({ length: GRID_LINES + 1 }, (_, line) => {
    const value = (top * line) / GRID_LINES;
    return `<line class="grid" x1="${PLOT.left}" x2="${PLOT.right}" y1="${round(y(value))}" y2="${round(y(value))}"/>${text(
      PLOT.left - 8,
      y(value) + 4,
      `${round(value)} ${unit}`,
      'soft',
      'end',
    )}`;
  });
  const ticks = [...new Set(points.map((point) => point.x))].map((at) =>
    text(x(at), PLOT.bottom + 20, at.toLocaleString('en'), 'soft', 'middle'),
  );
  const heights = labelHeights(series.map(({ points: own }) => y(own.at(-1)?.value ?? 0)));
  const lines = series.map(({ name, points: own }, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const path = own.map((point) => `${round(x(point.x))} ${round(y(point.value))}`).join('L');
    const spread = own.map(
      (point) =>
        `<line class="spread" stroke="${colour}" x1="${round(x(point.x))}" x2="${round(x(point.x))}" y1="${round(y(point.low))}" y2="${round(y(point.high))}"/>`,
    );
    const label = text(PLOT.right + 12, (heights[index] ?? 0) + 4, name, 'name');
    return `<path class="line" stroke="${colour}" d="M${path}h0.1"/>${spread.join('')}<rect x="${PLOT.right + 2}" y="${round((heights[index] ?? 0) - 3)}" width="7" height="7" fill="${colour}"/>${label}`;
  });
  return document(texts, HEIGHT, [...grid, ...ticks, ...lines]);
}

export interface Bar {
  readonly name: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** Horizontal bars from 0, with their spread; `show` writes a value. */
export function barPlot(texts: PlotTexts, bars: readonly Bar[], show: (value: number) => string): string {
  const top = Math.max(...bars.map((bar) => Math.max(bar.value, bar.high))) || 1;
  const x = (value: number): number => BAR.left + (Math.max(0, value) / top) * (BAR.right - BAR.left);
  const rows = bars.map((bar, index) => {
    const y = PLOT.top + index * (BAR.height + BAR.gap);
    const middle = y + BAR.height / 2;
    return [
      text(BAR.left - 10, middle + 4, bar.name, 'name', 'end'),
      `<rect x="${BAR.left}" y="${y}" width="${round(x(bar.value) - BAR.left)}" height="${BAR.height}" fill="${COLOURS[index % COLOURS.length]}" opacity="0.8"/>`,
      `<line class="spread" stroke="currentColor" x1="${round(x(bar.low))}" x2="${round(x(bar.high))}" y1="${middle}" y2="${middle}"/>`,
      text(x(Math.max(bar.value, bar.high)) + 8, middle + 4, show(bar.value), 'soft'),
    ].join('');
  });
  return document(texts, PLOT.top + bars.length * (BAR.height + BAR.gap) + 24, rows);
}

function document(texts: PlotTexts, height: number, body: readonly string[]): string {
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img">
<title>${xmlText(texts.title)}</title>
<desc>${xmlText(texts.subtitle)}</desc>
<style>${STYLE}</style>
<rect class="card" x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="10"/>
${text(24, 32, texts.title, 'title')}
${text(24, 52, texts.subtitle, 'soft')}
${body.join('\n')}
</svg>
`;
}

/** The smallest 1, 2, 3, 6 or so times a power of ten that is not below a value: its sixths are round. */
function niceTop(value: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return ([1.2, 3, 6, 12].find((factor) => factor * power >= value) ?? 12) * power;
}

/** Heights for labels that would overlap: pushed down in the order of their lines. */
function labelHeights(wanted: readonly number[]): number[] {
  const heights = [...wanted];
  const order = wanted.map((_, index) => index).sort((a, b) => (wanted[a] ?? 0) - (wanted[b] ?? 0));
  let last = Number.NEGATIVE_INFINITY;
  for (const index of order) {
    last = Math.max(heights[index] ?? 0, last + 15);
    heights[index] = last;
  }
  return heights;
}
