/*
 * Images on the wire, from source to destination: one record per file, then an empty name as the end mark, so that a
 * cut connection can never look like a complete set.
 *
 *   0         2                  10            10+n                10+n+size
 *   +---------+-+-+--------------+-------------+-------------------+--
 *   | n (u16) |M|K|size (62 bit) | name (n)    | content (size)    | next record ...
 *   +---------+-+-+--------------+-------------+-------------------+--
 *              M: more of this file follows      end: n = 0, M = K = 0, size = number of files
 *              K: known; instead of the content
 *                                              | offset (u64) |: `size` bytes from there of the pages that were sent ahead
 *
 * A file whose size nobody knows yet, because CRIU still writes it, comes in several records of the same name. Integers are
 * big endian. Names are plain file names of [A-Za-z0-9._-]: no path can leave the folder. The images of connections come one by one, or, to
 * whom has said that it takes them so, as `tcp-streams.img`: the file in which they are (checkpoint/stream-file.ts).
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { INVENTORY } from '../checkpoint/criu-session.js';
import { clearWay, listImages, writeAhead } from '../checkpoint/image-folder.js';
import { PAGES } from '../checkpoint/page-pipe.js';
import { PAGE_BYTES } from '../checkpoint/private-memory.js';
import { nameOfStream, STREAMS, streamRecords } from '../checkpoint/stream-file.js';
import { BugError, UserError } from '../errors.js';
import { ArrivingFile, type ArrivingImage, ArrivingStreams, ByteReader, malformed } from './arriving-images.js';
import { type Ahead, difference } from './difference.js';

const HEADER_BYTES = 10;
const MORE = 1n << 63n;
const KNOWN = 1n << 62n;
const OFFSET_BYTES = 8;
/** Of {@link STREAMS} on its way. */
const TOGETHER = 'tcp-streams.img';
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const MAX_FILES = 65_536;
const MAX_INVENTORY_BYTES = 4096;
const CHUNK_BYTES = 1 << 20;
/** An upload in which nothing comes for longer is cut: while CRIU dumps children, nothing of the root is left to send. */
const SIGN_OF_LIFE_MS = 2000;
/** New pages are sent when there are so many: they are not kept back for long, nor in crumbs. */
const PAGES_BYTES = 128 << 10;

/** Memory that is sent while CRIU dumps it, ahead of the other images. */
export interface Underway {
  readonly pages: AsyncIterable<Buffer>;
  /** What the destination was sent of them before. */
  readonly ahead: Ahead;
  /** The first page of each mapping with code, as the process has it now: see {@link CRIU_CODE}. Default: nobody knows. */
  readonly code?: () => Promise<readonly Buffer[]>;
  /** Fulfilled when all other images are in the folder; its failure is that of the stream. */
  readonly dumped: Promise<void>;
}

/**
 * Reads a folder as the stream above, in chunks of at most about 1 MiB. The folder is on a tmpfs, or was written a moment ago: a
 * synchronous read is a copy within memory, where a hundred small files through the thread pool cost a millisecond each.
 * @param together whether the images of connections are sent in one
 */
export async function* encodeImages(folder: string, underway?: Underway, together = false): AsyncGenerator<Buffer> {
  if (underway !== undefined) {
    yield* encodePages(underway);
    while (!(await within(underway.dumped, SIGN_OF_LIFE_MS))) yield header(PAGES, 0, MORE);
  }
  let small: Buffer[] = [];
  let pending = 0;
  for (const piece of records(folder, underway === undefined ? [] : [header(PAGES, 0)], together)) {
    small.push(piece);
    pending += piece.length;
    if (pending < CHUNK_BYTES) continue;
    yield Buffer.concat(small);
    small = [];
    pending = 0;
  }
  yield Buffer.concat(small);
}

/** The records of all files in a folder, and of the images in that of the connections, after those that end a file; then the end mark. */
function* records(folder: string, before: readonly Buffer[], together: boolean): Generator<Buffer> {
  yield* before;
  let count = before.length;
  for (const { name, size } of listImages(folder)) {
    if (name === STREAMS && !together) continue;
    yield header(name === STREAMS ? TOGETHER : name, size);
    yield* fileChunks(join(folder, name), size);
    count++;
  }
  for (const { inode, content, more } of together ? [] : streamRecords(folder)) {
    yield header(nameOfStream(inode), content.length, more ? MORE : 0n);
    yield content;
    if (!more) count++;
  }
  yield header('', count);
}

/**
 * What CRIU puts for a moment at the begin of a page of code, to run a system call in the process (`code_syscall`,
 * compel/arch/<arch>/src/lib/infect.c). The pipe holds the process's very pages, not copies: one that is read in that moment has it.
 */
const CRIU_CODE: Partial<Record<string, Buffer>> = {
  x64: Buffer.from('0f05cccccccccccc', 'hex'), // syscall; int3 ...
  arm64: Buffer.from('010000d4000020d4', 'hex'), // svc #0; brk #0
};

/** CRIU's code is there for a millisecond, or as long as it waits for a processor. */
const CAUGHT_MS = 500;

/**
 * Gives pages back what CRIU's code hides, as soon as the process has it again.
 * @throws {UserError} `CAUGHT_CODE` when it does not in half a second, or when two pages differ in nothing else
 */
async function uncover(pages: Buffer, own: NonNullable<Underway['code']>): Promise<void> {
  const code = CRIU_CODE[process.arch];
  if (code === undefined) return;
  for (let at = 0; at + code.length <= pages.length; at += PAGE_BYTES) {
    if (pages.compare(code, 0, code.length, at, at + code.length) !== 0) continue;
    (await hiddenBy(code, pages.subarray(at, at + PAGE_BYTES), own)).copy(pages, at);
  }
}

async function hiddenBy(code: Buffer, page: Buffer, own: NonNullable<Underway['code']>): Promise<Buffer> {
  const rest = page.subarray(code.length);
  for (const deadline = performance.now() + CAUGHT_MS; performance.now() < deadline; await pause(1)) {
    const alike = (await own()).filter((candidate) => candidate.subarray(code.length).equals(rest));
    const [hidden, ...others] = alike.map((candidate) => candidate.subarray(0, code.length));
    if (hidden === undefined || !others.every((other) => other.equals(hidden))) break; // none, or nobody knows which
    if (!hidden.equals(code)) return hidden;
  }
  throw new UserError({
    code: 'CAUGHT_CODE',
    message: 'a page was read in the very moment in which CRIU ran code of its own there',
    remedy: 'try again',
    exitStatus: 6,
  });
}

/** Whether a promise is fulfilled in that time. Its failure is ours. */
async function within(promise: Promise<void>, limitMs: number): Promise<boolean> {
  const over = new AbortController();
  const late = pause(limitMs, false, { signal: over.signal }).catch(() => false);
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    over.abort();
  }
}

async function* encodePages({ pages, ahead, code = async () => [] }: Underway): AsyncGenerator<Buffer> {
  let records: Buffer[] = [];
  let pending = 0;
  for await (const stretch of difference(pages, ahead)) {
    if (stretch.kind === 'new') await uncover(stretch.content, code);
    const record =
      stretch.kind === 'new'
        ? [header(PAGES, stretch.content.length, MORE), stretch.content]
        : [header(PAGES, stretch.bytes, MORE | KNOWN), offsetBytes(stretch.offset)];
    records.push(...record);
    pending += stretch.kind === 'new' ? stretch.content.length : 0;
    if (pending < PAGES_BYTES) continue;
    yield Buffer.concat(records);
    records = [];
    pending = 0;
  }
  if (records.length > 0) yield Buffer.concat(records);
}

function offsetBytes(offset: number): Buffer {
  const bytes = Buffer.alloc(OFFSET_BYTES);
  bytes.writeBigUInt64BE(BigInt(offset));
  return bytes;
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

function header(name: string, size: number, more = 0n): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + Buffer.byteLength(name));
  bytes.writeUInt16BE(Buffer.byteLength(name), 0);
  bytes.writeBigUInt64BE(BigInt(size) | more, 2);
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
  let unfinished: ArrivingImage | undefined;
  const streams = new ArrivingStreams(folder);
  const reader = new ByteReader(source);
  let total = 0;
  try {
    for (let count = 0; ; ) {
      const head = reader.ready(HEADER_BYTES) ?? (await reader.exactly(HEADER_BYTES));
      const nameBytes = head.readUInt16BE(0);
      const word = head.readBigUInt64BE(2);
      const more = (word & MORE) !== 0n;
      const known = (word & KNOWN) !== 0n;
      const size = Number(word & ~(MORE | KNOWN));
      if (nameBytes === 0) {
        if (more || known) throw malformed('its end is none');
        if (size !== count || unfinished !== undefined) throw malformed(`${size} files announced, ${count} received`);
        if (inventory === undefined) throw malformed('it has no inventory');
        streams.finish();
        clearWay(folder);
        return inventory;
      }
      if (count >= MAX_FILES || nameBytes > 128) throw malformed('too many files or too long a name');
      const name = (reader.ready(nameBytes) ?? (await reader.exactly(nameBytes))).toString('latin1');
      if (!NAME.test(name)) throw malformed('a file name that is not plain');
      if (unfinished !== undefined && unfinished.name !== name) throw malformed(`${unfinished.name} is not whole`);
      total += size;
      if (total > maxBytes) throw malformed(`more than ${maxBytes} bytes`);
      if (name !== INVENTORY) {
        unfinished ??=
          streams.imageOf(name) ?? new ArrivingFile(folder, name, more, name === TOGETHER ? STREAMS : name);
        if (known) unfinished.recall(Number((await reader.exactly(OFFSET_BYTES)).readBigUInt64BE()), size);
        else {
          const receiving = unfinished.receive(reader, size);
          if (receiving !== undefined) await receiving;
        }
        if (!more) {
          unfinished.finish();
          unfinished = undefined;
        }
      } else if (inventory !== undefined) throw malformed('it has two inventories');
      else if (size <= MAX_INVENTORY_BYTES && !more && !known) inventory = await reader.exactly(size);
      else throw malformed('its inventory is too large');
      if (!more) count++;
    }
  } catch (error) {
    unfinished?.close();
    streams.close();
    throw error;
  }
}

/**
 * Keeps pages that come ahead of a dump in a folder, for the records that name them.
 * @returns how many bytes are kept: all, or none when there is no room.
 * @throws {UserError} `IMAGES_MALFORMED` when they are more than `maxBytes`.
 */
export async function keepAhead(source: AsyncIterable<Buffer>, folder: string, maxBytes: number): Promise<number> {
  const counted = async function* (): AsyncGenerator<Buffer> {
    const chunks = source[Symbol.asyncIterator](); // not `for await`: it would destroy an upload whose sender waits for the error
    let total = 0;
    for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) {
      total += next.value.length;
      if (total > maxBytes) throw malformed(`more than ${maxBytes} bytes ahead`);
      yield next.value;
    }
  };
  return await writeAhead(folder, counted());
}
