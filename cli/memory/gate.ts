import { closeSync, constants, openSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { run } from '../system/command.js';
import { flatten, type Range } from './records.js';

const GATE = 'gate';

/**
 * Where CRIU waits in a dump, with all tasks seized and nothing read of them yet, until it is told which mappings it need not
 * carry (`addon/src/criu-memory.c`). One at which nobody answers lets CRIU carry all, or fails the dump after 20 s.
 */
export class Gate {
  private writer: number | undefined;
  private passed = false;

  private constructor(private readonly path: string) {}

  static async create(folder: string): Promise<Gate> {
    const path = join(folder, GATE);
    await run('mkfifo', ['-m', '0600', path]);
    return new Gate(path);
  }

  /** One that a former daemon has made; undefined when there is none. */
  static adopt(folder: string): Gate | undefined {
    const path = join(folder, GATE);
    return statSync(path, { throwIfNoEntry: false })?.isFIFO() === true ? new Gate(path) : undefined;
  }

  /** Waits until CRIU stands there. @param over CRIU has come further, or ended. @returns whether it stands there */
  async reached(over: () => boolean): Promise<boolean> {
    while (this.writer === undefined) {
      this.writer = openForReader(this.path);
      if (this.writer !== undefined) break;
      if (this.passed || over()) return false;
      await pause(1); // a FIFO tells nobody of its first reader
    }
    return true;
  }

  /** Lets CRIU go on. @param mappings what it is not to carry, ascending */
  pass(mappings: readonly Range[]): void {
    this.passed = true;
    this.writer ??= openForReader(this.path);
    if (this.writer === undefined) return;
    // at most 24 KiB: a FIFO takes them at once
    writeSync(this.writer, new Uint8Array(BigUint64Array.of(BigInt(mappings.length), ...flatten(mappings)).buffer));
    closeSync(this.writer);
    this.writer = undefined;
  }
}

/** A FIFO opened for writing, once somebody reads it; undefined before, and when it is gone (fifo(7)). */
export function openForReader(path: string): number | undefined {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENXIO' || code === 'ENOENT') return undefined;
    throw error;
  }
}
