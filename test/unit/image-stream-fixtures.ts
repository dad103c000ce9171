import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { UserError } from '../../cli/errors.js';
import { decodeImages, encodeImages, type Underway } from '../../cli/migration/image-stream.js';

export const PLENTY = 1 << 30;
/** More of this file follows; these bytes were sent ahead. */
export const MORE = 1n << 63n;
export const KNOWN = 1n << 62n;

export type Files = ReadonlyMap<string, Buffer>;

let folders = 0;
export function emptyFolder({ folder }: { folder: string }): string {
  const path = join(folder, String(folders++));
  mkdirSync(path);
  return path;
}

export function write(path: string, files: Files): string {
  for (const [name, content] of files) writeFileSync(join(path, name), content);
  return path;
}

export function read(path: string): Files {
  return new Map(readdirSync(path).map((name) => [name, readFileSync(join(path, name))]));
}

export async function encoded(path: string, underway?: Underway): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of encodeImages(path, underway)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Bytes in pieces: as long as the lengths say, then all the rest. */
export async function* cut(stream: Buffer, lengths: readonly number[] = []): AsyncGenerator<Buffer> {
  let offset = 0;
  for (const length of lengths) {
    yield stream.subarray(offset, offset + length);
    offset += length;
  }
  yield stream.subarray(offset);
}

/** A stream by hand, as only a wrong or evil sender makes it. */
export function record(
  name: string,
  content: string | Buffer,
  announced: number | bigint = Buffer.byteLength(content),
): Buffer {
  const head = Buffer.alloc(10);
  head.writeUInt16BE(Buffer.byteLength(name, 'latin1'), 0);
  head.writeBigUInt64BE(BigInt(announced), 2);
  return Buffer.concat([head, Buffer.from(name, 'latin1'), Buffer.from(content)]);
}

/** A part of a file that is not whole yet. */
export function part(name: string, content: string | Buffer): Buffer {
  return record(name, content, MORE | BigInt(Buffer.byteLength(content)));
}

/** A part of a file that was sent ahead. */
export function recall(name: string, offset: number | bigint, bytes: number, more = MORE): Buffer {
  const where = Buffer.alloc(8);
  where.writeBigUInt64BE(BigInt(offset));
  return record(name, where, more | KNOWN | BigInt(bytes));
}

export function end(count: number): Buffer {
  return record('', '', count);
}

export async function refused(
  stream: Buffer,
  folder: string,
  maxBytes = PLENTY,
  code = 'IMAGES_MALFORMED',
): Promise<UserError> {
  try {
    await decodeImages(cut(stream), folder, maxBytes);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    assert.is(error.code, code);
    assert.not.ok(existsSync(join(folder, INVENTORY)), 'no inventory lies there that would start a restore');
    return error;
  }
  throw new Error('it was accepted');
}

const fileName = fc
  .oneof(fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,30}$/), fc.constantFrom('ahead', 'reserve'))
  .filter((name) => !name.endsWith('.log'));
export const someFiles = fc
  .tuple(
    fc.dictionary(fileName, fc.uint8Array({ maxLength: 600 }), { maxKeys: 8, noNullPrototype: true }),
    fc.uint8Array({ maxLength: 200 }),
  )
  .map(([files, inventory]): Files => {
    const all = new Map(Object.entries(files).map(([name, content]) => [name, Buffer.from(content)]));
    return all.set(INVENTORY, Buffer.from(inventory));
  });
