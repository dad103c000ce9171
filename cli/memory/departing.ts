import { closeSync } from 'node:fs';
import type { Line } from '../../addon/lib/index.js';
import type { ProcessDescription } from '../process/description.js';
import { readText, readTree } from '../system/procfs.js';
import { type CarriedMemory, inFreeze, notTaken, type ReasonCode, untracked } from './carried.js';
import { type CopyAim, Copying, type Tracked } from './copying.js';
import { refusePostCopy } from './later-refusals.js';
import { pointToParent } from './page-map.js';
import { flatten, type Range } from './records.js';

/** A process with less that it does not share is CRIU's: it is copied in the freeze in less time than the last look takes. */
const MIN_ANONYMOUS_BYTES = 6 << 20;
/** As before, where that is not known: files of this size are seldom all that a process has. */
const MIN_RESIDENT_BYTES = 16 << 20;

/** Whether both ends make ready for memory that does not come in CRIU's images. */
export function isLarge({
  pids,
  residentBytes,
  anonymousBytes = 0,
}: Pick<ProcessDescription, 'pids' | 'residentBytes' | 'anonymousBytes'>): boolean {
  return residentBytes >= MIN_RESIDENT_BYTES || (pids.length === 1 && anonymousBytes >= MIN_ANONYMOUS_BYTES);
}

/** Where nobody says how long the freeze may be, the rounds work for this. */
const BUDGET_MS = 100;

/** Lets memory be sent to where the process goes; fulfilled when all of it has been taken there. */
export type SendMemory = (feed: (line: Line) => Promise<void>, signal: AbortSignal) => Promise<void>;

/** What came of copying ahead; `bytes` is absent where all is left to CRIU. */
export interface SentAhead {
  readonly bytes?: number;
  readonly memory: CarriedMemory;
}

/** Why the memory of a process is CRIU's; undefined: it is not. */
export function whyCriu(
  pids: readonly number[],
  large: boolean,
): Extract<ReasonCode, 'TREE' | 'SMALL' | 'SHADOW_STACK'> | undefined {
  if (pids.length !== 1) return 'TREE'; // a child may share pages with its parent, which CRIU finds out while it restores them
  if (usesShadowStack(pids[0] ?? 0)) return 'SHADOW_STACK';
  return large ? undefined : 'SMALL';
}

/**
 * The large memory of a process that leaves: copied while it runs, and kept out of its dump. Whatever speaks against it at any moment
 * up to the gate, CRIU carries all, as it does for a small process.
 */
export class DepartingMemory {
  /** Until there is a copying, whose it is then; undefined when it was not asked for. */
  private tracked: Promise<Tracked> | undefined;
  private copying: Copying | undefined;
  private underway: Copying | undefined;
  private delivered: Promise<void> | undefined;
  private mappings: readonly Range[] = [];
  private forecast: Pick<CarriedMemory, 'forecast'> | undefined;
  private readonly cut = new AbortController();
  /** What the last look found otherwise. */
  after: CarriedMemory | undefined;

  private constructor() {}

  /** @returns undefined for a process whose memory is CRIU's. */
  static of(pids: readonly number[], description: Parameters<typeof isLarge>[0]): DepartingMemory | undefined {
    return whyCriu(pids, isLarge(description)) === undefined ? new DepartingMemory() : undefined;
  }

  /** Begins what {@link sendAhead} begins with: to look at 500 MB for the first time takes 15 ms. Ends when that is done, or failed. */
  async track(pid: number): Promise<void> {
    this.tracked = Copying.track(pid);
    await this.tracked.catch(() => undefined); // said when it is needed
  }

  /**
   * Copies while the process runs, until what is left is small.
   * @param moved told, before more is sent, how many bytes were. @param aim where nobody says more, a freeze of {@link BUDGET_MS}
   * @throws {UserError} `NOT_POST_COPY`
   */
  async sendAhead(
    pid: number,
    send: SendMemory,
    moved: (bytes: number) => Promise<void>,
    aim: CopyAim = { budgetMs: BUDGET_MS },
  ): Promise<SentAhead> {
    if (aim.later === true) refusePostCopy(pid);
    let copying: Copying;
    try {
      const tracked = this.tracked ?? Copying.track(pid);
      this.tracked = undefined;
      copying = new Copying(await tracked, aim);
      this.underway = copying;
    } catch (error) {
      this.cut.signal.throwIfAborted();
      return { memory: untracked(error) };
    }
    try {
      const delivered = send((line) => copying.feed(line, moved), this.cut.signal);
      delivered.catch(() => copying.stopTracking());
      const failed = delivered.then(() => Promise.reject(new Error('it was over before its end')));
      const forecast = await Promise.race([copying.ready, failed]);
      this.copying = copying;
      this.delivered = delivered;
      this.forecast = { forecast };
      return { bytes: copying.sent, memory: { copied: 'ahead', forecast } };
    } catch (error) {
      copying.stopTracking();
      this.cut.signal.throwIfAborted();
      return { memory: notTaken(error) };
    }
  }

  /**
   * CRIU stands at the gate, and the process still.
   * @param root of the tree, which may have got children meanwhile.
   * @returns the mappings that CRIU is not to carry, as {@link flatten} writes them.
   */
  async lastLook(root: number): Promise<BigUint64Array> {
    if (this.copying !== undefined && readTree(root).length === 1) this.mappings = await this.copying.lastLook();
    else if (this.copying !== undefined) {
      this.copying.leaveToCriu();
      this.after = inFreeze('FORKED');
    }
    return flatten(this.mappings);
  }

  /** Of all its mappings, where {@link lastLook} found them out. */
  get mappingFlags(): string | undefined {
    return this.copying?.mappingFlags;
  }

  /** CRIU's images are whole: they get to know where the rest is. */
  finishDump(folder: string): void {
    pointToParent(folder, this.mappings);
  }

  /**
   * Ends when the destination has all of it, but for what is sent {@link later}.
   * @returns bytes that were sent since {@link sendAhead}
   */
  async sent(before: number): Promise<number> {
    await this.delivered;
    if (this.later > 0) this.after = { ...(this.forecast ?? {}), copied: 'ahead', later: this.later };
    return Math.max((this.copying?.sent ?? 0) - before, 0);
  }

  /** Bytes that the process is to have when it runs already; known after {@link sent}. */
  get later(): number {
    return this.copying?.later ?? 0;
  }

  /** How far the copying is; undefined before it begins. */
  get progress(): Copying['progress'] | undefined {
    return this.underway?.progress;
  }

  /** The process is gone, or goes on: its mappings need no tracking any more. */
  release(): void {
    this.copying?.stopTracking();
    this.tracked?.then(({ tracker }) => closeSync(tracker)).catch(() => undefined);
    this.tracked = undefined;
  }

  /** Nothing of this is wanted any more. */
  giveUp(reason: Error): void {
    this.cut.abort(reason);
    this.release();
  }
}

/** A shadow stack is private and anonymous, and cannot be moved like other memory. */
function usesShadowStack(pid: number): boolean {
  return /^x86_Thread_features:.*shstk/m.test(readText(`/proc/${pid}/status`) ?? '');
}
