// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { bareRecords, PAGE_BYTES, type Range, signRecord } from '../../cli/memory/records.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { folder } from './private-namespaces.js';

const test = suite<{ program: string; place: string }>('memory that arrives in a restore');

/** Somewhere in the address space of the process that comes. */
const START = 0x7f00_0000_0000;

function pages(from: number, to: number): Range {
  return { start: START + from * PAGE_BYTES, end: START + to * PAGE_BYTES };
}

/** The same byte in each page. */
function content(letter: string, range: Range): Buffer[] {
  return [bareRecords('pages', [range]), Buffer.alloc(range.end - range.start, letter)];
}

test.before((world) => {
  world.place = mkdtempSync(join(folder, 'arriving-'));
  world.program = join(world.place, 'arriving');
  execFileSync('clang', ['-O1', '-o', world.program, projectFile('test/addon/fixtures/arriving.c')]);
  mkdirSync(join(world.place, 'parent'));
  for (const name of ['inventory.img', 'parent/pages-1.img']) writeFileSync(join(world.place, name), '');
});
test.after(({ place }) => rmSync(place, { recursive: true }));

/** A field of a message, whose value is a number or another message. */
function field(number: number, value: number | Buffer): Buffer {
  const bytes: number[] = [];
  const add = (rest: number): void => {
    for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
    bytes.push(rest);
  };
  add(number * 8 + (typeof value === 'number' ? 0 : 2));
  add(typeof value === 'number' ? value : value.length);
  return Buffer.concat([Buffer.from(bytes), typeof value === 'number' ? Buffer.alloc(0) : value]);
}

/** As CRIU writes it: two magics, a length, `mm_entry` with `vma_entry`s; all are private, and have no file. */
function mmImage(vmas: readonly (Range & { flags?: number; status?: number })[]): Buffer {
  const entries = vmas.map(({ start, end, flags = 0x22, status = 0x201 }) =>
    Buffer.concat([field(1, start), field(2, end), field(3, 0), field(5, 3), field(6, flags), field(7, status)]),
  );
  const mm = Buffer.concat([field(1, 0x1000), ...entries.map((entry) => field(14, entry))]);
  const head = Buffer.alloc(12);
  head.writeUInt32LE(mm.length, 8);
  return Buffer.concat([head, mm]);
}

/** @returns how many mappings it was to the kernel, and the first byte of each page ('.': zero) */
function arrive(
  { program, place }: { program: string; place: string },
  bytes: number,
  records: Buffer[],
  ...before: number[]
): string {
  writeFileSync(join(place, 'memory'), Buffer.concat(records));
  const env = {
    LD_PRELOAD: projectFile('addon/build/Release/criu-memory.node'),
    HOMEPROXY_MEMORY: place,
    HOMEPROXY_MEMORY_LIMIT: String(bytes),
  };
  return execFileSync(program, [place, ...[bytes, ...before].map(String)], { encoding: 'utf8', env });
}

test('is one mapping, as the process had it, whatever lay there when its parts came', (world) => {
  const [first, middle, last, whole] = [pages(0, 4), pages(4, 8), pages(8, 12), pages(0, 12)];
  const kept = [pages(0, 2), pages(3, 12)];
  const records = [
    bareRecords('area', [first, last]), // two mappings, each written, so that the kernel never makes them one
    ...content('a', first),
    ...content('c', last),
    bareRecords('area', [whole]), // and now one that lies over both
    ...content('b', middle),
    Buffer.concat([bareRecords('mapping', [whole]), bareRecords('keep', kept), signRecord('end')]),
  ];
  assert.is(arrive(world, 12 * PAGE_BYTES, records), '1 aa.abbbbcccc');
});

test('is what came, where it came in one piece', (world) => {
  const whole = pages(0, 6);
  const records = [
    bareRecords('area', [whole]),
    ...content('x', whole),
    Buffer.concat([bareRecords('mapping', [whole]), bareRecords('keep', [whole]), signRecord('end')]),
  ];
  assert.is(arrive(world, 6 * PAGE_BYTES, records), '1 xxxxxx');
});

const GROWS_DOWN = 0x100;
const SHARED = { flags: 0x21, status: 0x101 };
const [huge, far] = [pages(5, 5 + 1024), { start: START + 2 ** 32, end: START + 2 ** 32 + PAGE_BYTES }];
for (const [what, before, others] of [
  ['behind another', 1, [{ start: 2 ** 22, end: 2 ** 22 + PAGE_BYTES }]],
  [
    'behind a shared one',
    2,
    [
      { start: 2 ** 22, end: 2 ** 22 + 2 * PAGE_BYTES },
      { ...pages(3, 4), ...SHARED },
    ],
  ],
  ['behind one that grows downwards', 2, [{ start: 2 ** 22, end: 2 ** 22 + PAGE_BYTES, flags: 0x22 | GROWS_DOWN }]],
] as const) {
  test(`is moved by whole page tables where it lies ${what}`, (world) => {
    const image = join(world.place, 'mm-7.img');
    writeFileSync(image, mmImage([...others, huge, far]));
    const records = [
      bareRecords('area', [huge]),
      ...content('x', pages(5, 6)),
      Buffer.concat([bareRecords('mapping', [huge]), bareRecords('keep', [pages(5, 6)]), signRecord('end')]),
    ];
    assert.is(arrive(world, huge.end - huge.start, records, before, huge.start), 'alike\n');
    rmSync(image);
  });
}

for (const [what, image] of [
  ['ends early', mmImage([huge]).subarray(0, 30)],
  ['is of other mappings', mmImage([far])],
  ['is none', Buffer.from('no image at all, but as long as one')],
] as const) {
  test(`arrives with an image of its mappings that ${what}`, (world) => {
    writeFileSync(join(world.place, 'mm-7.img'), image);
    const whole = pages(0, 2);
    const last = [bareRecords('mapping', [whole]), bareRecords('keep', [whole]), signRecord('end')];
    const records = [bareRecords('area', [whole]), ...content('x', whole), Buffer.concat(last)];
    assert.is(arrive(world, 2 * PAGE_BYTES, records), '1 xx');
    rmSync(join(world.place, 'mm-7.img'));
  });
}

const [announced, more] = [pages(0, 4), pages(0, 5)];
const misplaced = { start: 2 ** 47 - PAGE_BYTES, end: 2 ** 47 + PAGE_BYTES };
const end = signRecord('end');
for (const [what, records] of [
  ['more pages than were announced', [bareRecords('area', [more]), ...content('x', more), end]],
  [
    'more pages than were announced, which only are to come',
    [bareRecords('area', [more]), bareRecords('dense', [more]), end],
  ],
  ['pages of no mapping', [bareRecords('area', [announced]), ...content('x', pages(4, 5)), end]],
  ['a mapping outside the address space of programs', [bareRecords('area', [misplaced]), end]],
  ['half a page', [bareRecords('area', [{ start: START, end: START + PAGE_BYTES / 2 }]), end]],
  ['mappings that overlap', [bareRecords('mapping', [announced, pages(2, 6)]), end]],
  ['pages to be kept of no mapping', [bareRecords('mapping', [announced]), bareRecords('keep', [pages(4, 5)]), end]],
  ['no end', [bareRecords('area', [announced]), ...content('x', announced)]],
  ['pages that are cut off', [bareRecords('area', [announced]), ...content('x', announced).slice(0, 1)]],
] as const) {
  test(`is refused when it is ${what}`, (world) => {
    try {
      arrive(world, announced.end - announced.start, [...records]);
      assert.unreachable('it was taken');
    } catch (error) {
      assert.is((error as { status?: number }).status, 1);
    }
  });
}

test.run();
