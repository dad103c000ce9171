import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { isLarge } from '../../cli/memory/departing.js';
import { refusePostCopy } from '../../cli/memory/later-refusals.js';
import { ownMappings } from '../../cli/memory/mappings.js';
import { makeParent, pointToParent } from '../../cli/memory/page-map.js';
import { flatten, intersect, subtract, unflatten, union } from '../../cli/memory/records.js';
import { suite } from '../suite.js';

const test = suite<{ folder: string }>('large memory, which CRIU does not carry');

test.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'homeproxy-memory-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

test('only large mappings that are private, anonymous, readable and do not grow by themselves', () => {
  const maps = [
    '00400000-00900000 r-xp 00000000 fe:00 1234                               /usr/bin/large',
    '5600a0000000-5600b0000000 rw-p 00000000 00:00 0                          [heap]',
    '7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ',
    '7f0000200000-7f00002ff000 rw-p 00000000 00:00 0 ',
    '7f0010000000-7f0020000000 rw-s 00000000 00:01 77                         /dev/zero (deleted)',
    '7f0030000000-7f0040000000 ---p 00000000 00:00 0 ',
    '7f0050000000-7f0060000000 rw-p 00000000 00:00 0                          [anon:arena]',
    '7f0070000000-7f0080000000 rwxp 00000000 00:00 0 ',
    '7f0090000000-7f00a0000000 rw-p 00000000 00:10 5                          /anon_hugepage (deleted)',
    '7ffc00000000-7ffc10000000 rw-p 00000000 00:00 0                          [stack]',
    '7ffd00000000-7ffd00200000 r--p 00000000 00:00 0                          [vvar]',
    '',
  ].join('\n');
  assert.equal(
    ownMappings(maps).map(({ start }) => start.toString(16)),
    ['5600a0000000', '7f0000000000', '7f0050000000', '7f0070000000'],
  );
});

test('CRIU carries a process with little memory of its own, and a tree; what an older node describes by its size', () => {
  const alone = { pids: [7], residentBytes: 12 << 20 };
  assert.is(isLarge({ ...alone, anonymousBytes: 10 << 20 }), true);
  assert.is(isLarge({ ...alone, anonymousBytes: 3 << 20 }), false);
  assert.is(isLarge({ ...alone, pids: [7, 8], anonymousBytes: 10 << 20 }), false);
  assert.is(isLarge(alone), false);
  assert.is(isLarge({ ...alone, residentBytes: 20 << 20 }), true);
});

test('ranges: what two lists share, and the way to the addon and back', () => {
  const a = [
    { start: 0, end: 10 },
    { start: 10, end: 20 },
    { start: 30, end: 40 },
  ];
  assert.equal(intersect(a, [{ start: 5, end: 35 }]), [
    { start: 5, end: 10 },
    { start: 10, end: 20 },
    { start: 30, end: 35 },
  ]);
  assert.equal(intersect(a, []), []);
  const high = [{ start: 0x7fff_ffff_e000, end: 0x7fff_ffff_f000 }];
  assert.equal(unflatten(flatten(high)), high);
});

test('ranges: what the first has and the second has not', () => {
  const a = [
    { start: 0, end: 10 },
    { start: 20, end: 30 },
    { start: 40, end: 50 },
  ];
  const taken = [
    { start: 2, end: 4 },
    { start: 8, end: 22 },
    { start: 25, end: 26 },
    { start: 45, end: 90 },
  ];
  assert.equal(subtract(a, taken), [
    { start: 0, end: 2 },
    { start: 4, end: 8 },
    { start: 22, end: 25 },
    { start: 26, end: 30 },
    { start: 40, end: 45 },
  ]);
  assert.equal(subtract(a, []), a);
  assert.equal(subtract(a, [{ start: 0, end: 50 }]), []);
});

/** Has one page with an advice, or a lock, and says when. */
const ADVISED = `
import ctypes, mmap, sys
area = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if sys.argv[1] == 'wipe': area.madvise(18)
if sys.argv[1] == 'lock': assert ctypes.CDLL(None).mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), ctypes.c_size_t(4096)) == 0
print('ready', flush=True)
sys.stdin.read()
`;

for (const [how, words] of [
  ['plain', undefined],
  ['wipe', /MADV_WIPEONFORK/],
  ['lock', /mlock/],
] as const) {
  test(`memory may follow a process: ${how}`, async () => {
    const child = spawn('python3', ['-c', ADVISED, how], { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    if (words === undefined) refusePostCopy(child.pid ?? 0);
    else assert.throws(() => refusePostCopy(child.pid ?? 0), words);
    child.stdin.end();
    await once(child, 'exit');
  });
}

/** As CRIU writes it: address, pages (older field), flags, pages. */
function entry(address: number, pages: number, flags: number): Buffer {
  const varint = (value: number): number[] =>
    value < 128 ? [value] : [(value % 128) | 0x80, ...varint(Math.floor(value / 128))];
  const body = [0x08, ...varint(address), 0x10, ...varint(pages), 0x20, flags, 0x28, ...varint(pages)];
  return Buffer.from([body.length, 0, 0, 0, ...body]);
}
const HEAD = Buffer.from([0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2, 0, 0, 0, 0x08, 0x07]);

test('a page map gets one entry of the parent for each mapping, in its place; the parent has just those', ({
  folder,
}) => {
  const low = entry(0x400000, 3, 4);
  const high = entry(0x7ffc00000000, 200, 4);
  writeFileSync(join(folder, 'pagemap-80.img'), Buffer.concat([HEAD, low, high]));
  writeFileSync(join(folder, 'pagemap-shmem-3.img'), '');
  pointToParent(folder, [
    { start: 0x5600a0000000, end: 0x5600b0000000 },
    { start: 0x7f0000000000, end: 0x7f0000100000 },
  ]);
  const middle = [entry(0x5600a0000000, 1, 1), entry(0x7f0000000000, 1, 1)];
  assert.equal(readFileSync(join(folder, 'pagemap-80.img')), Buffer.concat([HEAD, low, ...middle, high]));
  assert.is(makeParent(folder), true);
  assert.equal(readdirSync(join(folder, 'parent')).sort(), ['pagemap-80.img', 'pages-1.img']);
  const own = Buffer.concat([HEAD.subarray(0, 12), Buffer.from([0x08, 0x01])]);
  const there = [entry(0x5600a0000000, 1, 4), entry(0x7f0000000000, 1, 4)];
  assert.equal(readFileSync(join(folder, 'parent', 'pagemap-80.img')), Buffer.concat([own, ...there]));
});

test('nothing is changed or made when CRIU carries all', ({ folder }) => {
  const image = Buffer.concat([HEAD, entry(0x400000, 3, 4)]);
  writeFileSync(join(folder, 'pagemap-80.img'), image);
  pointToParent(folder, []);
  assert.is(makeParent(folder), false);
  assert.equal(readdirSync(folder), ['pagemap-80.img']);
  assert.equal(readFileSync(join(folder, 'pagemap-80.img')), image);
});

test('pages that CRIU has dumped of a mapping that is not its own are an error', ({ folder }) => {
  writeFileSync(join(folder, 'pagemap-80.img'), Buffer.concat([HEAD, entry(0x7f00000ff000, 2, 4)]));
  assert.throws(() => pointToParent(folder, [{ start: 0x7f0000000000, end: 0x7f0000100000 }]), /not its own/);
});

test('parts of an address space are put together, and taken from each other', () => {
  const range = (start: number, end: number): { start: number; end: number } => ({ start, end });
  assert.equal(union([range(5, 7), range(1, 3), range(2, 4), range(7, 9), range(1, 2)]), [range(1, 4), range(5, 9)]);
});

test.run();
