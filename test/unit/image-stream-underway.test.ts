import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { PAGES } from '../../cli/checkpoint/page-pipe.js';
import { PAGE_BYTES } from '../../cli/checkpoint/private-memory.js';
import type { UserError } from '../../cli/errors.js';
import { Ahead } from '../../cli/migration/difference.js';
import { decodeImages, encodeImages, type Underway } from '../../cli/migration/image-stream.js';
import { suite } from '../suite.js';
import { cut, emptyFolder, encoded, PLENTY, write } from './image-stream-fixtures.js';
import { remove } from './private-world.js';

const test = suite<{ folder: string }>('pages while CRIU has them');
const dumped = Promise.resolve();
const SMALL = new Map([[INVENTORY, Buffer.from('i')]]);

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'image-stream-underway-'));
});
test.after(({ folder }) => remove(folder));

function memory(numbers: readonly number[]): Buffer {
  return Buffer.concat(numbers.map((number) => Buffer.alloc(PAGE_BYTES, number)));
}

const CRIU_CODE = Buffer.from(process.arch === 'arm64' ? '010000d4000020d4' : '0f05cccccccccccc', 'hex');

/** Memory whose second page was read while CRIU ran its own code there. */
function caught(): Buffer {
  const pages = memory([1, 2, 3]);
  CRIU_CODE.copy(pages, PAGE_BYTES);
  return pages;
}

test('a page that was read while CRIU ran its own code there is sent as the process has it afterwards', async (context) => {
  let looks = 0;
  const code = async (): Promise<Buffer[]> => [
    memory([9]),
    looks++ < 3 ? caught().subarray(PAGE_BYTES, -PAGE_BYTES) : memory([2]),
  ];
  const underway: Underway = { pages: cut(caught()), ahead: new Ahead(memory([1])), code, dumped };
  const stream = await encoded(write(emptyFolder(context), SMALL), underway);
  assert.ok(stream.includes(memory([2, 3])));
  assert.not.ok(stream.includes(CRIU_CODE));
});

for (const [what, own] of [
  ['nobody knows what was there', []],
  ['it does not go away', [2]],
  ['two pages differ in nothing else', [2, 2]],
] as const) {
  test(`and when ${what}, it is not sent`, async (context) => {
    const pages = own.map((number, index) => {
      const page = memory([number]);
      if (index === 0 && own.length === 1) CRIU_CODE.copy(page);
      page.writeUInt8(index === 0 ? (page[0] ?? 0) : 7);
      return page;
    });
    const underway: Underway = { pages: cut(caught()), ahead: new Ahead(memory([1])), code: async () => pages, dumped };
    let thrown: unknown;
    await encoded(write(emptyFolder(context), SMALL), underway).catch((error: unknown) => {
      thrown = error;
    });
    assert.is((thrown as UserError).code, 'CAUGHT_CODE');
  });
}

test('while the dump goes on without pages, the stream gives signs of life, and they change nothing', async (context) => {
  let over: () => void = () => undefined;
  const late = new Promise<void>((resolve) => {
    over = resolve;
  });
  const pages = memory([1, 2]);
  const stream = encodeImages(write(emptyFolder(context), SMALL), {
    pages: cut(pages),
    ahead: new Ahead(Buffer.alloc(0)),
    dumped: late,
  });
  const chunks: Buffer[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (chunks.length === 2) over(); // the pages, and the first sign
  }
  const there = emptyFolder(context);
  await decodeImages(cut(Buffer.concat(chunks)), there, PLENTY);
  assert.ok(readFileSync(join(there, PAGES)).equals(pages));
});

test.run();
