import { spawn } from 'node:child_process';
import { closeSync, existsSync, fstatSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { BugError } from '../errors.js';
import type { LabFiles } from './state.js';

/** The lock of one lab. It is gone with the process that holds it, however that ends. */
export class LabLock {
  private constructor(
    private readonly files: LabFiles,
    private readonly descriptor: number,
    private readonly exclusive: boolean,
  ) {}

  /** Waits until no other command changes the lab, and keeps all others out. */
  static async exclusive(files: LabFiles, signal?: AbortSignal): Promise<LabLock> {
    for (;;) {
      mkdirSync(dirname(files.lock), { recursive: true, mode: 0o700 });
      const lock = await LabLock.#take(files, true, signal);
      if (lock !== undefined) return lock;
    }
  }

  /** Waits until no other command changes the lab; undefined when there is no such lab. */
  static async shared(files: LabFiles, signal?: AbortSignal): Promise<LabLock | undefined> {
    while (existsSync(files.lock)) {
      const lock = await LabLock.#take(files, false, signal);
      if (lock !== undefined) return lock;
    }
    return undefined;
  }

  static async #take(files: LabFiles, exclusive: boolean, signal?: AbortSignal): Promise<LabLock | undefined> {
    let descriptor: number;
    try {
      descriptor = openSync(files.lock, exclusive ? 'a' : 'r', 0o600);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // `down` was faster: try again
      throw error;
    }
    const lock = new LabLock(files, descriptor, exclusive);
    try {
      await flock(descriptor, [exclusive ? '--exclusive' : '--shared'], signal);
    } catch (error) {
      await lock.#giveUp();
      throw error;
    }
    if (lock.#current()) return lock;
    closeSync(descriptor);
    return undefined;
  }

  /** Whether the file that we hold is still the one that others would open. */
  #current(): boolean {
    const named = statSync(this.files.lock, { throwIfNoEntry: false });
    return named !== undefined && named.ino === fstatSync(this.descriptor).ino;
  }

  /** The file may be ours alone: then it must not stay. */
  async #giveUp(): Promise<void> {
    try {
      await flock(this.descriptor, ['--exclusive', '--nonblock']);
    } catch {
      closeSync(this.descriptor); // somebody else holds it, and takes care of it
      return;
    }
    if (this.#current()) this.release();
    else closeSync(this.descriptor);
  }

  release(): void {
    if (this.exclusive && !existsSync(this.files.folder)) this.files.removeLock();
    closeSync(this.descriptor);
  }
}

/** flock(2) belongs to the open file, which the program shares with us: the lock stays when the program has ended. */
async function flock(descriptor: number, how: readonly string[], signal?: AbortSignal): Promise<void> {
  const child = spawn('flock', [...how, '3'], {
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
    ...(signal === undefined ? {} : { signal }),
  });
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status) => {
      if (status === 0) resolve();
      else if (signal?.aborted === true) reject(signal.reason);
      else reject(new BugError(`flock ended with ${status ?? child.signalCode}`));
    });
  });
}
