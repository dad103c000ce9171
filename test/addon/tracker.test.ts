// SPDX-License-Identifier: Apache-2.0
// limit: 60 s
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { type BpfError, scanLast, scanWritten, trackWrites } from '../../addon/lib/index.js';
import { DepartingMemory } from '../../cli/memory/departing.js';
import { ownMappings } from '../../cli/memory/mappings.js';
import { flatten } from '../../cli/memory/records.js';
import { suite } from '../suite.js';
import { folder } from './private-namespaces.js';

const test = suite('write tracking');
const PAGE = 4096;
const PAGES = 40_000;
const pids: number[] = [];

/** Does to its memory what it is told, line by line, and says so. */
const SUBJECT = `
import ctypes, mmap, os, sys
PAGE = 4096
area = mmap.mmap(-1, ${PAGES} * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
print(os.getpid(), flush=True)
sys.stdin.readline()
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
for line in sys.stdin:
    verb, *numbers = line.split()
    for number in map(int, numbers):
        if verb == 'write': area[number * PAGE] = (area[number * PAGE] + 1) % 256
        if verb == 'read': area[number * PAGE]
        if verb == 'forget': area.madvise(mmap.MADV_DONTNEED, number * PAGE, PAGE)
    if verb == 'every':
        for number in range(0, ${PAGES}, 2): area[number * PAGE] = 1
    if verb == 'huge':
        for number in range(${PAGES}): area[number * PAGE] = 1
        area.madvise(mmap.MADV_HUGEPAGE)
        area.madvise(25) # MADV_COLLAPSE
    if verb == 'child':
        if os.fork() == 0:
            for number in range(10): area[number * PAGE] = 77
            os._exit(0)
        os.wait()
    print('done', flush=True)
`;

test.after.each(() => {
  for (const pid of pids.splice(0)) process.kill(pid, 'SIGKILL');
});

interface Stranger {
  readonly pid: number;
  readonly input: NodeJS.WritableStream;
  line(): Promise<string>;
}

/** A process that is not our child: Node waits for those. The first that it says is its pid. */
async function start(command: string, ...parameters: string[]): Promise<Stranger> {
  const between = ['-c', 'exec 3<&0; "$@" <&3 3<&- & exec 3<&- <&-; wait', 'sh', command, ...parameters];
  const child = spawn('sh', between, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const line = async (): Promise<string> => (await lines.next()).value ?? 'nothing more';
  const pid = Number(await line());
  pids.push(pid);
  return { pid, input: child.stdin, line };
}

interface Subject {
  readonly pid: number;
  readonly area: BigUint64Array;
  tell(what: string): Promise<void>;
  /** Numbers of the pages in ranges. */
  pages(ranges: BigUint64Array): number[];
}

async function subject(): Promise<Subject> {
  const { pid, input, line } = await start('python3', '-c', SUBJECT);
  input.write('where?\n');
  const address = Number(await line());
  return {
    pid,
    area: BigUint64Array.of(BigInt(address), BigInt(address + PAGES * PAGE)),
    async tell(what) {
      input.write(`${what}\n`);
      assert.is(await line(), 'done');
    },
    pages(ranges) {
      const numbers: number[] = [];
      for (let at = 0; at < ranges.length; at += 2) {
        for (let page = Number(ranges[at]); page < Number(ranges[at + 1]); page += PAGE) {
          numbers.push((page - address) / PAGE);
        }
      }
      return numbers;
    },
  };
}

test('what was written since the last scan, exactly, and first all that is there', async () => {
  const { pid, area, tell, pages } = await subject();
  await tell('write 1 2 3 39999');
  await tell('read 10 11');
  const tracker = await trackWrites(pid);
  const scan = async (): Promise<number[]> => pages(await scanWritten(tracker, pid, area));
  assert.equal(await scan(), [1, 2, 3, 39999]);
  assert.equal(await scan(), []);
  await tell('write 2 500 39999');
  assert.equal(await scan(), [2, 500, 39999]);
  await tell('read 1 2 3 600');
  assert.equal(await scan(), [], 'reading is no writing, and a page of zeros is none');
  await tell('write 600');
  await tell('forget 2 500');
  assert.equal(await scan(), [600]);
  await tell('write 500');
  assert.equal(await scan(), [500]);
  await tell('child');
  assert.equal(await scan(), [], "a child's writes are its own");
  await tell('write 3');
  const { written, present } = await scanLast(pid, area);
  assert.equal(pages(written), [3]);
  assert.equal(pages(present), [1, 3, 500, 600, 39999]);
  closeSync(tracker);
});

test('more ranges than one answer of the kernel holds, in order and none twice', async () => {
  const { pid, area, tell, pages } = await subject();
  const every = Array.from({ length: PAGES / 2 }, (_, index) => 2 * index);
  await tell('every');
  const tracker = await trackWrites(pid);
  assert.equal(pages(await scanWritten(tracker, pid, area)), every);
  await tell('every');
  assert.equal(pages(await scanWritten(tracker, pid, area)), every);
  await tell('write 2 39998');
  const { written, present } = await scanLast(pid, area);
  assert.equal(pages(written), [2, 39998]);
  assert.equal(pages(present), every);
  closeSync(tracker);
});

test('a mapping that was not asked about before is written as a whole', async () => {
  const { pid, area, tell, pages } = await subject();
  const [start = 0n, end = 0n] = area;
  const half = start + BigInt((PAGES / 2) * PAGE);
  await tell('write 1 30000 30001');
  const tracker = await trackWrites(pid);
  assert.equal(pages(await scanWritten(tracker, pid, BigUint64Array.of(start, half))), [1]);
  await tell('write 30001');
  const { written, present } = await scanLast(pid, BigUint64Array.of(start, half, half, end));
  assert.equal(pages(written), [30000, 30001]);
  assert.equal(pages(present), [1, 30000, 30001]);
  closeSync(tracker);
});

test('huge pages are tracked page by page', async () => {
  const { pid, area, tell, pages } = await subject();
  await tell('huge');
  const tracker = await trackWrites(pid);
  const huge = (): number =>
    Number(/^AnonHugePages: +(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]);
  const before = huge();
  assert.ok(before > 0, 'it has some');
  await scanWritten(tracker, pid, area);
  assert.is(huge(), before, 'and keeps those that are not written');
  await tell('write 5000 20000');
  assert.equal(pages(await scanWritten(tracker, pid, area)), [5000, 20000]);
  await tell('write 5000 5001');
  await tell('forget 3 30000');
  const { written, present } = await scanLast(pid, area);
  assert.equal(pages(written), [5000, 5001]);
  assert.is(pages(present).length, PAGES - 2);
  assert.not.ok(pages(present).some((page) => page === 3 || page === 30000));
  closeSync(tracker);
});

test('nothing is left in the process', async () => {
  const { pid, area, tell } = await subject();
  await tell('write 1 2 3');
  const descriptors = (): string[] => {
    const names = readdirSync(`/proc/${pid}/fd`);
    return names.map((name) => `${name} ${readlinkSync(`/proc/${pid}/fd/${name}`)}`);
  };
  const flags = (): string[] => readFileSync(`/proc/${pid}/smaps`, 'utf8').match(/^VmFlags:.*$/gm) ?? [];
  const before = [descriptors(), flags()];
  const tracker = await trackWrites(pid);
  await scanWritten(tracker, pid, area);
  assert.equal(descriptors(), before[0]);
  assert.ok(flags().some((each) => / uw /.test(each)));
  closeSync(tracker);
  assert.equal([descriptors(), flags()], before);
  assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^TracerPid:\t0$/m);
});

for (const how of ['sleeps and polls', 'reads']) {
  test(`a process that ${how} does not notice it`, async () => {
    const program = join(folder, 'patient');
    const source = fileURLToPath(new URL('../../../test/addon/fixtures/patient.c', import.meta.url));
    execFileSync('clang', ['-O1', '-pthread', '-o', program, source]);
    const { pid, input, line } = await start(program, ...(how === 'reads' ? [] : ['sleep']));
    for (let time = 0; time < 100; time++) closeSync(await trackWrites(pid));
    input.end();
    assert.is(await line(), 'whole');
    pids.pop();
  });
}

test('a block that grows and wanders meanwhile is never cut in two', async () => {
  const program = join(folder, 'growing');
  const source = fileURLToPath(new URL('../../../test/addon/fixtures/growing.c', import.meta.url));
  execFileSync('clang', ['-O1', '-o', program, source]);
  const { pid, input, line } = await start(program);
  let tracked = 0;
  for (let time = 0; time < 300; time++) {
    const tracker = await trackWrites(pid);
    const mappings = flatten(ownMappings(readFileSync(`/proc/${pid}/maps`, 'utf8')));
    await scanWritten(tracker, pid, mappings);
    if (/^VmFlags:.* uw /m.test(readFileSync(`/proc/${pid}/smaps`, 'utf8'))) tracked++;
    closeSync(tracker);
  }
  input.end();
  assert.is(await line(), 'whole');
  pids.pop();
  assert.ok(tracked > 30, `tracked ${tracked} times`);
});

test('a block that comes back beside a tracked one hides no write to that', async () => {
  const program = join(folder, 'returning');
  const source = fileURLToPath(new URL('../../../test/addon/fixtures/returning.c', import.meta.url));
  execFileSync('clang', ['-O1', '-o', program, source]);
  const { pid, input, line } = await start(program);
  const tell = async (what: string): Promise<string> => {
    input.write(`${what}\n`);
    return await line();
  };
  const first = BigInt(await tell('where?'));
  const writes = BigUint64Array.of(first, first + BigInt(4 * PAGE));
  const tracker = await trackWrites(pid);
  const look = async (): Promise<BigUint64Array> =>
    await scanWritten(tracker, pid, flatten(ownMappings(readFileSync(`/proc/${pid}/maps`, 'utf8'))));
  await look();
  assert.is(await tell('return'), 'done');
  assert.is(await tell('write'), 'done'); // nobody tracks it now
  await look();
  assert.is(await tell('write'), 'done');
  assert.equal(await look(), writes);
  closeSync(tracker);
});

/** Borrows the process again and again. */
const BORROWER = `
import { closeSync } from 'node:fs';
const { trackWrites } = await import(process.argv[1]);
for (let first = true; ; first = false) {
  closeSync(await trackWrites(Number(process.argv[2])));
  if (first) process.stdout.write('began');
}
`;

test('a tracer that is killed at any moment leaves the process as it was', async () => {
  const { pid, tell } = await subject();
  const library = new URL('../../addon/lib/index.js', import.meta.url).href;
  for (let time = 0; time < 12; time++) {
    const borrower = spawn(process.execPath, ['--input-type=module', '-e', BORROWER, library, String(pid)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(borrower.stdout, 'data');
    borrower.kill('SIGKILL');
    await once(borrower, 'exit');
    await tell('write 1');
  }
});

test('a process under a seccomp filter that kills for unknown calls lives on', async () => {
  const { pid, input, line } = await start('python3', '-c', STRICT);
  closeSync(await trackWrites(pid));
  input.write('do you?\n');
  assert.is(await line(), 'lives');
  input.end();
  pids.pop();
});

/** Allows all but userfaultfd, for which it is killed: BPF that compares the number of the call. */
const STRICT = `
import ctypes, os, struct, sys
def statement(code, jt, jf, k): return struct.pack('HBBI', code, jt, jf, k)
program = statement(0x20, 0, 0, 0) + statement(0x15, 0, 1, 323) + statement(0x06, 0, 0, 0x80000000) + statement(0x06, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(program)
filter = struct.pack('HxxxxxxP', 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
print(os.getpid(), flush=True)
sys.stdin.readline()
print('lives', flush=True)
`;

test('one that is stopped, or has ended, is refused and left alone', async () => {
  const { pid, tell } = await subject();
  const refused = async (code: string): Promise<void> => {
    try {
      await trackWrites(pid);
      assert.unreachable();
    } catch (error) {
      assert.is((error as BpfError).code, code);
    }
  };
  const state = (): string => /^State:\t(.)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
  const stopped = async (): Promise<void> => {
    while (state() !== 'T') await new Promise((resolve) => setImmediate(resolve));
  };
  process.kill(pid, 'SIGSTOP');
  await stopped();
  await refused('EBUSY');
  await stopped(); // a moment after the tracer has gone
  process.kill(pid, 'SIGCONT');
  await tell('write 1');
  process.kill(pid, 'SIGKILL');
  pids.pop();
  while (existsSync(`/proc/${pid}`)) await new Promise((resolve) => setImmediate(resolve));
  await refused('ESRCH');
});

test('a first look that nothing comes of is let go of', async () => {
  const tracking = (): number =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[userfaultfd]';
      } catch {
        return false; // that of the folder itself
      }
    }).length;
  const { pid } = await subject();
  const before = tracking();
  const memory = DepartingMemory.of([pid], { pids: [pid], residentBytes: 100 << 20 });
  await memory?.track(pid);
  assert.is(tracking(), before + 1);
  memory?.giveUp(new Error('it stays'));
  await turn();
  assert.is(tracking(), before);
});

test.run();
