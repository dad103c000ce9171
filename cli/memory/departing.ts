import type { CriuSession } from '../checkpoint/criu-session.js';
import { readText, readTree } from '../system/procfs.js';
import { Copying } from './copying.js';
import { Gate } from './gate.js';
import { pointToParent } from './page-map.js';
import type { Range } from './records.js';

/** A process with less is CRIU's: it is copied in the freeze in less time than the preparations are worth. */
export const MIN_MEMORY_BYTES = 64 << 20;

/** Sends records of memory to where the process goes; fulfilled when all of them have been taken there. */
export type SendMemory = (records: AsyncIterable<Buffer>, signal: AbortSignal) => Promise<void>;

/**
 * The large memory of a process that leaves: copied while it runs, and kept out of its dump. Whatever speaks against it at any moment
 * up to the gate, CRIU carries all, as it does for a small process.
 */
export class DepartingMemory {
  private copying: Copying | undefined;
  private delivered: Promise<void> | undefined;
  private mappings: readonly Range[] = [];
  private readonly cut = new AbortController();

  private constructor(private readonly gate: Gate) {}

  /** Before CRIU's dump is started. @returns undefined for a process whose memory is CRIU's. */
  static async prepare(
    folder: string,
    pids: readonly number[],
    residentBytes: number,
  ): Promise<DepartingMemory | undefined> {
    // a child may share pages with its parent, which CRIU finds out while it restores them
    if (pids.length !== 1 || residentBytes < MIN_MEMORY_BYTES || usesShadowStack(pids[0] ?? 0)) return undefined;
    return new DepartingMemory(await Gate.create(folder));
  }

  /** Copies while the process runs, until what is left is small. @returns the bytes that were sent; undefined when it cannot be done */
  async sendAhead(pid: number, send: SendMemory): Promise<number | undefined> {
    try {
      const copying = await Copying.begin(pid);
      const delivered = send(copying.records(), this.cut.signal);
      delivered.catch(() => copying.stopTracking());
      await Promise.race([copying.ready, delivered]);
      this.copying = copying;
      this.delivered = delivered;
      return copying.sent;
    } catch {
      this.cut.signal.throwIfAborted();
      return undefined;
    }
  }

  /**
   * While CRIU begins to dump: waits until it has seized all tasks, and tells it what is not its own.
   * @param root of the tree, which may have got children meanwhile.
   * @param atGate CRIU stands there; it waits until this has ended.
   * @throws {ExternalError} `CRIU_FAILED` when CRIU ends before it comes there.
   */
  async passGate(session: CriuSession, root: number, atGate: () => Promise<void>): Promise<void> {
    try {
      await Promise.race([session.reached('gate'), session.reached('post-dump')]);
      if (session.passed('gate')) {
        await atGate();
        if (this.copying !== undefined && readTree(root).length === 1) this.mappings = await this.copying.lastLook();
        else this.copying?.leaveToCriu();
        this.gate.pass(this.mappings);
      } else this.copying?.leaveToCriu();
    } finally {
      this.gate.close(); // CRIU fails where it stands, if nothing was said to it
    }
  }

  /** CRIU's images are whole: they get to know where the rest is. */
  finishDump(folder: string): void {
    pointToParent(folder, this.mappings);
  }

  /** Ends when the destination has all of it. @returns bytes that were sent since {@link sendAhead} */
  async sent(before: number): Promise<number> {
    await this.delivered;
    return Math.max((this.copying?.sent ?? 0) - before, 0);
  }

  /** Nothing of this is wanted any more; a CRIU that stands at the gate, or comes to it, fails there and lets the process go. */
  giveUp(reason: Error): void {
    this.cut.abort(reason);
    this.copying?.stopTracking();
    this.gate.close();
  }
}

/** A shadow stack is private and anonymous, and cannot be moved like other memory. */
function usesShadowStack(pid: number): boolean {
  return /^x86_Thread_features:.*shstk/m.test(readText(`/proc/${pid}/status`) ?? '');
}
