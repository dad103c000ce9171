import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { PAGE_BYTES } from '../../cli/checkpoint/private-memory.js';
import { Ahead, difference, type Stretch } from '../../cli/migration/difference.js';
import { suite } from '../suite.js';

const test = suite('difference of a dump from what was sent ahead');

/** A page that no other number has. */
function page(number: number): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES, number & 0xff);
  bytes.writeUInt32LE(number, PAGE_BYTES - 4);
  return bytes;
}

function memory(numbers: readonly number[]): Buffer {
  return Buffer.concat(numbers.map(page));
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

/** The dump in pieces: as long as the lengths say, then all the rest. */
async function* cut(dump: Buffer, lengths: readonly number[]): AsyncGenerator<Buffer> {
  let offset = 0;
  for (const length of lengths) {
    yield dump.subarray(offset, offset + length);
    offset += length;
  }
  yield dump.subarray(offset);
}

async function stretches(dump: Buffer, ahead: Buffer, lengths: readonly number[] = []): Promise<Stretch[]> {
  const all: Stretch[] = [];
  for await (const stretch of difference(cut(dump, lengths), new Ahead(ahead))) all.push(stretch);
  return all;
}

function rebuild(all: readonly Stretch[], ahead: Buffer): Buffer {
  return Buffer.concat(
    all.map((one) => (one.kind === 'new' ? one.content : ahead.subarray(one.offset, one.offset + one.bytes))),
  );
}

function newBytes(all: readonly Stretch[]): number {
  return all.reduce((sum, one) => sum + (one.kind === 'new' ? one.content.length : 0), 0);
}

type Edit = readonly [kind: 'change' | 'insert' | 'remove' | 'move' | 'duplicate', at: number, to: number];

function edited(pages: readonly number[], edits: readonly Edit[]): number[] {
  const result = [...pages];
  let fresh = 1_000_000;
  for (const [kind, from, to] of edits) {
    const at = from % (result.length + 1);
    const [there] = kind === 'insert' || kind === 'duplicate' ? result.slice(at, at + 1) : result.splice(at, 1);
    if (kind === 'change') result.splice(at, 0, fresh++);
    else if (kind === 'insert') result.splice(at, 0, fresh++);
    else if (kind !== 'remove' && there !== undefined) result.splice(to % (result.length + 1), 0, there);
  }
  return result;
}

// few numbers, so that pages repeat; as many more that do not
const somePages = fc.array(fc.oneof(fc.nat(3), fc.nat(100_000)), { maxLength: 40 });
const edit: fc.Arbitrary<Edit> = fc.tuple(
  fc.constantFrom('change' as const, 'insert' as const, 'remove' as const, 'move' as const, 'duplicate' as const),
  fc.nat(60),
  fc.nat(60),
);
const pieces = fc.array(
  fc.oneof(
    fc.nat(3 * PAGE_BYTES),
    fc.nat(8).map((count) => count * PAGE_BYTES),
  ),
  { maxLength: 20 },
);

test('whatever has changed and however the dump is cut, it is rebuilt byte for byte from what is there', async () => {
  await fc.assert(
    fc.asyncProperty(
      somePages,
      fc.array(edit, { maxLength: 12 }),
      pieces,
      fc.nat(PAGE_BYTES - 1),
      async (before, edits, lengths, more) => {
        const ahead = memory(before);
        const dump = Buffer.concat([memory(edited(before, edits)), Buffer.alloc(more, 'half a page')]);
        const all = await stretches(dump, ahead, lengths);
        assert.ok(rebuild(all, ahead).equals(dump));
        for (const one of all) {
          if (one.kind === 'new') assert.ok(one.content.length > 0);
          else {
            assert.ok(one.bytes > 0 && one.offset >= 0 && one.offset + one.bytes <= ahead.length);
            assert.is(one.bytes % PAGE_BYTES, 0);
          }
        }
      },
    ),
    { numRuns: 200 },
  );
});

test('memory that has not changed is one known stretch for each piece', async () => {
  const ahead = memory(range(0, 12));
  assert.equal(await stretches(ahead, ahead, [5 * PAGE_BYTES, 3 * PAGE_BYTES]), [
    { kind: 'same', offset: 0, bytes: 5 * PAGE_BYTES },
    { kind: 'same', offset: 5 * PAGE_BYTES, bytes: 3 * PAGE_BYTES },
    { kind: 'same', offset: 8 * PAGE_BYTES, bytes: 4 * PAGE_BYTES },
  ]);
});

test('pieces that end within a page cost nothing either', async () => {
  const ahead = memory(range(0, 12));
  assert.is(newBytes(await stretches(ahead, ahead, [1, PAGE_BYTES, 7000, 2, 4097])), 0);
});

test('a page that has changed is new, and nothing else is', async () => {
  const ahead = memory(range(0, 10));
  const dump = memory([...range(0, 4), 77, ...range(5, 10)]);
  assert.equal(await stretches(dump, ahead), [
    { kind: 'same', offset: 0, bytes: 4 * PAGE_BYTES },
    { kind: 'new', content: page(77) },
    { kind: 'same', offset: 5 * PAGE_BYTES, bytes: 5 * PAGE_BYTES },
  ]);
});

test('one byte makes a page another one, wherever in the page it is', async () => {
  for (const offset of [0, PAGE_BYTES / 2, PAGE_BYTES - 1]) {
    const ahead = memory(range(0, 3));
    const dump = Buffer.from(ahead);
    dump.writeUInt8(0xaa, PAGE_BYTES + offset);
    const all = await stretches(dump, ahead);
    assert.is(newBytes(all), PAGE_BYTES);
    assert.ok(rebuild(all, ahead).equals(dump));
  }
});

test('the first and the last page may be the ones that have changed', async () => {
  const ahead = memory(range(0, 6));
  assert.is(newBytes(await stretches(memory([70, ...range(1, 5), 71]), ahead)), 2 * PAGE_BYTES);
});

for (const inserted of [1, 5, 16]) {
  test(`pages that have come, ${inserted} of them, are new, and the rest is found again`, async () => {
    const ahead = memory(range(0, 30));
    const dump = memory([...range(0, 7), ...range(100, 100 + inserted), ...range(7, 30)]);
    const all = await stretches(dump, ahead);
    assert.is(newBytes(all), inserted * PAGE_BYTES);
    assert.equal(all.at(-1), { kind: 'same', offset: 7 * PAGE_BYTES, bytes: 23 * PAGE_BYTES });
  });

  test(`pages that have gone, ${inserted} of them, cost nothing`, async () => {
    const ahead = memory(range(0, 30));
    const all = await stretches(memory([...range(0, 7), ...range(7 + inserted, 30)]), ahead);
    assert.is(newBytes(all), 0);
  });
}

test('pages that have changed in a row cost no more than themselves, however many they are', async () => {
  const ahead = memory(range(0, 200));
  const all = await stretches(memory([...range(0, 20), ...range(500, 600), ...range(120, 200)]), ahead);
  assert.is(newBytes(all), 100 * PAGE_BYTES);
});

test('a page that comes is found beside even when every piece is a single page', async () => {
  const ahead = memory(range(0, 10));
  const dump = memory([...range(0, 5), 77, ...range(5, 10)]);
  const all = await stretches(dump, ahead, Array<number>(11).fill(PAGE_BYTES));
  assert.is(newBytes(all), PAGE_BYTES);
});

for (const many of [17, 900]) {
  test(`${many} pages that come or go cost no others`, async () => {
    const ahead = memory(range(0, 2500));
    const more = memory([...range(0, 10), ...range(5000, 5000 + many), ...range(10, 2500)]);
    assert.is(newBytes(await stretches(more, ahead)), many * PAGE_BYTES);
    assert.is(newBytes(await stretches(memory([...range(0, 10), ...range(10 + many, 2500)]), ahead)), 0);
  });
}

test('when nothing was sent ahead, all is new', async () => {
  const dump = memory(range(0, 6));
  const all = await stretches(dump, Buffer.alloc(0), [PAGE_BYTES, 100]);
  assert.ok(all.every(({ kind }) => kind === 'new'));
  assert.ok(rebuild(all, Buffer.alloc(0)).equals(dump));
});

test('a dump of nothing has no stretches', async () => {
  assert.equal(await stretches(Buffer.alloc(0), memory([1, 2])), []);
});

test('less than a page at the end is new, even if the copy begins with it', async () => {
  const ahead = memory(range(0, 2));
  assert.equal(await stretches(ahead.subarray(0, PAGE_BYTES + 100), ahead), [
    { kind: 'same', offset: 0, bytes: PAGE_BYTES },
    { kind: 'new', content: ahead.subarray(PAGE_BYTES, PAGE_BYTES + 100) },
  ]);
});

test.run();
