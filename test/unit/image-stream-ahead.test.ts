// limit: 120 s
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { clearWay, openInReserve, reserveRoom, writeAhead } from '../../cli/checkpoint/image-folder.js';
import { PAGES } from '../../cli/checkpoint/page-pipe.js';
import { PAGE_BYTES } from '../../cli/checkpoint/private-memory.js';
import { UserError } from '../../cli/errors.js';
import { Ahead } from '../../cli/migration/difference.js';
import { decodeImages, encodeImages, keepAhead, type Underway } from '../../cli/migration/image-stream.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import {
  cut,
  emptyFolder,
  encoded,
  end,
  KNOWN,
  MORE,
  PLENTY,
  part,
  read,
  recall,
  record,
  refused,
  someFiles,
  write,
} from './image-stream-fixtures.js';
import { enterPrivateWorld, remove } from './private-world.js';

const entered = enterPrivateWorld({ processes: false });
const test = suite<{ folder: string }>('image stream while CRIU dumps');
const dumped = Promise.resolve();

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'image-stream-ahead-'));
  if (entered) execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', context.folder]); // on a disk nothing is reserved
});
test.after(({ folder }) => {
  if (entered) execFileSync('umount', [folder]);
  remove(folder);
});

const SMALL = new Map([
  ['core.img', Buffer.from('registers')],
  [INVENTORY, Buffer.from('i')],
]);
const TAIL = [record(INVENTORY, 'i'), end(2)];

function memory(numbers: readonly number[]): Buffer {
  return Buffer.concat(numbers.map((number) => Buffer.alloc(PAGE_BYTES, number)));
}

function withoutInventory(files: ReadonlyMap<string, Buffer>): Map<string, Buffer> {
  return new Map([...files].filter(([name]) => name !== INVENTORY));
}

/** A small file system of its own for as long as `body` runs. */
async function onTinyDisk(path: string, body: () => Promise<void>): Promise<void> {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', path]);
  try {
    await body();
  } finally {
    execFileSync('umount', [path]);
  }
}

const numbers = fc.array(fc.nat(9), { maxLength: 12 });
const lengths = fc.array(fc.nat(3 * PAGE_BYTES), { maxLength: 12 });

test('any files arrive as they were, with the pages that come before them and those that came ahead', async (context) => {
  const room = fc.option(fc.nat(16 * PAGE_BYTES), { nil: undefined });
  await fc.assert(
    fc.asyncProperty(
      someFiles,
      numbers,
      numbers,
      fc.nat(99),
      room,
      lengths,
      async (files, before, now, more, reserve, cuts) => {
        const [ahead, there] = [memory(before), emptyFolder(context)];
        const dump = Buffer.concat([memory(now), Buffer.alloc(more, 'half a page')]);
        if (reserve !== undefined) await reserveRoom(there, reserve);
        assert.is(await keepAhead(cut(ahead, cuts), there, ahead.length), ahead.length);
        const from = write(emptyFolder(context), files);
        const stream = await encoded(from, { pages: cut(dump, cuts), ahead: new Ahead(ahead), dumped });
        assert.equal(await decodeImages(cut(stream, cuts), there, PLENTY), files.get(INVENTORY));
        assert.equal(read(there), withoutInventory(files).set(PAGES, dump));
      },
    ),
    { numRuns: 150 },
  );
});

test('pages that are known do not travel again', async (context) => {
  const ahead = memory([1, 2, 3, 4]);
  const stream = await encoded(write(emptyFolder(context), SMALL), {
    pages: cut(ahead),
    ahead: new Ahead(ahead),
    dumped,
  });
  assert.ok(stream.length < PAGE_BYTES, `${stream.length} bytes for ${ahead.length} that are known`);
});

test('pages leave before the dump is over, and the other files only then', async (context) => {
  const from = emptyFolder(context);
  let complete: () => void = () => undefined;
  const over = new Promise<void>((resolve) => {
    complete = resolve;
  });
  let left = false;
  const pages = async function* (): AsyncGenerator<Buffer> {
    yield Buffer.alloc(1 << 20, 7);
    assert.ok(left, 'the first pages are gone before the last ones come');
    yield Buffer.alloc(PAGE_BYTES, 8);
    write(from, SMALL); // CRIU writes them while the stream is under way
    complete();
  };
  const chunks: Buffer[] = [];
  for await (const chunk of encodeImages(from, { pages: pages(), ahead: new Ahead(Buffer.alloc(0)), dumped: over })) {
    left = true;
    chunks.push(chunk);
  }
  const there = emptyFolder(context);
  await decodeImages(cut(Buffer.concat(chunks)), there, PLENTY);
  assert.equal([...read(there).keys()].sort(), ['core.img', PAGES]);
  assert.is(statSync(join(there, PAGES)).size, (1 << 20) + PAGE_BYTES);
});

test('a dump that fails makes no stream that looks whole', async (context) => {
  const failed = Promise.reject(new Error('CRIU failed'));
  failed.catch(() => undefined);
  const underway: Underway = { pages: cut(memory([1])), ahead: new Ahead(Buffer.alloc(0)), dumped: failed };
  let thrown: unknown;
  await encoded(write(emptyFolder(context), SMALL), underway).catch((error: unknown) => {
    thrown = error;
  });
  assert.match(String(thrown), /CRIU failed/);
});

test('a stream that is cut anywhere is refused, also between the parts of a file', async (context) => {
  const kept = emptyFolder(context);
  const ahead = memory([1, 2]);
  await keepAhead(cut(ahead), kept, PLENTY);
  const stream = Buffer.concat([
    part(PAGES, 'new'),
    recall(PAGES, PAGE_BYTES, 10),
    part(PAGES, ''),
    record(PAGES, 'end'),
    record('b.img', 'x'),
    record(INVENTORY, 'i'),
    end(3),
  ]);
  for (let length = 0; length < stream.length; length++) {
    remove(join(kept, PAGES));
    remove(join(kept, 'b.img'));
    await refused(stream.subarray(0, length), kept);
  }
  remove(join(kept, PAGES));
  remove(join(kept, 'b.img'));
  await decodeImages(cut(stream), kept, PLENTY);
  assert.equal(readFileSync(join(kept, PAGES)), Buffer.from(`new${'\x02'.repeat(10)}end`));
});

test('a file may end with pages that are known', async (context) => {
  const there = emptyFolder(context);
  await keepAhead(cut(Buffer.from('0123456789')), there, PLENTY);
  await decodeImages(cut(Buffer.concat([part(PAGES, 'a'), recall(PAGES, 4, 3, 0n), ...TAIL])), there, PLENTY);
  assert.is(readFileSync(join(there, PAGES), 'latin1'), 'a456');
});

test('a long stretch of what came ahead arrives whole', async (context) => {
  const there = emptyFolder(context);
  const ahead = Buffer.concat(Array.from({ length: 800 }, (_, index) => Buffer.alloc(PAGE_BYTES, `page ${index} `)));
  await keepAhead(cut(ahead), there, PLENTY);
  const stream = Buffer.concat([recall(PAGES, PAGE_BYTES, ahead.length - PAGE_BYTES, 0n), ...TAIL]);
  await decodeImages(cut(stream), there, PLENTY);
  assert.ok(readFileSync(join(there, PAGES)).equals(ahead.subarray(PAGE_BYTES)));
});

for (const [what, offset, bytes] of [
  ['begins beyond', PAGE_BYTES, 1],
  ['ends beyond', 0, PAGE_BYTES + 1],
  ['ends far beyond', 1, 3 << 20],
  ['begins where no file can', 2 ** 53 - 1, 1],
  ['begins where no number can', 2n ** 63n, 1],
  ['begins at the end of numbers', 2n ** 64n - 1n, 1],
] as const) {
  test(`a stretch that ${what} what was kept is refused`, async (context) => {
    const there = emptyFolder(context);
    await keepAhead(cut(memory([1])), there, PLENTY);
    const error = await refused(Buffer.concat([recall(PAGES, offset, bytes), record(PAGES, ''), ...TAIL]), there);
    assert.match(error.message, /not sent ahead/);
  });
}

test('a stretch of what was sent ahead is refused when nothing was', async (context) => {
  const stream = Buffer.concat([recall(PAGES, 0, 1), record(PAGES, ''), ...TAIL]);
  assert.match((await refused(stream, emptyFolder(context))).message, /not sent ahead/);
});

test('what a stream itself brings cannot pass for what was sent ahead, whatever it calls it', async (context) => {
  for (const name of ['ahead', 'reserve']) {
    const stream = Buffer.concat([record(name, 'evil'), recall(PAGES, 0, 4), record(PAGES, ''), ...TAIL]);
    assert.match((await refused(stream, emptyFolder(context))).message, /not sent ahead/);
  }
});

test('a file that is not whole is refused when another begins, or the end comes', async (context) => {
  const begun = part('a.img', 'x');
  for (const next of [record('b.img', 'y'), part('b.img', 'y'), recall('b.img', 0, 1), record(INVENTORY, 'i')]) {
    const stream = Buffer.concat([begun, next, record('a.img', 'z'), record(INVENTORY, 'i'), end(3)]);
    assert.match((await refused(stream, emptyFolder(context))).message, /a\.img is not whole/);
  }
  for (const count of [1, 2]) {
    await refused(Buffer.concat([record(INVENTORY, 'i'), begun, end(count)]), emptyFolder(context));
  }
});

test('the inventory comes whole and as it is', async (context) => {
  const there = emptyFolder(context);
  await keepAhead(cut(memory([1])), there, PLENTY);
  for (const first of [part(INVENTORY, 'i'), recall(INVENTORY, 0, 1), recall(INVENTORY, 0, 1, 0n)]) {
    assert.match((await refused(Buffer.concat([first, ...TAIL]), there)).message, /inventory/);
  }
});

test('an end mark that says more than the end is refused', async (context) => {
  for (const flag of [MORE, KNOWN]) {
    await refused(Buffer.concat([record(INVENTORY, 'i'), record('', '', flag | 1n)]), emptyFolder(context));
  }
});

test('bytes that were sent ahead count when they are named, as often as they are', async (context) => {
  const stream = (bytes: number): Buffer =>
    Buffer.concat([recall(PAGES, 0, 60), recall(PAGES, 0, bytes), record(PAGES, ''), ...TAIL]);
  const there = emptyFolder(context);
  await keepAhead(cut(memory([1])), there, PLENTY);
  await refused(stream(41), there, 100);
  assert.is(statSync(join(there, PAGES)).size, 60, 'refused before it was written');
  remove(join(there, PAGES));
  await decodeImages(cut(stream(39)), there, 100); // and one for the inventory
  assert.is(statSync(join(there, PAGES)).size, 99);
});

test('a whole stream leaves nothing but its files, each of exactly its length', async (context) => {
  const there = emptyFolder(context);
  await reserveRoom(there, 3_000_000);
  await keepAhead(cut(memory([1, 2])), there, PLENTY);
  assert.is(readdirSync(there).length, 2);
  const files = [record('a.img', 'small'), part(PAGES, 'new'), recall(PAGES, 0, 5), record(PAGES, '')];
  await decodeImages(cut(Buffer.concat([...files, record(INVENTORY, 'i'), end(3)])), there, PLENTY);
  assert.equal(
    read(there),
    new Map([
      ['a.img', Buffer.from('small')],
      [PAGES, Buffer.from('new\x01\x01\x01\x01\x01')],
    ]),
  );
});

test('what was reserved and came ahead is gone also when no file has used it', async (context) => {
  const there = emptyFolder(context);
  await reserveRoom(there, 100_000);
  await keepAhead(cut(memory([1])), there, PLENTY);
  await decodeImages(cut(Buffer.concat([record('a.img', 'x'), ...TAIL])), there, PLENTY);
  assert.equal(readdirSync(there), ['a.img']);
});

test('only one file gets the room; another that comes in parts is made anew', async (context) => {
  const there = emptyFolder(context);
  await reserveRoom(there, 10_000);
  const stream = [part('a.img', 'a'), record('a.img', 'A'), part('b.img', 'b'), record('b.img', 'B')];
  await decodeImages(cut(Buffer.concat([...stream, record(INVENTORY, 'i'), end(3)])), there, PLENTY);
  assert.equal(
    [readFileSync(join(there, 'a.img'), 'latin1'), readFileSync(join(there, 'b.img'), 'latin1')],
    ['aA', 'bB'],
  );
});

test('a file that is there already is not replaced by the reserve', async (context) => {
  const there = emptyFolder(context);
  await reserveRoom(there, 10_000);
  writeFileSync(join(there, 'a.img'), 'first');
  assert.throws(() => openInReserve(there, 'a.img'), /EEXIST/);
  assert.is(readFileSync(join(there, 'a.img'), 'latin1'), 'first');
  clearWay(there);
  assert.equal(readdirSync(there), ['a.img']);
});

test('the reserve is as large as was asked for, and its pages are there', async (context) => {
  for (const bytes of [1, (1 << 20) + 5]) {
    const there = emptyFolder(context);
    await reserveRoom(there, bytes);
    const [name = ''] = readdirSync(there);
    const stat = statSync(join(there, name));
    assert.is(stat.size, bytes);
    assert.ok(stat.blocks * 512 >= bytes, 'it is no hole');
    assert.is(stat.mode & 0o777, 0o600);
  }
});

test('more pages ahead than were agreed are refused and not kept; as many are welcome', async (context) => {
  const there = emptyFolder(context);
  let thrown: unknown;
  await keepAhead(cut(Buffer.alloc(101), [50]), there, 100).catch((error: unknown) => {
    thrown = error;
  });
  assert.is(thrown instanceof UserError ? thrown.code : thrown, 'IMAGES_MALFORMED');
  assert.equal(readdirSync(there), []);
  assert.is(await keepAhead(cut(Buffer.alloc(100), [50]), there, 100), 100);
});

test('a sender of too many pages ahead is refused, but not cut off before it hears why', async (context) => {
  let cutOff = false;
  const pages = async function* (): AsyncGenerator<Buffer> {
    try {
      for (;;) yield Buffer.alloc(50);
    } finally {
      cutOff = true;
    }
  };
  let thrown: unknown;
  await keepAhead(pages(), emptyFolder(context), 100).catch((error: unknown) => {
    thrown = error;
  });
  assert.is(thrown instanceof UserError ? thrown.code : thrown, 'IMAGES_MALFORMED');
  assert.not.ok(cutOff);
});

test('pages ahead whose sender fails are not kept', async (context) => {
  const there = emptyFolder(context);
  const pages = async function* (): AsyncGenerator<Buffer> {
    yield memory([1]);
    throw new Error('the connection was lost');
  };
  let thrown: unknown;
  await writeAhead(there, pages()).catch((error: unknown) => {
    thrown = error;
  });
  assert.match(String(thrown), /connection was lost/);
  assert.equal(readdirSync(there), []);
});

test('where there is no room, nothing is kept ahead and nothing reserved, and the images still come', async (context) => {
  const tiny = emptyFolder(context);
  await onTinyDisk(tiny, async () => {
    assert.is(await keepAhead(cut(Buffer.alloc(200_000, 7)), tiny, PLENTY), 0);
    assert.equal(readdirSync(tiny), []);
    await reserveRoom(tiny, 200_000);
    assert.equal(readdirSync(tiny), []);
    await decodeImages(cut(Buffer.concat([part(PAGES, 'new'), record(PAGES, ''), ...TAIL])), tiny, PLENTY);
    assert.is(readFileSync(join(tiny, PAGES), 'latin1'), 'new');
  });
});

test('pages ahead are read to their end also where there is no room, so that their sender gets its answer', async (context) => {
  const tiny = emptyFolder(context);
  await onTinyDisk(tiny, async () => {
    let sent = 0;
    const pages = async function* (): AsyncGenerator<Buffer> {
      for (; sent < 50; sent++) {
        yield Buffer.alloc(40_000, 7);
        if (sent > 2) assert.ok(statfsSync(tiny).bavail > 0, 'nor do they take the room meanwhile');
      }
    };
    assert.is(await keepAhead(pages(), tiny, PLENTY), 0);
    assert.is(sent, 50);
    assert.equal(readdirSync(tiny), []);
  });
});

test('a disk that fills up while known pages are written is DISK_FULL', async (context) => {
  const tiny = emptyFolder(context);
  await onTinyDisk(tiny, async () => {
    assert.is(await keepAhead(cut(Buffer.alloc(20_000, 7)), tiny, PLENTY), 20_000);
    const stream = Buffer.concat([...Array<Buffer>(3).fill(recall(PAGES, 0, 20_000)), record(PAGES, ''), ...TAIL]);
    await refused(stream, tiny, PLENTY, 'DISK_FULL');
  });
  assert.not.ok(existsSync(join(tiny, PAGES)));
});

if (!entered) skip(test, 'image stream while CRIU dumps', 'needs root: it mounts a small file system');
test.run();
