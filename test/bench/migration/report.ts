import { inTerminal, type Section, writePage } from '../page.js';
import { linePlot, type PlotPoint, type Series } from '../plot.js';
import { figureOf } from '../statistics.js';
import { MODES, TOOL_NAMES, TOOLS } from './cases.js';
import { downMs, goals, type Measured, median, missing, type Result, verdictOf } from './result.js';
import type { Sample } from './scene.js';

/** For the terminal. */
export function terminalReport(result: Result): string {
  return inTerminal(sections(result));
}

/** Writes README.md and its pictures. @returns the path of the page. */
export function writeReport(folder: string, result: Result): string {
  return writePage(folder, 'Migrations, measured', sections(result));
}

function sections(result: Result): Section[] {
  return [goalSection(result), tableSection(result), phaseSection(result), ...pictures(result)];
}

function goalSection(result: Result): Section {
  return {
    title: 'What it must show',
    text: `Medians, with pre-copy. This machine: ${result.machine}; both nodes and the client share them, so that a process loses there what the destination and the client take as well.`,
    head: ['figure', 'measured', 'limit', ''],
    rows: goals(result).map((goal) => [
      goal.words,
      goal.measured === undefined ? '' : `${goal.measured.toFixed(1)} ${goal.unit}`,
      Number.isNaN(goal.limit) ? '' : `${goal.limit} ${goal.unit}`,
      verdictOf(goal),
    ]),
  };
}

function tableSection(result: Result): Section {
  const absent = missing(result);
  const note = absent.length === 0 ? '' : ` Not measured: ${absent.join('; ')}.`;
  return {
    title: 'Moves there and back',
    text: `Medians of both ways. Stall: the longest answer that a client got which asks every millisecond. Moved: what travelled, rounds included. CPU: of both nodes. Raw TCP: the same number of bytes as the process has, over one connection between the same nodes. Plain CRIU: criu dump, tar over raw TCP, criu restore, with CRIU's nftables lock, until the address has moved along. Podman: the same with podman container checkpoint and restore, uncompressed.${note}`,
    head: [
      'MB',
      'written',
      'conn.',
      'mode',
      'freeze',
      'stall',
      'total',
      'moved',
      'CPU',
      'raw TCP',
      ...TOOLS.map((tool) => TOOL_NAMES[tool]),
    ],
    rows: result.measured.flatMap((one) =>
      (one.what.modes ?? MODES).map((mode) => {
        const { what, moves, rawTcpMs, byHand } = one;
        const figure = (of: (sample: Sample) => number): string => ms(median(moves[mode], of));
        const bytes = median(moves[mode], (sample) => sample.bytes);
        return [
          String(what.memoryMB),
          what.writerMBps === 0 ? '' : `${what.writerMBps} MB/s`,
          String(what.connections),
          mode,
          figure(({ freezeMs }) => freezeMs),
          figure(({ stallMs }) => stallMs),
          figure(({ totalMs }) => totalMs),
          bytes === undefined ? '' : `${(bytes / (1 << 20)).toFixed(1)} MiB`,
          figure(({ cpuMs }) => cpuMs),
          ms(rawTcpMs),
          ...TOOLS.map((tool) => ms(downMs(byHand[tool]))),
        ];
      }),
    ),
  };
}

/** The phases in which the process stands still, and what comes before. */
const SHOWN = ['inspect', 'prepare', 'drain', 'dump', 'transfer', 'restore', 'commit', 'resume', 'replay', 'finish'];

function phaseSection(result: Result): Section {
  return {
    title: 'Where the time goes',
    text: 'Medians in milliseconds. The rounds are part of "prepare"; the process stands still from "dump" to "resume".',
    head: ['MB', 'written', 'conn.', 'mode', ...SHOWN],
    rows: result.measured.flatMap(({ what, moves }) =>
      MODES.filter((mode) => moves[mode].length > 0).map((mode) => [
        String(what.memoryMB),
        what.writerMBps === 0 ? '' : `${what.writerMBps} MB/s`,
        String(what.connections),
        mode,
        ...SHOWN.map((phase) => (median(moves[mode], ({ phases }) => phases[phase] ?? 0) ?? 0).toFixed(1)),
      ]),
    ),
  };
}

function pictures(result: Result): Section[] {
  const bySize = result.measured.filter(({ what }) => what.connections === 1);
  const byConnections = result.measured.filter(({ what }) => what.memoryMB === 50 && what.writerMBps === 0);
  const memory = (one: Measured): number => one.what.memoryMB;
  const connections = (one: Measured): number => one.what.connections;
  return [
    ...pictureOf('Freeze by memory', 'freeze-by-memory.svg', 'MB', [
      ...frozen(
        bySize.filter(({ what }) => what.writerMBps === 0),
        memory,
        '',
      ),
      ...frozen(
        bySize.filter(({ what }) => what.writerMBps > 0),
        memory,
        ', writing',
      ),
      ...byTools(bySize, memory),
    ]),
    ...pictureOf('Freeze by connections', 'freeze-by-connections.svg', 'connections', [
      ...frozen(byConnections, connections, ''),
      ...byTools(byConnections, connections),
    ]),
  ];
}

function pictureOf(title: string, file: string, axis: string, series: readonly Series[]): Section[] {
  const drawn = series.filter(({ points }) => points.length > 1);
  if (drawn.length === 0) return [];
  const texts = { title, subtitle: `milliseconds by ${axis}; medians with the middle half of the moves` };
  const rows = drawn.map(({ name, points }) => [name, points.map(({ x, value }) => `${x}: ${ms(value)}`).join(', ')]);
  return [
    { title, text: texts.subtitle, head: ['', axis], rows, picture: { file, svg: linePlot(texts, 'ms', drawn) } },
  ];
}

function frozen(measured: readonly Measured[], x: (one: Measured) => number, note: string): Series[] {
  return MODES.map((mode) => ({
    name: `${mode}${note}`,
    points: measured
      .filter(({ moves }) => moves[mode].length > 0)
      .map((one): PlotPoint => ({ x: x(one), ...figureOf(one.moves[mode].map(({ freezeMs }) => freezeMs)) })),
  }));
}

function byTools(measured: readonly Measured[], x: (one: Measured) => number): Series[] {
  return TOOLS.map((tool) => ({
    name: TOOL_NAMES[tool],
    points: measured
      .filter(({ byHand }) => byHand[tool].length > 0)
      .map((one): PlotPoint => ({ x: x(one), ...figureOf(one.byHand[tool].map((sample) => sample.downMs)) })),
  }));
}

function ms(value: number | undefined): string {
  return value === undefined ? '' : `${value.toFixed(value < 100 ? 1 : 0)} ms`;
}
