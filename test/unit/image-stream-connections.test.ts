import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { STREAMS, StreamFile, streamRecords, streamStarts } from '../../cli/checkpoint/stream-file.js';
import { BugError } from '../../cli/errors.js';
import { decodeImages, encodeImages } from '../../cli/migration/image-stream.js';
import { suite } from '../suite.js';
import {
  cut,
  emptyFolder,
  encoded,
  end,
  type Files,
  PLENTY,
  part,
  read,
  recall,
  record,
  refused,
  write,
} from './image-stream-fixtures.js';
import { remove } from './private-world.js';

const test = suite<{ folder: string }>('images of connections on their way');

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'image-stream-'));
});
test.after(({ folder }) => remove(folder));

const OTHERS: Files = new Map([
  ['files.img', Buffer.from('files')],
  [INVENTORY, Buffer.from('inventory')],
]);

/** What each connection's image is, and in how many writes CRIU makes it. */
type Images = ReadonlyMap<number, readonly Buffer[]>;

function writeStreams(folder: string, images: Images): string {
  const file = new StreamFile(folder);
  for (const [inode, writes] of images) {
    file.begin(inode);
    for (const content of writes) file.add(content);
  }
  file.finish();
  return folder;
}

function readStreams(folder: string): Map<number, Buffer> {
  const images = new Map<number, Buffer>();
  for (const { inode, content } of streamRecords(folder)) {
    images.set(inode, Buffer.concat([images.get(inode) ?? Buffer.alloc(0), content]));
  }
  return images;
}

function whole(images: Images): Map<number, Buffer> {
  return new Map([...images].map(([inode, writes]) => [inode, Buffer.concat(writes)]));
}

const content = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => Buffer.from(bytes));
const someImages = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 0xffff_ffff }), fc.array(content, { minLength: 1, maxLength: 3 })))
  .map((images): Images => new Map(images));

test('whatever connections there are, each arrives as it was, cut wherever it is', async (context) => {
  await fc.assert(
    fc.asyncProperty(someImages, fc.array(fc.nat(60)), async (images, lengths) => {
      const stream = await encoded(writeStreams(write(emptyFolder(context), OTHERS), images));
      const there = emptyFolder(context);
      await decodeImages(cut(stream, lengths), there, PLENTY);
      assert.equal(readStreams(there), whole(images));
      const files = read(there);
      assert.equal([...files.keys()].sort(), images.size === 0 ? ['files.img'] : ['files.img', STREAMS]);
    }),
    { numRuns: 60 },
  );
});

test('ten thousand connections, and one with mebibytes that nobody has read', async (context) => {
  const images: Images = new Map<number, readonly Buffer[]>([
    ...Array.from({ length: 10_000 }, (_none, index) => [index + 1, [Buffer.alloc(150, `${index} `)]] as const),
    [77_777, [Buffer.from('numbers'), Buffer.alloc(5_000_001, 'unread ')]],
  ]);
  const from = writeStreams(write(emptyFolder(context), OTHERS), images);
  const there = emptyFolder(context);
  await decodeImages(cut(await encoded(from)), there, PLENTY);
  assert.equal(readStreams(there), whole(images));
});

test('on their way they are what CRIU would have written, an image for each: so other versions know them', async (context) => {
  const from = writeStreams(write(emptyFolder(context), OTHERS), new Map([[0x1a2b, [Buffer.from('as CRIU has it')]]]));
  const stream = await encoded(from);
  assert.ok(stream.includes(record('tcp-stream-1a2b.img', 'as CRIU has it')));
  assert.not.ok(stream.includes(STREAMS));
  const older = Buffer.concat([record('tcp-stream-ff.img', 'one'), record(INVENTORY, 'i'), end(2)]);
  const there = emptyFolder(context);
  await decodeImages(cut(older), there, PLENTY);
  assert.equal(readStreams(there), new Map([[0xff, Buffer.from('one')]]));
});

test('of how they begin no more is read than is wanted, however they were written and whatever is unread', async (context) => {
  const wanted = fc.integer({ min: 1, max: 400 });
  await fc.assert(
    fc.asyncProperty(someImages, wanted, fc.nat(200_000), async (images, bytes, unread) => {
      const written = new Map(
        [...images].map(([inode, writes]) => [inode, [...writes, Buffer.alloc(unread, 'unread')]]),
      );
      const starts = [...streamStarts(writeStreams(emptyFolder(context), written), bytes)];
      const begin = ([inode, writes]: readonly [number, readonly Buffer[]]) => [
        inode,
        Buffer.concat(writes).subarray(0, bytes),
      ];
      assert.equal(
        starts.map(({ inode, content }) => [inode, content]),
        [...written].map(begin),
      );
    }),
    { numRuns: 60 },
  );
});

test('to whom takes them in one they are sent in one, as they lie there', async (context) => {
  const images: Images = new Map([
    [1, [Buffer.from('one')]],
    [2, [Buffer.alloc(70_000, 'two')]],
  ]);
  const from = writeStreams(write(emptyFolder(context), OTHERS), images);
  const chunks: Buffer[] = [];
  for await (const chunk of encodeImages(from, undefined, true)) chunks.push(chunk);
  const stream = Buffer.concat(chunks);
  assert.not.ok(stream.includes('tcp-stream-1.img'));
  const there = emptyFolder(context);
  await decodeImages(cut(stream), there, PLENTY);
  assert.equal(readStreams(there), whole(images));
  assert.equal([...read(there).keys()].sort(), ['files.img', STREAMS]);
});

test('one that comes twice, is not whole, or was sent ahead is refused; and so is their file', async (context) => {
  const tail = [record(INVENTORY, 'i'), end(3)];
  const twice = [record('tcp-stream-1.img', 'a'), record('tcp-stream-1.img', 'b'), ...tail];
  assert.match((await refused(Buffer.concat(twice), emptyFolder(context))).message, 'twice');
  await refused(
    Buffer.concat([part('tcp-stream-1.img', 'a'), record('tcp-stream-2.img', 'b'), ...tail]),
    emptyFolder(context),
  );
  await refused(Buffer.concat([recall('tcp-stream-1.img', 0, 4, 0n), ...tail]), emptyFolder(context));
  await refused(Buffer.concat([record(STREAMS, 'a'), ...tail]), emptyFolder(context));
});

test('a file that ends within a record is none', (context) => {
  const folder = emptyFolder(context);
  const file = writeStreams(folder, new Map([[1, [Buffer.from('content')]]]));
  const records = read(file).get(STREAMS) ?? Buffer.alloc(0);
  for (let length = 1; length < records.length; length++) {
    writeFileSync(join(folder, STREAMS), records.subarray(0, length));
    for (const readAll of [() => [...streamRecords(folder)], () => [...streamStarts(folder, 1000)]]) {
      assert.throws(readAll, (error: unknown) => error instanceof BugError);
    }
  }
});

test.run();
