import { closeSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { readMemory, scanLast, scanWritten, trackWrites } from '../../addon/lib/index.js';
import { ExternalError } from '../errors.js';
import { readText } from '../system/procfs.js';
import { type Forecast, forecastOf, oneMore, type Round } from './forecast.js';
import { ownMappings } from './mappings.js';
import {
  bareRecords,
  bytesOf,
  flatten,
  intersect,
  PAGE_BYTES,
  pageRecords,
  type Range,
  signRecord,
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

const CHUNK_BYTES = 1 << 20;
/** The other end is told ahead of so much that will come whole. */
const DENSE_BYTES = 64 << 20;
const HUGE_PAGE_BYTES = 2 << 20;
const MAX_ROUNDS = 12;
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
  /** Could not be read, for example because they were protected in that moment: still to be sent. */
  private missed: Range[] = [];
  private tracker: number | undefined;

  private constructor(
    private readonly pid: number,
    private readonly budgetMs: number,
    tracker: number,
  ) {
    this.tracker = tracker;
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
   * @param budgetMs what the freeze should not take longer than.
   * @throws {BpfError} as `trackWrites`: the process, or this kernel, does not allow it.
   */
  static async begin(pid: number, budgetMs: number): Promise<Copying> {
    return new Copying(pid, budgetMs, await trackWrites(pid));
  }

  /** Bytes of pages that were given out so far. */
  get sent(): number {
    return this.bytes;
  }

  /** All that has to be sent; it ends after {@link lastLook}. @throws {ExternalError} `MEMORY_UNREADABLE` */
  async *records(): AsyncGenerator<Buffer> {
    try {
      this.onReady(yield* this.rounds());
      let look: LastLook | undefined;
      for (;;) {
        look = await this.within(SIGN_OF_LIFE_MS);
        if (look !== undefined) break;
        yield signRecord('life');
      }
      yield bareRecords('area', look.mappings);
      const { present } = look;
      const again = intersect(this.takeMissed(), present);
      yield* this.pages([...again, ...look.written], false);
      if (this.missed.length > 0) throw unreadable(this.pid);
      yield Buffer.concat([bareRecords('mapping', look.mappings), bareRecords('keep', present), signRecord('end')]);
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
    const mappings = this.mappings();
    const { written, present } = await scanLast(this.pid, flatten(mappings));
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
  }

  private async *rounds(): AsyncGenerator<Buffer, Forecast> {
    const done: Round[] = [];
    let lookedAt: number | undefined;
    do {
      const mappings = this.mappings();
      const now = performance.now();
      const sinceMs = lookedAt === undefined ? undefined : now - lookedAt;
      lookedAt = now;
      const found = unflatten(await scanWritten(this.requireTracker(), this.pid, flatten(mappings)));
      const written = [...this.takeMissed(), ...found];
      const bytes = bytesOf(written);
      yield bareRecords('area', mappings);
      const began = performance.now();
      yield* this.pages(written, done.length === 0);
      done.push({ bytes, ms: performance.now() - began, sinceMs });
    } while (done.length < MAX_ROUNDS && oneMore(done, this.budgetMs));
    return forecastOf(done, this.budgetMs);
  }

  private async *pages(ranges: readonly Range[], fresh: boolean): AsyncGenerator<Buffer> {
    let records: Buffer[] = [];
    let pending = 0;
    for (const range of ranges) {
      let told = fresh ? range.start : range.end;
      for (let start = range.start; start < range.end; ) {
        if (start >= told) {
          const ahead = start + DENSE_BYTES;
          told = Math.min(ahead - (ahead % HUGE_PAGE_BYTES), range.end);
          records.push(bareRecords('dense', [{ start, end: told }]));
        }
        const wanted = Math.min(CHUNK_BYTES, range.end - start);
        const chunk = Buffer.allocUnsafe(wanted);
        const length = readMemory(this.pid, BigInt(start), chunk);
        const whole = length - (length % PAGE_BYTES);
        if (whole < wanted) this.missed.push({ start: start + whole, end: range.end });
        records.push(...pageRecords(start, chunk.subarray(0, whole), fresh));
        pending += whole;
        this.bytes += whole;
        if (pending >= CHUNK_BYTES) {
          yield* joined(records);
          records = [];
          pending = 0;
        }
        if (whole < wanted) break;
        start += wanted;
      }
    }
    yield* joined(records);
  }

  private mappings(): Range[] {
    return ownMappings(readText(`/proc/${this.pid}/maps`) ?? '');
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

function* joined(records: readonly Buffer[]): Generator<Buffer> {
  if (records.length > 16) yield Buffer.concat(records);
  else yield* records;
}

function unreadable(pid: number): ExternalError {
  return new ExternalError({
    code: 'MEMORY_UNREADABLE',
    message: `the memory of process ${pid} could not be read to its end`,
    command: 'process_vm_readv',
  });
}
