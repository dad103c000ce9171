// limit: 120 s
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { BugError, UserError } from '../../cli/errors.js';
import { decodeImages, encodeImages } from '../../cli/migration/image-stream.js';
import { skip } from '../skip.js';
import { enterPrivateWorld, remove } from './private-world.js';

const entered = enterPrivateWorld({ processes: false });
const test = suite<{ folder: string }>('image stream');
const PLENTY = 1 << 30;

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'image-stream-'));
});
test.after(({ folder }) => remove(folder));

type Files = ReadonlyMap<string, Buffer>;

let folders = 0;
function emptyFolder({ folder }: { folder: string }): string {
  const path = join(folder, String(folders++));
  mkdirSync(path);
  return path;
}

function write(path: string, files: Files): string {
  for (const [name, content] of files) writeFileSync(join(path, name), content);
  return path;
}

function read(path: string): Files {
  return new Map(readdirSync(path).map((name) => [name, readFileSync(join(path, name))]));
}

async function encoded(path: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of encodeImages(path)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The stream in pieces: as long as the lengths say, then all the rest. */
async function* cut(stream: Buffer, lengths: readonly number[]): AsyncGenerator<Buffer> {
  let offset = 0;
  for (const length of lengths) {
    yield stream.subarray(offset, offset + length);
    offset += length;
  }
  yield stream.subarray(offset);
}

/** A stream by hand, as only a wrong or evil sender makes it. */
function record(name: string, content: string | Buffer, announced = Buffer.byteLength(content)): Buffer {
  const head = Buffer.alloc(10);
  head.writeUInt16BE(Buffer.byteLength(name, 'latin1'), 0);
  head.writeBigUInt64BE(BigInt(announced), 2);
  return Buffer.concat([head, Buffer.from(name, 'latin1'), Buffer.from(content)]);
}

function end(count: number): Buffer {
  return record('', '', count);
}

async function refused(
  stream: Buffer,
  folder: string,
  maxBytes = PLENTY,
  code = 'IMAGES_MALFORMED',
): Promise<UserError> {
  try {
    await decodeImages(cut(stream, []), folder, maxBytes);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    assert.is(error.code, code);
    assert.not.ok(existsSync(join(folder, INVENTORY)), 'no inventory lies there that would start a restore');
    return error;
  }
  throw new Error('it was accepted');
}

const fileName = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,30}$/).filter((name) => !name.endsWith('.log'));
const someFiles = fc
  .tuple(
    fc.dictionary(fileName, fc.uint8Array({ maxLength: 600 }), { maxKeys: 8, noNullPrototype: true }),
    fc.uint8Array({ maxLength: 200 }),
  )
  .map(([files, inventory]): Files => {
    const all = new Map(Object.entries(files).map(([name, content]) => [name, Buffer.from(content)]));
    return all.set(INVENTORY, Buffer.from(inventory));
  });

test('any files, cut into any pieces, arrive as they were, and the inventory apart from them', async (context) => {
  await fc.assert(
    fc.asyncProperty(someFiles, fc.array(fc.nat(40)), async (files, lengths) => {
      const stream = await encoded(write(emptyFolder(context), files));
      const there = emptyFolder(context);
      const inventory = await decodeImages(cut(stream, lengths), there, PLENTY);
      assert.equal(inventory, files.get(INVENTORY));
      const expected = new Map(files);
      expected.delete(INVENTORY);
      assert.equal(read(there), expected);
    }),
    { numRuns: 100 },
  );
});

test('a file of several mebibytes arrives whole and in chunks that are small beside it', async (context) => {
  const large = Buffer.alloc(5_000_001, 'memory of a process ');
  const from = write(
    emptyFolder(context),
    new Map([
      ['pages-1.img', large],
      [INVENTORY, Buffer.from('i')],
    ]),
  );
  for await (const chunk of encodeImages(from)) assert.ok(chunk.length < 3 << 20, `${chunk.length} bytes at once`);
  const there = emptyFolder(context);
  await decodeImages(encodeImages(from), there, PLENTY);
  assert.ok(readFileSync(join(there, 'pages-1.img')).equals(large));
});

test('logs and FIFOs stay where they are', async (context) => {
  const from = write(
    emptyFolder(context),
    new Map([
      ['dump.log', Buffer.from('x')],
      [INVENTORY, Buffer.from('i')],
    ]),
  );
  execFileSync('mkfifo', [join(from, 'verdict')]);
  const there = emptyFolder(context);
  await decodeImages(encodeImages(from), there, PLENTY);
  assert.equal(readdirSync(there), []);
});

test('a stream that is cut anywhere is refused', async (context) => {
  const files = new Map([
    ['a.img', Buffer.from('1234')],
    [INVENTORY, Buffer.from('56')],
    ['b.img', Buffer.alloc(0)],
  ]);
  const stream = await encoded(write(emptyFolder(context), files));
  for (let length = 0; length < stream.length; length++) {
    await refused(stream.subarray(0, length), emptyFolder(context));
  }
  await decodeImages(cut(stream, []), emptyFolder(context), PLENTY);
});

for (const name of [
  '../escape',
  '/etc/passwd',
  '..',
  '.',
  '.hidden',
  '-rf',
  'a/b',
  'a\0b',
  'a b',
  'ä',
  'x'.repeat(129),
]) {
  test(`no file can be called ${JSON.stringify(name.slice(0, 12))}`, async (context) => {
    const there = emptyFolder(context);
    await refused(Buffer.concat([record(name, 'x'), record(INVENTORY, 'i'), end(2)]), there);
    assert.equal(readdirSync(there), []);
    assert.not.ok(existsSync(join(there, '../escape')));
  });
}

test('more bytes than were agreed are refused before they are written', async (context) => {
  const there = emptyFolder(context);
  await refused(Buffer.concat([record('a.img', 'x'.repeat(60)), record('b.img', 'y'.repeat(60))]), there, 100);
  assert.equal(readdirSync(there), ['a.img']);
  await refused(record('c.img', 'x', 2 ** 53), there, 100);
  await refused(record('d.img', 'x', 2 ** 63), there, 100);
});

test('as many bytes as were agreed are welcome', async (context) => {
  const stream = Buffer.concat([record('a.img', 'x'.repeat(90)), record(INVENTORY, 'i'.repeat(10)), end(2)]);
  assert.is((await decodeImages(cut(stream, []), emptyFolder(context), 100)).length, 10);
});

test('a second file of the same name is refused, and the first is as it came', async (context) => {
  const there = emptyFolder(context);
  const stream = Buffer.concat([record('a.img', 'first'), record('a.img', 'second'), record(INVENTORY, 'i'), end(3)]);
  let thrown: unknown;
  await decodeImages(cut(stream, []), there, PLENTY).catch((error: unknown) => {
    thrown = error;
  });
  assert.ok(thrown instanceof Error);
  assert.is(readFileSync(join(there, 'a.img'), 'utf8'), 'first');
});

test('without an inventory, with one that is too large or with a wrong count of files it is no checkpoint', async (context) => {
  assert.match(
    (await refused(Buffer.concat([record('a.img', 'x'), end(1)]), emptyFolder(context))).message,
    /inventory/,
  );
  const large = Buffer.concat([record(INVENTORY, 'i'.repeat(4097)), end(1)]);
  assert.match((await refused(large, emptyFolder(context))).message, /inventory/);
  const miscounted = Buffer.concat([record(INVENTORY, 'i'), end(2)]);
  assert.match((await refused(miscounted, emptyFolder(context))).message, /2 files announced, 1 received/);
});

test('a disk that fills up is DISK_FULL, and nothing says that the images are whole', async (context) => {
  const tiny = emptyFolder(context);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', tiny]);
  try {
    const files = new Map([
      ['pages-1.img', Buffer.alloc(200_000, 7)],
      [INVENTORY, Buffer.from('i')],
    ]);
    const stream = await encoded(write(emptyFolder(context), files));
    const error = await refused(stream, tiny, PLENTY, 'DISK_FULL');
    assert.is(error.exitStatus, 7);
    assert.match(error.message, new RegExp(tiny));
    assert.ok((error.remedy ?? '').includes('paths.run'));
  } finally {
    execFileSync('umount', [tiny]);
  }
});

test('a file that shrinks while it is sent does not look whole', async (context) => {
  const path = emptyFolder(context);
  const large = 3 << 20;
  write(
    path,
    new Map([
      ['pages-1.img', Buffer.alloc(large)],
      [INVENTORY, Buffer.from('i')],
    ]),
  );
  let thrown: unknown;
  try {
    for await (const _ of encodeImages(path)) truncateSync(join(path, 'pages-1.img'), 1 << 20);
  } catch (error) {
    thrown = error;
  }
  assert.instance(thrown, BugError);
});

if (!entered) skip(test, 'image stream', 'needs root: it mounts a small file system');
test.run();
