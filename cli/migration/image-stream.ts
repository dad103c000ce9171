/*
 * Images on the wire, from source to destination: one record per file, then an empty name as the end mark, so that a
 * cut connection can never look like a complete set.
 *
 *   0         2                 10            10+n                10+n+size
 *   +---------+-----------------+-------------+-------------------+--
 *   | n (u16) | size (u64)      | name (n)    | content (size)    | next record ...
 *   +---------+-----------------+-------------+-------------------+--
 *                                               end: n = 0, size = number of files
 * Integers are big endian. Names are plain file names of [A-Za-z0-9._-]: no path can leave the folder.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { INVENTORY } from '../checkpoint/criu-session.js';
import { listImages } from '../checkpoint/image-folder.js';
import { BugError, UserError } from '../errors.js';

const HEADER_BYTES = 10;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const MAX_FILES = 65_536;
const MAX_INVENTORY_BYTES = 4096;
const CHUNK_BYTES = 1 << 20;

/**
 * Reads a folder as the stream above, in chunks of about 1 MiB. The folder is on a tmpfs, or was written a moment ago: a
 * synchronous read is a copy within memory, where a hundred small files through the thread pool cost a millisecond each.
 */
export async function* encodeImages(folder: string): AsyncGenerator<Buffer> {
  const files = listImages(folder);
  let small: Buffer[] = [];
  let pending = 0;
  for (const { name, size } of files) {
    small.push(header(name, size));
    for (const chunk of fileChunks(join(folder, name), size)) {
      small.push(chunk);
      pending += chunk.length;
      if (pending < CHUNK_BYTES) continue;
      yield Buffer.concat(small);
      small = [];
      pending = 0;
    }
  }
  small.push(header('', files.length));
  yield Buffer.concat(small);
}

function* fileChunks(path: string, size: number): Generator<Buffer> {
  const fd = openSync(path, 'r');
  try {
    for (let offset = 0; offset < size; ) {
      const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, size - offset));
      const length = readSync(fd, chunk, 0, chunk.length, offset);
      if (length === 0) throw new BugError(`${path} shrank while it was sent`);
      yield chunk.subarray(0, length);
      offset += length;
    }
  } finally {
    closeSync(fd);
  }
}

function header(name: string, size: number): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + Buffer.byteLength(name));
  bytes.writeUInt16BE(Buffer.byteLength(name), 0);
  bytes.writeBigUInt64BE(BigInt(size), 2);
  bytes.write(name, HEADER_BYTES);
  return bytes;
}

/**
 * Writes a stream of images into a folder.
 * @returns the inventory, which is not written: CRIU waits for it as the sign that all the others are there.
 * @throws {UserError} `IMAGES_MALFORMED` for a stream that breaks the format, is cut or exceeds `maxBytes`; `DISK_FULL`.
 */
export async function decodeImages(source: AsyncIterable<Buffer>, folder: string, maxBytes: number): Promise<Buffer> {
  let inventory: Buffer | undefined;
  const reader = new ByteReader(source);
  let total = 0;
  for (let count = 0; ; count++) {
    const head = await reader.exactly(HEADER_BYTES);
    const nameBytes = head.readUInt16BE(0);
    const size = Number(head.readBigUInt64BE(2));
    if (nameBytes === 0) {
      if (size !== count) throw malformed(`${size} files announced, ${count} received`);
      if (inventory === undefined) throw malformed('it has no inventory');
      return inventory;
    }
    if (count >= MAX_FILES || nameBytes > 128) throw malformed('too many files or too long a name');
    const name = (await reader.exactly(nameBytes)).toString('latin1');
    if (!NAME.test(name)) throw malformed('a file name that is not plain');
    total += size;
    if (total > maxBytes) throw malformed(`more than ${maxBytes} bytes`);
    if (name !== INVENTORY) await receiveFile(reader, join(folder, name), size);
    else if (inventory !== undefined) throw malformed('it has two inventories');
    else if (size <= MAX_INVENTORY_BYTES) inventory = await reader.exactly(size);
    else throw malformed('its inventory is too large');
  }
}

async function receiveFile(reader: ByteReader, path: string, size: number): Promise<void> {
  const fd = openSync(path, 'wx', 0o600);
  try {
    for (let left = size; left > 0; ) {
      const chunk = await reader.upTo(left);
      writeAll(fd, chunk);
      left -= chunk.length;
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error;
    throw new UserError({
      code: 'DISK_FULL',
      message: `there is no room for the checkpoint's images in ${dirname(path)}`,
      remedy: 'free memory or disk there, or point paths.run at a larger file system',
      exitStatus: 7,
    });
  } finally {
    closeSync(fd);
  }
}

function writeAll(fd: number, chunk: Buffer): void {
  for (let offset = 0; offset < chunk.length; ) offset += writeSync(fd, chunk, offset);
}

function malformed(what: string): UserError {
  return new UserError({
    code: 'IMAGES_MALFORMED',
    message: `the images that arrived are not a whole checkpoint: ${what}`,
    remedy: "look at the source node's log; versions of homeproxy that differ can cause this",
    exitStatus: 4,
  });
}

/** Takes exact or bounded numbers of bytes from a chunked stream. */
class ByteReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.chunks = source[Symbol.asyncIterator]();
  }

  async upTo(count: number): Promise<Buffer> {
    while (this.rest.length === 0) {
      const { value, done } = await this.chunks.next();
      if (done === true) throw malformed('it ends early');
      this.rest = value;
    }
    const taken = this.rest.subarray(0, count);
    this.rest = this.rest.subarray(taken.length);
    return taken;
  }

  async exactly(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = count; left > 0; ) {
      const part = await this.upTo(left);
      parts.push(part);
      left -= part.length;
    }
    return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
  }
}
