import { closeSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { type Line, scanLast, scanWritten, trackWrites } from '../../addon/lib/index.js';
import { ExternalError } from '../errors.js';
import { ownSession } from '../system/priority.js';
import { readText } from '../system/procfs.js';
import type { CopyProgress } from './carried.js';
import { Deference } from './deference.js';
import { type Aim, type Forecast, forecastOf, nextOf, type Round } from './forecast.js';
import { MappingFlags } from './mapping-flags.js';
import { ownMappings } from './mappings.js';
import {
  bareRecords,
  bytesOf,
  flatten,
  intersect,
  type Range,
  signRecord,
  subtract,
  unflatten,
  union,
} from './records.js';

/** The process as it stands still: the mappings that we carry, and what was written in them since the last round. */
interface LastLook {
  readonly mappings: readonly Range[];
  readonly written: readonly Range[];
  /** All that there is in them. */
  readonly present: readonly Range[];
}

/** What there was to send in one moment. */
interface Look {
  /** As `performance.now()`. */
  readonly at: number;
  readonly mappings: readonly Range[];
  readonly written: readonly Range[];
}

/** A process whose writes are tracked since a first look at all that it has. */
export interface Tracked {
  readonly pid: number;
  readonly tracker: number;
  readonly first: Look;
}

/** What the rounds work for, and how the process is slowed down for it. */
export interface CopyAim extends Aim {
  /** Gives the process so many percent of its time. @returns whether that was possible */
  readonly slowTo?: ((percent: number) => Promise<boolean>) | undefined;
  /** What is left in the freeze is not sent then: only which pages these are. */
  readonly later?: boolean | undefined;
}

/** With less in memory the kernel has smaps ready in a few milliseconds. */
const LARGE_BYTES = 256 << 20;
/** So much is sent between two looks at how much that was. */
const CHUNK_BYTES = 16 << 20;
/** The other end is told of so many chunks ahead that will come whole: room for them is made while others come. */
const CHUNKS_AHEAD = 4;
const HUGE_PAGE_BYTES = 2 << 20;
/** An upload in which nothing comes for longer is cut. */
const SIGN_OF_LIFE_MS = 1000;

/**
 * Copies the large private memory of one process while it runs, round after round: first all that is there, then what was written
 * since. When the process stands still, {@link lastLook} finds the rest.
 */
export class Copying {
  /** Further rounds would not make the rest smaller. Rejects when the copying has failed. */
  readonly ready: Promise<Forecast>;
  private onReady: (forecast: Forecast) => void = () => undefined;
  private onFailure: (reason: unknown) => void = () => undefined;
  private readonly looked: Promise<LastLook>;
  private onLook: (look: LastLook) => void = () => undefined;
  private bytes = 0;
  /** Bytes of pages that are not sent before the process runs at its destination; known when {@link feed} has ended. */
  later = 0;
  private round = { number: 0, total: 0, before: 0, began: 0, pace: 100 };
  /** Could not be read, for example because they were protected in that moment: still to be sent. */
  private missed: Range[] = [];
  private readonly pid: number;
  private tracker: number | undefined;
  private first: Look | undefined;
  private known: MappingFlags | undefined;
  /** Of all mappings of the process, known after {@link lastLook}, if at all. */
  mappingFlags: string | undefined;

  /** @param tracked whose end this brings, from now on */
  constructor(
    tracked: Tracked,
    private readonly aim: CopyAim,
  ) {
    ({ pid: this.pid, tracker: this.tracker, first: this.first } = tracked);
    this.ready = new Promise((resolve, reject) => {
      this.onReady = resolve;
      this.onFailure = reject;
    });
    this.ready.catch(() => undefined);
    this.looked = new Promise((resolve) => {
      this.onLook = resolve;
    });
  }

  /**
   * @throws {BpfError} as `trackWrites`: the process, or this kernel, does not allow it.
   */
  static async track(pid: number): Promise<Tracked> {
    const tracker = await trackWrites(pid);
    try {
      return { pid, tracker, first: await lookAt(pid, tracker) };
    } catch (error) {
      closeSync(tracker);
      throw error;
    }
  }

  /** How far the round that goes on is. */
  get progress(): CopyProgress {
    const { number, total, before, began, pace } = this.round;
    const bytes = this.bytes - before;
    const seconds = (performance.now() - began) / 1000;
    const rate = seconds > 0 ? Math.round(bytes / seconds) : 0;
    return { round: number, bytes, total, rate, ...(pace < 100 ? { pace } : {}) };
  }

  /** Bytes of pages that were given out so far. */
  get sent(): number {
    return this.bytes;
  }

  /**
   * Sends all that there is to send; it ends after {@link lastLook}.
   * @param moved told, before more is sent, how many bytes were. @throws {ExternalError} `MEMORY_UNREADABLE`
   */
  async feed(line: Line, moved: (bytes: number) => Promise<void>): Promise<void> {
    try {
      if (this.aim.limit !== undefined) line.setPace(this.aim.limit);
      const forecast = await this.rounds(line, moved, new Deference(line, { limit: this.aim.limit }));
      this.onReady(forecast);
      let look: LastLook | undefined;
      for (;;) {
        look = await this.within(SIGN_OF_LIFE_MS);
        if (look !== undefined) break;
        await line.write(signRecord('life'));
      }
      await line.write(bareRecords('area', look.mappings));
      const { present } = look;
      const rest = [...intersect(this.takeMissed(), present), ...look.written];
      const later = this.aim.later === true ? union(rest) : [];
      if (this.aim.later !== true) await this.pages(line, rest, false);
      if (this.missed.length > 0) throw unreadable(this.pid);
      this.later = bytesOf(later);
      const kept = bareRecords('keep', subtract(present, later));
      const last = [bareRecords('mapping', look.mappings), kept, bareRecords('later', later), signRecord('end')];
      await line.write(Buffer.concat(last));
    } catch (error) {
      this.onFailure(error);
      this.stopTracking();
      throw error;
    }
  }

  /**
   * The process stands still: what was written since the last round is still to be sent. The tracking goes on: to end it now would
   * take the kernel another walk through all pages.
   * @returns the mappings that are carried in this way.
   */
  async lastLook(): Promise<readonly Range[]> {
    this.requireTracker();
    const mappings = mappingsOf(this.pid);
    const [{ written, present }, flags] = await Promise.all([
      scanLast(this.pid, flatten(mappings)),
      this.known?.describe().catch(() => undefined),
    ]);
    this.mappingFlags = flags;
    this.onLook({ mappings, written: unflatten(written), present: unflatten(present) });
    return mappings;
  }

  /** The process stands still, and CRIU carries all of it after all: what was sent is forgotten. */
  leaveToCriu(): void {
    this.stopTracking();
    this.missed = [];
    this.onLook({ mappings: [], written: [], present: [] });
  }

  /** Gives up. Whoever reads the records has to stop as well. */
  stopTracking(): void {
    if (this.tracker !== undefined) closeSync(this.tracker);
    this.tracker = undefined;
    this.known?.close();
    this.known = undefined;
  }

  /** @param deference while it lasts, the process that is copied and all others go first */
  private async rounds(line: Line, moved: (bytes: number) => Promise<void>, deference: Deference): Promise<Forecast> {
    deference.begin();
    try {
      return await this.roundAfterRound(line, moved, deference);
    } finally {
      deference.end();
      ownSession.calm(this);
    }
  }

  private async roundAfterRound(
    line: Line,
    moved: (bytes: number) => Promise<void>,
    deference: Deference,
  ): Promise<Forecast> {
    const done: Round[] = [];
    let lookedAt: number | undefined;
    let pace = 100;
    for (let next = nextOf(done, this.aim); next !== 'end'; next = nextOf(done, this.aim)) {
      if (next === 'hurry') {
        deference.end();
        ownSession.hurry(this);
      } else if (next !== 'round') {
        if ((await this.aim.slowTo?.(next)) !== true) break;
        pace = next;
      }
      const look = this.first ?? (await lookAt(this.pid, this.requireTracker()));
      this.first = undefined;
      const sinceMs = lookedAt === undefined ? undefined : look.at - lookedAt;
      lookedAt = look.at;
      const { mappings } = look;
      const written = [...this.takeMissed(), ...look.written];
      const bytes = bytesOf(written);
      await line.write(bareRecords('area', mappings));
      if (done.length === 0 && bytes >= LARGE_BYTES) void this.learnFlags();
      const began = performance.now();
      this.round = { number: done.length + 1, total: bytes, before: this.bytes, began, pace };
      if (done.length > 0) await this.pages(line, written, false);
      else await this.freshPages(line, written, moved);
      done.push({ bytes, ms: performance.now() - began, sinceMs, pace, behind: deference.lasts });
    }
    return forecastOf(done, this.aim.budgetMs, this.aim.limit);
  }

  /** Of what was never sent the other end is told before, so that it can make room in large pieces, while other pages come. */
  private async freshPages(
    line: Line,
    ranges: readonly Range[],
    moved: (bytes: number) => Promise<void>,
  ): Promise<void> {
    const chunks = ranges.length === 0 ? [[]] : chunksOf(ranges);
    let told = 0;
    for (const [index, chunk] of chunks.entries()) {
      const dense: Range[] = [];
      for (; told < chunks.length && told <= index + CHUNKS_AHEAD; told++) {
        dense.push(...(chunks[told] ?? []).filter(({ start, end }) => end - start >= HUGE_PAGE_BYTES));
      }
      if (dense.length > 0) await line.write(bareRecords('dense', dense));
      await this.pages(line, chunk, true);
      await moved(this.bytes);
    }
  }

  /** While pages are sent; tracked mappings have a flag more than before. */
  private async learnFlags(): Promise<void> {
    const known = await MappingFlags.learn(this.pid).catch(() => undefined);
    if (this.tracker === undefined) known?.close();
    else this.known = known;
  }

  private async pages(line: Line, ranges: readonly Range[], fresh: boolean): Promise<void> {
    if (ranges.length === 0) return;
    const { bytes, missed } = await line.pages(this.pid, flatten(ranges), fresh);
    this.bytes += bytes;
    this.missed.push(...unflatten(missed));
  }

  private takeMissed(): Range[] {
    const missed = union(this.missed);
    this.missed = [];
    return missed;
  }

  private async within(ms: number): Promise<LastLook | undefined> {
    const over = new AbortController();
    const late = pause(ms, undefined, { signal: over.signal }).catch(() => undefined);
    try {
      return await Promise.race([this.looked, late]);
    } finally {
      over.abort();
    }
  }

  private requireTracker(): number {
    if (this.tracker === undefined) throw unreadable(this.pid);
    return this.tracker;
  }
}

async function lookAt(pid: number, tracker: number): Promise<Look> {
  const mappings = mappingsOf(pid);
  const at = performance.now();
  return { at, mappings, written: unflatten(await scanWritten(tracker, pid, flatten(mappings))) };
}

function mappingsOf(pid: number): Range[] {
  return ownMappings(readText(`/proc/${pid}/maps`) ?? '');
}

/** Parts of about {@link CHUNK_BYTES}, cut where huge pages begin. */
function chunksOf(ranges: readonly Range[]): Range[][] {
  const chunks: Range[][] = [];
  let room = 0;
  for (const { start, end } of ranges) {
    for (let at = start; at < end; ) {
      if (room < HUGE_PAGE_BYTES) {
        chunks.push([]);
        room = CHUNK_BYTES;
      }
      const next = upTo(at + room, end);
      chunks.at(-1)?.push({ start: at, end: next });
      room -= next - at;
      at = next;
    }
  }
  return chunks;
}

/** Where a huge page begins, if that is before the end. */
function upTo(at: number, end: number): number {
  return Math.min(at - (at % HUGE_PAGE_BYTES), end);
}

function unreadable(pid: number): ExternalError {
  return new ExternalError({
    code: 'MEMORY_UNREADABLE',
    message: `the memory of process ${pid} could not be read to its end`,
    command: 'process_vm_readv',
  });
}
