import { setTimeout as pause } from 'node:timers/promises';
import { UserError } from '../errors.js';
import {
  type ClosingConnection,
  nameOfConnection,
  outstandingOf,
  readClosingConnections,
  WAY_OUT,
} from '../process/closing-connections.js';
import type { DepartureRecord } from './records.js';

/*
 * Connections that the process of a pod has closed, and whose correspondents have not taken all of it: its pod does not outlive it,
 * nobody holds them, and what they still have to say would be lost without a word. When a process leaves its home, the home's kernel
 * brings them to their end (left-behind.ts).
 */

/** One that is so young is on its way to its end, as all are that an ordinary correspondent acknowledges. In milliseconds. */
const YOUNG_MS = 200;
/** In the freeze, for those that it has closed in the last moment. */
const FROZEN_MS = 200;
/** So many that are lost are named in a summary. */
const MAX_NAMED = 8;

type Leaving = Pick<DepartureRecord, 'localPids' | 'request'>;

/**
 * While the process runs: waits until what it has closed is at its end, but for what it has closed just now and for correspondents
 * that do not answer.
 * @param limitMs at least {@link YOUNG_MS} are waited
 * @returns names of those that were not in time, and may be lost
 * @throws {UserError} `CLOSING_CONNECTION` when they may not
 */
export async function awaitTaken({ localPids, request }: Leaving, limitMs: number): Promise<ReadonlySet<string>> {
  const pid = localPids[0] ?? 0;
  const started = performance.now();
  let seen = new Map<string, number>();
  for (;;) {
    const now = performance.now();
    const open = readClosingConnections(pid).filter(({ dead }) => !dead);
    seen = new Map(open.map(nameOfConnection).map((name) => [name, seen.get(name) ?? now]));
    const old = open.find((each) => now - (seen.get(nameOfConnection(each)) ?? now) >= YOUNG_MS);
    const waitedMs = now - started;
    if (open.length === 0 || (waitedMs >= YOUNG_MS && old === undefined)) return new Set();
    if (waitedMs >= limitMs && old !== undefined) {
      if (request.resetClosing !== true) throw notTaken(old);
      return new Set(seen.keys());
    }
    await pause(1); // the kernel has no event for it
  }
}

/**
 * The process stands still, and closes no more: waits, for a moment, until what it has closed since is at its end.
 * @param known not waited for, though their correspondents may answer
 * @returns what is lost with its pod, in words
 * @throws {UserError} `CLOSED_MEANWHILE`
 */
export async function awaitClosed({ localPids, request }: Leaving, known: ReadonlySet<string>): Promise<string[]> {
  for (const limit = performance.now() + FROZEN_MS; ; await pause(1)) {
    const left = readClosingConnections(localPids[0] ?? 0);
    const open = left.find((each) => !each.dead && !known.has(nameOfConnection(each)));
    if (open === undefined) return lostInWords(left);
    if (performance.now() < limit) continue;
    if (request.resetClosing !== true) throw closedMeanwhile(open);
    return lostInWords(left);
  }
}

function lostInWords(lost: readonly ClosingConnection[]): string[] {
  const named = lost
    .slice(0, MAX_NAMED)
    .map(
      (each) =>
        `of a connection that the process had closed, from ${nameOfConnection(each)}, what its correspondent${each.dead ? ', which did not answer,' : ''} had not taken: ${outstandingOf(each)}`,
    );
  const more = lost.length - named.length;
  return more === 0 ? named : [...named, `the same of ${more} more`];
}

function notTaken(connection: ClosingConnection): UserError {
  return new UserError({
    code: 'CLOSING_CONNECTION',
    message:
      `the process has closed a connection whose correspondent has not taken all of it, from ${nameOfConnection(connection)}: ` +
      `${outstandingOf(connection)} would be lost with its pod`,
    remedy: `try again when the correspondent has read it, or raise timeouts.drainMs; ${WAY_OUT}`,
  });
}

function closedMeanwhile(connection: ClosingConnection): UserError {
  return new UserError({
    code: 'CLOSED_MEANWHILE',
    message:
      `the process closed a connection in the very moment in which it was stopped, from ${nameOfConnection(connection)}: ` +
      `its correspondent has not taken ${outstandingOf(connection)}`,
    remedy: `try again; ${WAY_OUT}`,
  });
}
