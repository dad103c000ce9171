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

/** @returns how many mappings it was to the kernel, and the first byte of each page ('.': zero) */
function arrive({ program, place }: { program: string; place: string }, bytes: number, records: Buffer[]): string {
  writeFileSync(join(place, 'memory'), Buffer.concat(records));
  const env = {
    LD_PRELOAD: projectFile('addon/build/Release/criu-memory.node'),
    HOMEPROXY_MEMORY: place,
    HOMEPROXY_MEMORY_LIMIT: String(bytes),
  };
  return execFileSync(program, [place, String(bytes)], { encoding: 'utf8', env });
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
