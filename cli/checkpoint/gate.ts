import { closeSync, constants, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { makeFifo } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import type { CriuSession } from './criu-session.js';

const GATE = 'gate';
/** What CRIU need not read in smaps (`addon/src/criu-smaps.c`). */
const FLAGS = 'mapping-flags';

/**
 * Where CRIU waits in a dump, with all tasks seized and nothing of its own in them yet, until it is told which mappings it need not
 * carry (`addon/src/criu-memory.c`). It says in the file of the hooks that it is there.
 *
 * The FIFO is open for writing as long as somebody may answer. When the last writer has gone, because the gate was closed or the
 * daemon was killed, a CRIU that stands there or comes there fails the dump and lets the process go: nobody need kill it.
 */
export class Gate {
  private constructor(
    private readonly folder: string,
    private fd: number | undefined,
  ) {}

  /** Before CRIU is started. */
  static create(folder: string): Gate {
    const path = join(folder, GATE);
    makeFifo(path);
    return new Gate(folder, openSync(path, constants.O_RDWR | constants.O_NONBLOCK)); // with a reader it never waits (fifo(7))
  }

  /**
   * Waits until a dump stands there.
   * @throws {ExternalError} `CRIU_FAILED` when it ends before. {UserError} `NO_GATE` when it went on without asking.
   */
  async reachedBy(session: CriuSession): Promise<void> {
    await Promise.race([session.reached('gate'), session.reached('post-dump')]);
    if (session.passed('gate')) return;
    throw new UserError({
      code: 'NO_GATE',
      message: 'CRIU did not load what stops it between seizing the process and dumping it',
      remedy: 'use a CRIU that is dynamically linked against the C library of this system',
    });
  }

  /**
   * Lets the CRIU that stands there go on.
   * @param mappings what it is not to carry, ascending: start, end, start, end ... @param flags of all mappings, where they are known
   */
  pass(mappings: BigUint64Array, flags?: string): void {
    if (this.fd === undefined) return;
    if (flags !== undefined) writeFileSync(join(this.folder, FLAGS), flags, { mode: 0o600 });
    // at most 24 KiB: a FIFO takes them at once
    writeSync(this.fd, new Uint8Array(BigUint64Array.of(BigInt(mappings.length / 2), ...mappings).buffer));
    this.close();
  }

  /** Nobody will answer here. */
  close(): void {
    if (this.fd !== undefined) closeSync(this.fd);
    this.fd = undefined;
  }
}
