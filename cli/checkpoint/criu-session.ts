import { closeSync, constants, existsSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pidfdOpen, pollReadable } from '../../addon/lib/index.js';
import { ExternalError } from '../errors.js';
import { openForReader } from '../system/fifo.js';
import { type ProcessStamp, readText, stampAlive } from '../system/procfs.js';
import { criuOf, endCriuOf } from './criu-processes.js';
import { HookLog } from './hook-log.js';

/** Hooks at which CRIU waits for our word (`addon/src/criu-hooks.c`). */
export type Hook = 'pre-dump' | 'post-dump' | 'post-restore' | 'pre-resume';

/** Where CRIU waits for nobody: what it has restored runs. */
const RUNS = 'post-resume';

/** Where CRIU stands besides in a dump: all tasks are seized, and none is touched yet (`gate.ts`). */
export type Place = Hook | 'gate' | typeof RUNS;

/** The image that CRIU reads first. */
export const INVENTORY = 'inventory.img';
export const VERDICT = 'verdict';
export const HOOK_LOG = 'hooks.log';

/** What must be known to take up a run of CRIU after a restart of the daemon. Plain data for the journal. */
export interface CriuRun {
  readonly verb: 'dump' | 'restore';
  /** Undefined when the daemon died before it could write down what it had started. */
  readonly process: ProcessStamp | undefined;
  readonly images: string;
}

/** One run of CRIU, driven through its hooks. */
export class CriuSession {
  /** Exit status when CRIU has ended; null: it was killed, or it was adopted, and nobody knows. Never rejects. */
  readonly exited: Promise<number | null>;
  private over = false;

  private constructor(
    readonly run: CriuRun,
    private readonly command: string,
    /** Open for reading too, so that opening never blocks and a word waits in the FIFO until the hook reads it (fifo(7)). */
    private readonly verdict: number | undefined,
    private readonly hooks: HookLog | undefined,
    exited: Promise<number | null>,
  ) {
    this.exited = exited.then((status) => {
      this.over = true; // before the descriptor's number can belong to another file
      if (verdict !== undefined) closeSync(verdict);
      hooks?.close();
      return status;
    });
  }

  /** A run that was started just now; its FIFO and its file of hooks are there. */
  static of(run: CriuRun, command: string, exited: Promise<number | null>): CriuSession {
    const verdict = openSync(join(run.images, VERDICT), constants.O_RDWR | constants.O_NONBLOCK);
    return new CriuSession(run, command, verdict, new HookLog(join(run.images, HOOK_LOG)), exited);
  }

  /**
   * Takes up a run that a previous daemon started: its hooks and its verdict are files, and it may still be waiting. When they
   * are gone, because the images were removed or the machine was started again, the run is over and passed no hook.
   */
  static adopt(run: CriuRun): CriuSession {
    const command = `criu ${run.verb} -D ${run.images}`;
    const process = run.process ?? criuOf(run.images);
    const fifo = join(run.images, VERDICT);
    const log = join(run.images, HOOK_LOG);
    if (!existsSync(fifo) || !existsSync(log)) {
      endCriuOf(run.images);
      return new CriuSession({ ...run, process }, command, undefined, undefined, Promise.resolve(null));
    }
    const verdict = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    return new CriuSession({ ...run, process }, command, verdict, new HookLog(log), untilEnded(process));
  }

  /**
   * Waits until CRIU stands at a hook, or at the gate.
   * @throws {ExternalError} `CRIU_FAILED` with the errors in its log, if it ends before; `CRIU_SLOW` after `limitMs`.
   */
  async reached(hook: Place, limitMs?: number): Promise<void> {
    if (this.hooks === undefined) throw this.failure();
    const end = new AbortController();
    const outcome = await Promise.race([
      this.hooks.waitFor(hook).then(() => 'reached' as const),
      this.exited.then(() => 'ended' as const),
      ...(limitMs === undefined
        ? []
        : [pause(limitMs, 'late' as const, { signal: end.signal }).catch(() => 'late' as const)]),
    ]);
    end.abort();
    if (outcome === 'ended' && !this.passed(hook)) throw this.failure();
    if (outcome === 'late') throw this.slow(hook, limitMs ?? 0);
  }

  /** Waits until what was restored runs, or CRIU has ended: what CRIU does after that concerns nobody but {@link end}. */
  async resumed(limitMs: number): Promise<void> {
    await this.reached(RUNS, limitMs).catch(() => undefined);
  }

  /** Whether CRIU has come to a hook or to the gate, now or before. */
  passed(hook: Place): boolean {
    return this.hooks?.seen(hook) ?? false;
  }

  /** Lets CRIU go on from a hook, when it stands there or comes there. */
  go(hook: Hook): void {
    this.say(`go ${hook}`);
  }

  /** A veto, at the hook where CRIU stands or at the next one. */
  stop(): void {
    this.say('stop');
  }

  /**
   * All other images are in the folder: lets a waiting restore read its inventory, and the end of file after it.
   * @throws {ExternalError} `CRIU_FAILED` when it has ended before.
   */
  async release(inventory: Uint8Array): Promise<void> {
    for (;;) {
      const fd = openForReader(join(this.run.images, INVENTORY));
      if (fd !== undefined) {
        writeSync(fd, inventory); // 100 bytes: a FIFO takes them at once
        closeSync(fd);
        return;
      }
      if (this.over) throw this.failure();
      await pause(1); // CRIU is still starting, and a FIFO tells nobody of its first reader
    }
  }

  /** Kills CRIU with its hooks and the programs that entered the pod for it. What it held or had half restored stays behind. */
  async kill(): Promise<void> {
    endCriuOf(this.run.images, this.run.process);
    await this.exited;
  }

  /**
   * Waits for its end; kills it when it has not ended by then. A dump between its first two hooks has code inside the tasks, which
   * would die with it: it is given more time, to come to the hook where it is told to stop.
   * @returns its exit status, null when that is not known.
   */
  async end(limitMs: number, insideMs = 0): Promise<number | null> {
    const end = new AbortController();
    const inside = this.run.verb === 'dump' && this.passed('pre-dump') && !this.passed('post-dump');
    const whole = limitMs + (inside ? insideMs : 0);
    const late = pause(whole, 'late' as const, { signal: end.signal }).catch(() => 'late' as const);
    const status = await Promise.race([this.exited, late]);
    end.abort();
    if (status === 'late') await this.kill();
    else if (status === null) endCriuOf(this.run.images); // what entered the pod for it, or CRIU itself there, may survive
    return status === 'late' ? null : status;
  }

  failure(): ExternalError {
    const { verb, images } = this.run;
    return new ExternalError({
      code: 'CRIU_FAILED',
      message: `CRIU could not ${verb} the process`,
      command: this.command,
      log: tellingLines(readText(join(images, `${verb}.log`)) ?? ''),
    });
  }

  private slow(hook: Place, limitMs: number): ExternalError {
    return new ExternalError({
      code: 'CRIU_SLOW',
      message: `CRIU had not come to ${hook} after ${limitMs} ms`,
      command: this.command,
      remedy: 'raise timeouts.freezeMs or timeouts.restoreMs for processes with much memory',
    });
  }

  private say(line: string): void {
    if (!this.over && this.verdict !== undefined) writeSync(this.verdict, `${line}\n`);
  }
}

/** Waits for the end of a process that is not our child; its status stays unknown (pidfd_open(2): readable at the end). */
function untilEnded(stamp: ProcessStamp | undefined): Promise<null> {
  if (stamp === undefined || !stampAlive(stamp)) return Promise.resolve(null);
  return new Promise((resolve) => {
    const pidfd = pidfdOpen(stamp.pid);
    const watch = pollReadable(pidfd, () => {
      watch.close();
      closeSync(pidfd);
      resolve(null);
    });
  });
}

/** The lines of a CRIU log that say what went wrong: its errors, else its last warnings. */
export function tellingLines(log: string): string[] {
  const lines = log.split('\n').filter((line) => line !== '');
  const errors = lines.filter((line) => line.includes('Error') && !line.includes("Can't setup RLIMIT_NOFILE"));
  return (errors.length > 0 ? errors : lines).slice(-8);
}
