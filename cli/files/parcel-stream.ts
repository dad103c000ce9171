/*
 * Files on their way to another node:
 *
 *   0             4                4+n
 *   +-------------+----------------+-----------+-------------------+-----------+--
 *   | n (u32)     | parcel, JSON   | size (u64)| content (size)    | size (u64)| ...      end: "END " and the number of files (u64)
 *   +-------------+----------------+-----------+-------------------+-----------+--
 *
 * One content for each file of the parcel, in its order. Integers are big endian. The end is written out, so that a connection that
 * was cut never looks like a whole parcel.
 */
import { open } from 'node:fs/promises';
import { UserError } from '../errors.js';
import { MAX_MANIFEST_BYTES, type Parcel, parcelSchema } from './manifest.js';

const CHUNK_BYTES = 1 << 20;
const END = Buffer.from('END ');

/** Reads a parcel as the stream above. @param pathOf where the content of a file is now, to be opened here */
export async function* encodeParcel(parcel: Parcel, pathOf: (path: string) => string): AsyncGenerator<Buffer> {
  const json = Buffer.from(JSON.stringify(parcel));
  yield Buffer.concat([u32(json.length), json]);
  let count = 0;
  for (const entry of parcel.entries) {
    if (entry.kind !== 'file') continue;
    yield u64(entry.bytes);
    yield* exactly(pathOf(entry.path), entry.bytes);
    count++;
  }
  yield Buffer.concat([END, u64(count)]);
}

/** As many bytes as were announced; one that shrank meanwhile is filled up, and its hash will say so. */
async function* exactly(path: string, bytes: number): AsyncGenerator<Buffer> {
  const file = await open(path, 'r').catch(() => undefined);
  try {
    for (let position = 0; position < bytes; ) {
      const chunk = Buffer.alloc(Math.min(CHUNK_BYTES, bytes - position));
      const bytesRead = (await file?.read(chunk, 0, chunk.length, position))?.bytesRead ?? 0;
      yield bytesRead === 0 ? chunk : chunk.subarray(0, bytesRead);
      position += bytesRead === 0 ? chunk.length : bytesRead;
    }
  } finally {
    await file?.close();
  }
}

/** Takes the content of one file. It must read it all. */
export type TakeContent = (index: number, content: AsyncIterable<Buffer>) => Promise<void>;

/**
 * Reads a parcel from the wire.
 * @param begin told of the parcel before its contents; what it throws ends the reading.
 * @throws {UserError} `CARRY_MALFORMED` for a stream that breaks the format, is cut, or is more than `maxBytes` of content.
 */
export async function decodeParcel(
  source: AsyncIterable<Buffer>,
  maxBytes: number,
  begin: (parcel: Parcel) => Promise<TakeContent>,
): Promise<Parcel> {
  const reader = new Reader(source);
  const length = (await reader.exactly(4)).readUInt32BE(0);
  if (length > MAX_MANIFEST_BYTES) throw malformed('its list is too long');
  const parcel = decodeJson(await reader.exactly(length), parcelSchema);
  const total = parcel.entries.reduce((sum, entry) => sum + (entry.kind === 'file' ? entry.bytes : 0), 0);
  if (total > maxBytes) throw malformed(`${total} bytes, and ${maxBytes} are allowed`);
  const take = await begin(parcel);
  let count = 0;
  for (const [index, entry] of parcel.entries.entries()) {
    if (entry.kind !== 'file') continue;
    const size = Number((await reader.exactly(8)).readBigUInt64BE(0));
    if (size !== entry.bytes) throw malformed('a content of another size than announced');
    await take(index, reader.next(size));
    count++;
  }
  const end = await reader.exactly(12);
  if (end.compare(END, 0, 4, 0, 4) !== 0 || Number(end.readBigUInt64BE(4)) !== count) throw malformed('it has no end');
  return parcel;
}

/** @throws {UserError} `CARRY_MALFORMED` */
export function decodeJson<Value>(
  bytes: Buffer,
  schema: { safeParse(value: unknown): { success: true; data: Value } | { success: false; error: Error } },
): Value {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch {
    throw malformed('its list is not JSON');
  }
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  throw malformed(checked.error.message.slice(0, 500));
}

/** Reads a body that must be short. @throws {UserError} `CARRY_MALFORMED` */
export async function readShort(source: AsyncIterable<Buffer>, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of source) {
    length += chunk.length;
    if (length > maxBytes) throw malformed('its list is too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

export function malformed(what: string): UserError {
  return new UserError({
    code: 'CARRY_MALFORMED',
    message: `the files that arrived are not what was announced: ${what}`,
    remedy: "look at the source node's log; versions of homeproxy that differ can cause this",
    exitStatus: 4,
  });
}

function u32(number: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(number);
  return bytes;
}

function u64(number: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(number));
  return bytes;
}

class Reader {
  private readonly chunks: AsyncIterator<Buffer>;
  private rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.chunks = source[Symbol.asyncIterator]();
  }

  async exactly(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const part of this.next(count)) parts.push(part);
    return Buffer.concat(parts);
  }

  async *next(count: number): AsyncGenerator<Buffer> {
    for (let left = count; left > 0; ) {
      if (this.rest.length === 0) {
        const { value, done } = await this.chunks.next();
        if (done === true) throw malformed('it ends early');
        this.rest = value;
      }
      const part = this.rest.subarray(0, left);
      this.rest = this.rest.subarray(part.length);
      left -= part.length;
      yield part;
    }
  }
}
