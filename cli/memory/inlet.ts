import { closeSync, constants, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Line, makeFifo, setPipeSize } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import { openForReader } from '../system/fifo.js';

const INLET = 'memory';
const PIPE_BYTES = 1 << 20;
/** When so much has come, somebody is told. */
const FIRST_BYTES = 16 << 20;

/** A CRIU that has not come to the FIFO by then does not use it, for example because it is a static program. */
const START_MS = 15_000;
/** In a freeze; by then it had all the time of the preparation. */
const STARTED_MS = 2000;

/** The FIFO through which a process's memory goes into the CRIU that will restore it (`addon/src/criu-memory.c`). */
export class Inlet {
  private constructor(private readonly path: string) {}

  static create(folder: string): Inlet {
    const path = join(folder, INLET);
    makeFifo(path);
    return new Inlet(path);
  }

  static adopt(folder: string): Inlet | undefined {
    const path = join(folder, INLET);
    return statSync(path, { throwIfNoEntry: false })?.isFIFO() === true ? new Inlet(path) : undefined;
  }

  /**
   * Waits until CRIU stands there. @param over CRIU has ended.
   * @returns the FIFO, open for writing. @throws {UserError} `MEMORY_REFUSED` when CRIU does not come.
   */
  async open(over: () => boolean, limitMs = START_MS): Promise<number> {
    for (const deadline = performance.now() + limitMs; ; await pause(1)) {
      const fd = openForReader(this.path);
      if (fd !== undefined) return fd;
      if (over() || performance.now() > deadline) throw refused();
    }
  }

  /**
   * Hands over the records as they come, no faster than CRIU's side takes them. It checks them, and CRIU fails when they are not whole.
   * @param first from {@link open}; it is closed. @param moved told, once, that the first so many bytes have come
   * @throws {UserError} `MEMORY_REFUSED` when CRIU does not take them.
   */
  async take(line: Line, first: number, moved: (bytes: number) => Promise<void>): Promise<void> {
    const pipe = await open(this.path, constants.O_WRONLY); // its reader is there: it does not wait; its writes do
    closeSync(first);
    try {
      setPipeSize(pipe.fd, PIPE_BYTES);
    } catch {
      // it stays as it is: slower, nothing else
    }
    try {
      const { bytes, ended } = await line.relay(pipe.fd, FIRST_BYTES);
      await moved(bytes);
      if (!ended) await line.relay(pipe.fd);
    } catch (error) {
      const { code, syscall } = error as NodeJS.ErrnoException;
      if (code === 'EPIPE' && syscall === 'write') throw refused();
      throw error;
    } finally {
      await pipe.close();
    }
  }

  /** No memory comes in this way: lets CRIU get on, if it asks for some. */
  async none(over: () => boolean): Promise<void> {
    const fd = await this.open(over, STARTED_MS).catch(() => undefined);
    if (fd !== undefined) closeSync(fd);
  }
}

function refused(): UserError {
  return new UserError({
    code: 'MEMORY_REFUSED',
    message: "CRIU at the destination ended while it was given the process's memory",
    remedy: "free memory there, or look at the destination's log",
    exitStatus: 6,
  });
}
