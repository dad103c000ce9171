import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const WRITERS = 4;
/** Past every cache, and not done until the disk says so; over the same mebibyte again and again, for a minute at most. */
const WRITE = 'while :; do dd if=/dev/zero of="$1" bs=4k count=256 oflag=direct,dsync conv=notrunc 2>&1 || exit; done';
const SECONDS = '60';

/** Processes that do nothing but wait for the disk. */
export class IoHog {
  private constructor(
    private readonly folder: string,
    private readonly writers: readonly ChildProcess[],
  ) {}

  static start(): IoHog {
    const folder = mkdtempSync('/var/tmp/hp-io-'); // of a disk: nobody waits for a tmpfs
    const writers = Array.from({ length: WRITERS }, (_, index) =>
      spawn('timeout', [SECONDS, 'sh', '-c', WRITE, 'sh', join(folder, String(index))], { stdio: 'ignore' }),
    );
    return new IoHog(folder, writers);
  }

  async end(): Promise<void> {
    const ended = this.writers.map((writer) => once(writer, 'exit'));
    for (const writer of this.writers) writer.kill('SIGTERM'); // timeout(1) passes it on to all that it has started
    await Promise.all(ended);
    rmSync(this.folder, { recursive: true });
  }
}
