import { figureOf } from '../statistics.js';
import type { ByHandSample } from './by-hand.js';
import { type Case, caseName, MODES, type Mode, type Tool } from './cases.js';
import type { Sample } from './scene.js';

/** What was measured of one case. A mode in which it could not be moved has the reason. */
export interface Measured {
  readonly what: Case;
  readonly rawTcpMs: number;
  readonly moves: Readonly<Record<Mode, readonly Sample[]>>;
  readonly failures: Readonly<Partial<Record<Mode | Tool, string>>>;
  readonly byHand: Readonly<Record<Tool, readonly ByHandSample[]>>;
}

export interface Result {
  readonly measured: readonly Measured[];
  /** Of its own work, what a process does while it is copied. */
  readonly workKept: readonly number[];
  /** Left out, and why. */
  readonly leftOut: readonly string[];
  readonly machine: string;
}

/** The median of one figure. */
export function median(samples: readonly Sample[], figure: (sample: Sample) => number): number | undefined {
  return samples.length === 0 ? undefined : figureOf(samples.map(figure)).value;
}

/** The median. */
export function downMs(samples: readonly ByHandSample[]): number | undefined {
  return samples.length === 0 ? undefined : figureOf(samples.map((sample) => sample.downMs)).value;
}

/** The line that `--json` ends with. */
export function jsonLine({ measured }: Result): string {
  const rows = measured.flatMap(({ what, rawTcpMs, moves, byHand }) =>
    (what.modes ?? MODES).map((mode) => ({
      mode,
      memoryMB: what.memoryMB,
      writerMBps: what.writerMBps,
      connections: what.connections,
      freezeMs: rounded(median(moves[mode], ({ freezeMs }) => freezeMs)),
      stallMs: rounded(median(moves[mode], ({ stallMs }) => stallMs)),
      totalMs: rounded(median(moves[mode], ({ totalMs }) => totalMs)),
      bytes: whole(median(moves[mode], ({ bytes }) => bytes)),
      rawTcpMs: rounded(rawTcpMs),
      plainCriuMs: rounded(downMs(byHand.plain)),
      podmanMs: rounded(downMs(byHand.podman)),
    })),
  );
  return JSON.stringify({ rows });
}

function rounded(value: number | undefined): number | null {
  return value === undefined ? null : Math.round(value * 10) / 10;
}

function whole(value: number | undefined): number | null {
  return value === undefined ? null : Math.round(value);
}

/** A figure that issue 6 demands; `measured` is undefined where this run has none. */
export interface Goal {
  readonly words: string;
  readonly measured: number | undefined;
  readonly limit: number;
  readonly unit: string;
}

const IDLE_MS = 100;
const PERCENT = 100;
const MICROSECONDS = 1000;

export function goals({ measured, workKept }: Result): Goal[] {
  const find = (memoryMB: number, writerMBps: number, connections: number): Measured | undefined =>
    measured.find(
      ({ what }) => what.memoryMB === memoryMB && what.writerMBps === writerMBps && what.connections === connections,
    );
  const of = (found: Measured | undefined, figure: (sample: Sample) => number) =>
    found === undefined ? undefined : median(found.moves['pre-copy'], figure);
  const freeze = (sample: Sample): number => sample.freezeMs;
  const small = find(10, 0, 1);
  const half = find(500, 0, 1);
  const one = of(find(50, 0, 1), freeze);
  const many = of(find(50, 0, 10_000), freeze);
  const frozen = (found: Measured | undefined, words: string, limit: number): Goal => {
    return { words: `${words}: freeze`, measured: of(found, freeze), limit, unit: 'ms' };
  };
  const kept = workKept.length === 0 ? undefined : figureOf(workKept).value;
  return [
    frozen(small, '10 MB, 1 connection', 50),
    {
      words: "10 MB, 1 connection: the client's stall beyond the freeze",
      measured: of(small, ({ stallMs, freezeMs }) => stallMs - freezeMs),
      limit: 10,
      unit: 'ms',
    },
    ...[500, 2048, 6144].map((memoryMB) => frozen(find(memoryMB, 0, 1), `${memoryMB} MB, mostly idle`, IDLE_MS)),
    frozen(find(500, 50, 1), '500 MB, 50 MB/s written', 150),
    {
      words: '500 MB: total',
      measured: of(half, ({ totalMs }) => totalMs),
      limit: Math.round(1.3 * (half?.rawTcpMs ?? Number.NaN) + 200),
      unit: 'ms',
    },
    {
      words: '10,000 connections, 50 MB: freeze a connection beyond that of one',
      measured: one === undefined || many === undefined ? undefined : ((many - one) / 10_000) * MICROSECONDS,
      limit: 100,
      unit: 'µs',
    },
    {
      words: "a busy process's own work, lost while it is copied",
      measured: kept === undefined ? undefined : Math.max(0, (1 - kept) * PERCENT),
      limit: 10,
      unit: '%',
    },
  ];
}

export function verdictOf({ measured, limit }: Goal): string {
  return measured === undefined ? 'not measured' : measured <= limit ? 'met' : 'not met';
}

/** What could not be measured, in words. */
export function missing({ measured, leftOut }: Result): string[] {
  const failed = measured.flatMap(({ what, failures }) =>
    Object.entries(failures).map(([mode, reason]) => `${caseName(what)}, ${mode}: ${reason}`),
  );
  return [...failed, ...leftOut];
}
