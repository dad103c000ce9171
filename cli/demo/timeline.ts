import { type Bin, binned, formatMs, type LogScale, logScale } from './analysis.js';
import type { Picture, PicturedMove } from './picture.js';

const EIGHTHS = ['', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;
const ROWS_PER_DECADE = 3;
const AXIS_COLUMNS = 10;

/** How the parts are painted; identity functions for a plain text. */
export interface Paint {
  /** Columns in which the process stood still. */
  readonly frozen: (text: string) => string;
  readonly calm: (text: string) => string;
  readonly faint: (text: string) => string;
}

export const PLAIN: Paint = { frozen: (text) => text, calm: (text) => text, faint: (text) => text };

/**
 * The timeline for a terminal of `columns`: the longest latency that the client saw in each column, on a logarithmic scale,
 * and below it where the process moved. Lines have no newline.
 */
export function terminalTimeline(picture: Picture, columns: number, paint: Paint = PLAIN): string[] {
  const width = Math.max(20, columns - AXIS_COLUMNS - 1);
  const bins = binned(picture.samples, picture, width);
  const scale = logScale(bins.map((bin) => bin.maxMs));
  const rows = (scale.decades.length - 1) * ROWS_PER_DECADE;
  const frozen = bins.map((bin) => picture.moves.some((move) => move.frozenAt <= bin.to && move.resumedAt >= bin.from));
  const lines: string[] = [];
  for (let row = rows - 1; row >= 0; row--) {
    const bars = bins.map((bin, index) => {
      const cell = barCell(bin, scale, rows, row);
      return cell === ' ' ? cell : frozen[index] === true ? paint.frozen(cell) : paint.calm(cell);
    });
    lines.push(`${axisLabel(scale, row, paint)}${bars.join('').trimEnd()}`);
  }
  lines.push(`${' '.repeat(AXIS_COLUMNS - 1)}${paint.faint(timeAxis(picture, width))}`);
  for (const line of markerLines(picture, width)) lines.push(`${' '.repeat(AXIS_COLUMNS)}${line}`);
  return lines;
}

function barCell(bin: Bin, scale: LogScale, rows: number, row: number): string {
  if (bin.maxMs === 0) return ' ';
  const eighths = Math.max(1, Math.round(scale.at(bin.maxMs) * rows * 8));
  return EIGHTHS[Math.min(8, Math.max(0, eighths - row * 8))] || ' ';
}

function axisLabel(scale: LogScale, row: number, paint: Paint): string {
  const top = row + 1;
  const decade = top % ROWS_PER_DECADE === 0 ? scale.decades[top / ROWS_PER_DECADE] : undefined;
  const label = decade === undefined ? '' : decadeLabel(decade);
  return paint.faint(`${label.padStart(AXIS_COLUMNS - 2)} ${decade === undefined ? '│' : '┤'}`);
}

/** `10 ms`, `1 s`. */
export function decadeLabel(ms: number): string {
  return ms >= 1000 ? `${ms / 1000} s` : `${ms} ms`;
}

function timeAxis(picture: Picture, width: number): string {
  const seconds = (picture.to - picture.from) / 1000;
  const step = [1, 2, 5, 10, 20, 30, 60, 120, 300].find((candidate) => (candidate / seconds) * width >= 10) ?? 600;
  const axis = `└${'─'.repeat(width)}`.split('');
  for (let second = step; second < seconds; second += step) {
    const label = `${second} s`;
    const column = 1 + Math.floor((second / seconds) * width);
    if (column + label.length > width) break;
    axis.splice(column, label.length, ...label);
  }
  return axis.join('');
}

/** Each move's marker and words below the column where it froze, in as many lanes as they need not to overlap. */
function markerLines(picture: Picture, width: number): string[] {
  const lanes: string[][] = [];
  for (const move of picture.moves) {
    const share = (move.frozenAt - picture.from) / (picture.to - picture.from);
    const pieces = markerPieces(move, Math.min(width - 1, Math.max(0, Math.floor(share * width))), width);
    const free = lanes.find((lines) => pieces.every(({ start }, index) => (lines[index] ?? '').length < start));
    const lane = free ?? [];
    if (free === undefined) lanes.push(lane);
    pieces.forEach(({ start, text }, index) => {
      lane[index] = `${(lane[index] ?? '').padEnd(start)}${text}`;
    });
  }
  return lanes.flat();
}

/** Two lines of words at the marker's right, or at its left where the right edge is too near. */
function markerPieces(move: PicturedMove, column: number, width: number): { start: number; text: string }[] {
  const route = `${move.from} → ${move.to}`;
  const figures = `freeze ${formatMs(move.freezeMs)}, stall ${formatMs(move.stallMs)}`;
  const leftward = column + 2 + route.length > width;
  return [
    leftward
      ? { start: Math.max(0, column - route.length - 1), text: `${route} ▲` }
      : { start: column, text: `▲ ${route}` },
    { start: Math.max(0, Math.min(column + 2, width - figures.length)), text: figures },
  ];
}
