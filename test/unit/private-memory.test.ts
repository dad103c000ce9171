// limit: 120 s
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { PAGE_BYTES, parsePrivateAreas, readPrivateMemory } from '../../cli/checkpoint/private-memory.js';
import { suite } from '../suite.js';
import { endSubjects, remove, Subject } from './private-world.js';

const test = suite<{ folder: string }>('private memory of a running process');
const PLENTY = 1 << 30;
/** More than one read takes at once. */
const PAGES = 700;

/**
 * Every page of it is `<kind><number>` over and over; it says where its areas are. It writes half a page at a time: what Python has
 * made to write from stays in its heap, and a whole page there, when it begins where a page does, would be found as one more.
 */
const SOURCE = `
import ctypes, mmap, signal, sys
PAGE = 4096
HALF = PAGE // 2
def write(area, page, kind, number):
    for at in (page * PAGE, page * PAGE + HALF):
        area[at:at + HALF] = b'%s%08d' % (kind, number) * (HALF // 16)
def fill(area, kind, numbers):
    for index, number in enumerate(numbers):
        write(area, index, kind, number)
def anonymous(pages, flag):
    area = mmap.mmap(-1, pages * PAGE, flags=flag | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return area
one = anonymous(${PAGES}, mmap.MAP_PRIVATE)
fill(one, b'private-', range(${PAGES}))
other = anonymous(10, mmap.MAP_PRIVATE)
fill(other, b'private-', range(1000, 1010))
shared = anonymous(10, mmap.MAP_SHARED)
fill(shared, b'shared--', range(10))
untouched = anonymous(1 << 16, mmap.MAP_PRIVATE)
with open(sys.argv[1], 'r+b') as file:
    copy = mmap.mmap(file.fileno(), 2 * PAGE, access=mmap.ACCESS_COPY)
copy[0]
write(copy, 1, b'written-', 1)
print(*(ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in (one, other)), flush=True)
signal.pause()
`;

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'private-memory-'));
});
test.after(({ folder }) => {
  endSubjects();
  remove(folder);
});

function content(kind: string, number: number): string {
  return `${kind}${String(number).padStart(8, '0')}`.repeat(PAGE_BYTES / 16);
}

/** The pages of ours in a copy, by kind, in the order in which they are there. */
function pagesIn(copy: Buffer): Map<string, number[]> {
  assert.is(copy.length % PAGE_BYTES, 0, 'whole pages');
  const found = new Map<string, number[]>();
  for (let at = 0; at < copy.length; at += PAGE_BYTES) {
    const head = /^(private-|shared--|written-|file----)(\d{8})$/.exec(copy.toString('latin1', at, at + 16));
    const [, kind = '', digits = ''] = head ?? [];
    if (copy.toString('latin1', at, at + PAGE_BYTES) !== content(kind, Number(digits))) continue;
    found.set(kind, [...(found.get(kind) ?? []), Number(digits)]);
  }
  return found;
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

async function start(folder: string): Promise<{ subject: Subject; addresses: number[] }> {
  const file = join(folder, 'mapped');
  writeFileSync(file, content('file----', 0) + content('file----', 1));
  const subject = Subject.speaking(SOURCE, file);
  const addresses = (await subject.says()).split(' ').map(Number);
  return { subject, addresses };
}

test('the copy has the pages that only the process has, by ascending address, and no others', async ({ folder }) => {
  const { subject, addresses } = await start(folder);
  const copy = await readPrivateMemory(subject.pid, PLENTY);
  const [one = 0, other = 0] = addresses;
  const [first, second] = [range(0, PAGES), range(1000, 1010)];
  const found = pagesIn(copy);
  assert.equal(found.get('private-'), one < other ? [...first, ...second] : [...second, ...first]);
  assert.equal(found.get('written-'), [1], 'a page of a file that it has changed is its own');
  assert.is(found.get('file----'), undefined, 'one that it only reads is not');
  assert.is(found.get('shared--'), undefined);
  assert.ok(copy.length < PAGE_BYTES << 16, 'without what it has never touched');
  subject.kill();
});

test('memory beyond the limit gives nothing, not a part', async ({ folder }) => {
  const { subject } = await start(folder);
  assert.is((await readPrivateMemory(subject.pid, PAGES * PAGE_BYTES)).length, 0);
  assert.is((await readPrivateMemory(subject.pid, 0)).length, 0);
  subject.kill();
});

test('a process that has ended gives nothing', async () => {
  const subject = Subject.speaking("print('ready', flush=True)\nimport signal\nsignal.pause()");
  await subject.says();
  const { pid } = subject;
  subject.kill();
  await subject.ended();
  assert.is((await readPrivateMemory(pid, PLENTY)).length, 0);
});

test('a process that has ended, and that nobody has waited for, gives nothing', async () => {
  const subject = Subject.speaking(`
import os, signal
child = os.fork()
if child == 0:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(child, flush=True)
signal.pause()
`);
  assert.is((await readPrivateMemory(Number(await subject.says()), PLENTY)).length, 0);
  subject.kill();
});

const MAPS = `55d0c8a00000-55d0c8a02000 r--p 00000000 08:01 1311        /usr/bin/a program
55d0c8a02000-55d0c8a03000 rw-p 00002000 08:01 1311        /usr/bin/a program
55d0c9000000-55d0c9021000 rw-p 00000000 00:00 0           [heap]
7f0000000000-7f0040000000 rw-p 00000000 00:00 0 
7f1000000000-7f1040001000 ---p 00000000 00:00 0 
7f2000000000-7f2000001000 rw-s 00000000 00:01 2048        /memfd:shared (deleted)
7f2000001000-7f2000002000 r--s 00000000 08:01 77          /a file
7f3000000000-7f3000001000 rw-p 00000000 00:00 0 
7ffc11000000-7ffc11021000 rw-p 00000000 00:00 0           [stack]
7ffc11100000-7ffc11104000 r--p 00000000 00:00 0           [vvar]
7ffc11104000-7ffc11106000 r--p 00000000 00:00 0           [vvar_vclock]
7ffc11106000-7ffc11108000 r-xp 00000000 00:00 0           [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]
`;

test('private areas are those of one gibibyte at most that are neither shared nor of the kernel', () => {
  assert.equal(parsePrivateAreas(MAPS), [
    { from: 0x55d0c8a00000, to: 0x55d0c8a02000 },
    { from: 0x55d0c8a02000, to: 0x55d0c8a03000 },
    { from: 0x55d0c9000000, to: 0x55d0c9021000 },
    { from: 0x7f0000000000, to: 0x7f0040000000 },
    { from: 0x7f3000000000, to: 0x7f3000001000 },
    { from: 0x7ffc11000000, to: 0x7ffc11021000 },
  ]);
});

test('a file that is called like an area of the kernel belongs to the process', () => {
  const line = '7f3000000000-7f3000001000 rw-p 00000000 08:01 1311   /tmp/[vdso]';
  assert.equal(parsePrivateAreas(line), [{ from: 0x7f3000000000, to: 0x7f3000001000 }]);
});

test('no text has no areas', () => {
  assert.equal(parsePrivateAreas(''), []);
});

test.run();
