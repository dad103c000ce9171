import { spawn } from 'node:child_process';
import { closeSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pagerProgram, pidfdOpen, pollReadable } from '../../addon/lib/index.js';
import { asHomeproxyError, ExternalError } from '../errors.js';
import { run } from '../system/command.js';
import { readText } from '../system/procfs.js';

/** What a pager (`addon/src/pager.cc`) says of itself. */
export interface PagerState {
  /** `waiting`: no process was handed over to it. `complete`: nothing is missing any more. */
  readonly stage: 'waiting' | 'serving' | 'complete';
  /** Pid of the process that serves, of the one that would go on in its place, and of the one that would make both anew. */
  readonly serving: number;
  readonly standingBy: number;
  readonly keeping: number;
  /** Pages that were to come when the process began to run, and those that are missing now. */
  readonly later: number;
  readonly missing: number;
  /** How often a thread has waited for a page. */
  readonly faults: number;
}

export const PAGER_STATE = 'pager.state';
const STAGES = ['waiting', 'serving', 'complete'] as const;
const NUMBERS = 7;
const NUMBER_BYTES = 8;

/** @returns undefined when no pager was started in that folder. */
export function readPagerState(folder: string): PagerState | undefined {
  let numbers: Buffer;
  try {
    numbers = readFileSync(join(folder, PAGER_STATE));
  } catch {
    return undefined;
  }
  if (numbers.length < NUMBERS * NUMBER_BYTES) return undefined;
  const number = (index: number): number => Number(numbers.readBigUInt64LE(index * NUMBER_BYTES));
  return {
    stage: STAGES[number(0)] ?? 'waiting',
    serving: number(1),
    standingBy: number(2),
    keeping: number(3),
    later: number(4),
    missing: number(5),
    faults: number(6),
  };
}

/** The processes of a pager; those that there are. */
export function pagerPids({ serving, standingBy, keeping }: PagerState): number[] {
  return [serving, standingBy, keeping].filter((pid) => pid > 0);
}

/** What this kernel has against a pager, in words; undefined: nothing. */
export async function whyNoPager(): Promise<string | undefined> {
  try {
    await run(pagerProgram(), ['--check']);
    return undefined;
  } catch (error) {
    const { message, log } = asHomeproxyError(error).toDocument();
    return log?.at(-1) ?? message;
  }
}

const LINE = 'pager.line';
const START_MS = 2000;
const LOOK_MS = 200;

/** Starts a pager for the process that will be restored from a folder. It outlives the daemon. @throws {ExternalError} `NO_PAGER` */
export async function startPager(folder: string): Promise<void> {
  const child = spawn(pagerProgram(), [wordFor(folder)], { stdio: 'ignore', detached: true, cwd: '/' });
  let failed = false;
  child.once('error', () => {
    failed = true;
  });
  child.unref();
  spareFromOutOfMemory(child.pid);
  for (const deadline = performance.now() + START_MS; !existsSync(join(folder, LINE)); await pause(1)) {
    if (!failed && child.exitCode === null && performance.now() < deadline) continue;
    throw new ExternalError({ code: 'NO_PAGER', message: 'the pager did not start', command: pagerProgram() });
  }
}

/** Whether the process of a folder can still get what it is missing, sooner or later. */
export function pagerLives(folder: string): boolean {
  const state = readPagerState(folder);
  return state !== undefined && pagerPids(state).some((pid) => isPager(pid, folder));
}

/**
 * Waits until nothing is missing any more.
 * @returns false when its pager is gone and something is: the process would find zeros there.
 */
export async function allHasCome(folder: string): Promise<boolean> {
  for (;;) {
    const lives = pagerLives(folder);
    const state = readPagerState(folder);
    if (state?.stage !== 'serving') return true; // complete, or it never was handed anything
    if (!lives) return false;
    await endOf(state.keeping, LOOK_MS);
  }
}

/** Waits for the end of a process, for so long at most. */
async function endOf(pid: number, limitMs: number): Promise<void> {
  const ended = new AbortController();
  let close = (): void => undefined;
  try {
    const pidfd = pidfdOpen(pid);
    const watch = pollReadable(pidfd, () => ended.abort());
    watch.unref();
    close = () => {
      watch.close();
      closeSync(pidfd);
    };
  } catch {
    // it has ended already
  }
  await pause(limitMs, undefined, { ref: false, signal: ended.signal }).catch(() => undefined);
  close();
}

/** Ends a pager whose process is no more. @param state from before its folder was removed, by which it knows that it may end */
export function endPager(folder: string, state: PagerState | undefined): void {
  for (const pid of state === undefined ? [] : pagerPids(state)) {
    if (isPager(pid, folder)) process.kill(pid, 'SIGTERM');
  }
}

function isPager(pid: number, folder: string): boolean {
  return readText(`/proc/${pid}/cmdline`)?.split('\0')[1] === wordFor(folder);
}

/** A run of CRIU is found, and ended, by the folder that its command line names (cli/checkpoint/criu-processes.ts): this is none. */
function wordFor(folder: string): string {
  return `${folder}/`;
}

/** Its end is the process's. */
function spareFromOutOfMemory(pid: number | undefined): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, '-1000');
  } catch {
    // without CAP_SYS_RESOURCE, or it has ended: it is as likely as any other then
  }
}
