import { createHash } from 'node:crypto';
import { type BigIntStats, type Stats, statSync } from 'node:fs';
import { open } from 'node:fs/promises';

const CHUNK_BYTES = 1 << 20;
const MAX_KNOWN = 8192;
/** A file that changed this lately may change again within the same tick of the file system's clock. */
const SETTLED_MS = 2000;

/**
 * SHA-256 of files, each read once: the answer is kept for as long as the file is the same by device, inode, size, mtime and
 * ctime (which nobody can set back).
 */
export class FileHashes {
  readonly #known = new Map<string, Promise<string>>();

  /** How many files were read, for tests. */
  reads = 0;

  /** @returns hexadecimal. @throws {NodeJS.ErrnoException} when it cannot be opened or read */
  async sha256(path: string): Promise<string> {
    const before = this.#known.get(keyOf(statSync(path, { bigint: true })));
    if (before !== undefined) return await before;
    const file = await open(path, 'r');
    try {
      const stats = await file.stat({ bigint: true });
      const key = keyOf(stats);
      const known = this.#known.get(key);
      if (known !== undefined) return await known;
      const hash = this.#read(file);
      if (Date.now() - Number(stats.ctimeMs) > SETTLED_MS) this.#keep(key, hash);
      return await hash;
    } finally {
      await file.close();
    }
  }

  async #read(file: Awaited<ReturnType<typeof open>>): Promise<string> {
    this.reads++;
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
    for (let position = 0; ; ) {
      const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES, position);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(buffer.subarray(0, bytesRead));
      position += bytesRead;
    }
  }

  #keep(key: string, hash: Promise<string>): void {
    const oldest = this.#known.keys().next().value;
    if (this.#known.size >= MAX_KNOWN && oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(key, hash);
    hash.catch(() => this.#known.delete(key));
  }
}

/** Those of this daemon: the nodes of a pair ask for the same files before each move. */
export const fileHashes = new FileHashes();

/** Names one state of a file: another content has another key, unless it changed within a tick of the clock. */
export function keyOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
}

/** Bytes on the disk, as CRIU counts them against its --ghost-limit. */
export function storedBytes({ blocks }: Stats): number {
  return blocks * 512;
}
