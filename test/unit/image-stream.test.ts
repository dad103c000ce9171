// limit: 120 s
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { BugError } from '../../cli/errors.js';
import { decodeImages, encodeImages } from '../../cli/migration/image-stream.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import {
  cut,
  emptyFolder,
  encoded,
  end,
  PLENTY,
  read,
  record,
  refused,
  someFiles,
  write,
} from './image-stream-fixtures.js';
import { enterPrivateWorld, remove } from './private-world.js';

const entered = enterPrivateWorld({ processes: false });
const test = suite<{ folder: string }>('image stream');

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'image-stream-'));
});
test.after(({ folder }) => remove(folder));

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
