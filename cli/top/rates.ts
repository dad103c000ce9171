import type { TopMigration, TopProcess, TopReport } from '../node/top-method.js';

export interface Rate {
  readonly packetsPerSecond: number;
  readonly bytesPerSecond: number;
}

export interface ProcessRates extends Omit<TopProcess, 'forwarded' | 'dropped'> {
  readonly forwarded: Rate;
  readonly dropped: Rate;
}

/** What happened between two looks: the JSON contract of `homeproxy top --json`. */
export interface TopSample {
  readonly node: string;
  readonly startedAt: number;
  /** Between the two looks, in milliseconds. */
  readonly intervalMs: number;
  readonly outcomes: Readonly<Record<string, Rate>>;
  /** The busiest first. */
  readonly processes: readonly ProcessRates[];
  readonly migrations: readonly TopMigration[];
}

interface Traffic {
  readonly packets: number;
  readonly bytes: number;
}

const NOTHING: Traffic = { packets: 0, bytes: 0 };

/** @param before undefined, or of another daemon: every rate is since its start, of which nothing is known yet: 0 */
export function ratesBetween(before: TopReport | undefined, now: TopReport): TopSample {
  const known = before?.startedAt === now.startedAt ? before : undefined;
  const intervalMs = known === undefined ? 0 : now.atMs - known.atMs;
  const rate = (from: Traffic, to: Traffic): Rate => ({
    packetsPerSecond: perSecond(to.packets - from.packets, intervalMs),
    bytesPerSecond: perSecond(to.bytes - from.bytes, intervalMs),
  });
  const earlier = new Map(known?.processes.map((process) => [process.twin, process]));
  const processes = now.processes.map((process) => ({
    ...process,
    // One that was not there has counted all of it since.
    forwarded: rate(earlier.get(process.twin)?.forwarded ?? NOTHING, process.forwarded),
    dropped: rate(earlier.get(process.twin)?.dropped ?? NOTHING, process.dropped),
  }));
  processes.sort(
    (left, right) => right.forwarded.bytesPerSecond - left.forwarded.bytesPerSecond || left.pid - right.pid,
  );
  return {
    node: now.node,
    startedAt: now.startedAt,
    intervalMs,
    outcomes: Object.fromEntries(
      Object.entries(now.outcomes).map(([name, to]) => [name, rate(known?.outcomes[name] ?? NOTHING, to)]),
    ),
    processes,
    migrations: now.migrations,
  };
}

/** A counter that is less than before began anew. */
function perSecond(difference: number, ms: number): number {
  return ms <= 0 || difference <= 0 ? 0 : Math.round((difference / ms) * 100_000) / 100;
}
