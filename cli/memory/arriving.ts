import type { Line } from '../../addon/lib/index.js';
import type { CriuSession } from '../checkpoint/criu-session.js';
import { BugError } from '../errors.js';
import { readTree } from '../system/procfs.js';
import { Deference } from './deference.js';
import { isLarge } from './departing.js';
import { Inlet } from './inlet.js';
import { makeParent } from './page-map.js';
import { startPager } from './pager.js';

/** The large memory of a process that comes: it goes straight into the CRIU that will restore it. */
export class ArrivingMemory {
  private offered = false;
  private taken: Promise<void> | undefined;
  /** CRIU did not come for it in time: it does not know of this. */
  private unasked = false;

  private deference: Deference | undefined;

  /** @param bytes that come, about, before those that are written meanwhile do. */
  private constructor(
    private readonly inlet: Inlet,
    private readonly bytes: number,
  ) {}

  /**
   * Before CRIU's restore is started. @param later some of it comes when the process runs
   * @returns undefined when no memory will come in this way.
   */
  static async prepare(
    folder: string,
    description: Parameters<typeof isLarge>[0],
    later = false,
  ): Promise<ArrivingMemory | undefined> {
    if (!isLarge(description)) return undefined;
    if (later) await startPager(folder);
    return new ArrivingMemory(await Inlet.create(folder), description.anonymousBytes ?? description.residentBytes);
  }

  /** Takes the records as they come. @param moved told once how much has. @throws {UserError} `MEMORY_REFUSED` */
  async take(line: Line, session: CriuSession, moved: (bytes: number) => Promise<void>): Promise<void> {
    if (this.offered) throw new BugError('the memory has come already');
    this.offered = true;
    const pipe = await this.inlet.open(endOf(session)).catch((error: unknown) => {
      this.unasked = true; // the source lets its CRIU carry all then
      throw error;
    });
    this.deference = this.deferenceOf(line, session);
    this.deference.begin();
    this.taken = this.inlet.take(line, pipe, moved).finally(() => this.hurry());
    await this.taken;
  }

  /** The process stands still: from now on nobody here goes first. May be repeated. */
  hurry(): void {
    this.deference?.end();
  }

  /** What is written while the first of it comes decides how long the process stands still: it is taken as fast as it can be. */
  private deferenceOf(line: Line, { run }: CriuSession): Deference {
    const pids = run.process === undefined ? [] : readTree(run.process.pid);
    return new Deference(line, { pids, enough: this.bytes });
  }

  /** All images are in the folder: CRIU shall have what belongs to them before it reads the first. */
  async complete(folder: string, session: CriuSession): Promise<void> {
    if (this.unasked) return;
    if (this.taken === undefined) return await this.inlet.none(endOf(session));
    await this.taken;
    makeParent(folder);
  }
}

function endOf(session: CriuSession): () => boolean {
  let over = false;
  session.exited.then(() => {
    over = true;
  });
  return () => over;
}
