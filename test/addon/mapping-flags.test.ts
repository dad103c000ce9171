import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as assert from 'uvu/assert';
import { MappingFlags } from '../../cli/memory/mapping-flags.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { folder } from './private-namespaces.js';

const test = suite('flags of mappings, without smaps');

/** Has three mappings that are not neighbours, and advises the kernel of them as it is told, line by line. */
const SUBJECT = `
import mmap, os, sys
SIZE = 1 << 20
areas = []
for _ in range(3):
    areas.append(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    areas.append(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ))
areas[0].madvise(mmap.MADV_DONTFORK)
print('ready', flush=True)
for line in sys.stdin:
    number, advice = line.split()
    areas[2 * int(number)].madvise(getattr(mmap, 'MADV_' + advice))
    print('done', flush=True)
`;

interface Subject {
  readonly pid: number;
  tell(what: string): Promise<void>;
}

const children: ChildProcess[] = [];

test.after.each(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

async function start(): Promise<Subject> {
  const child = spawn('python3', ['-c', SUBJECT], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  assert.is((await lines.next()).value, 'ready');
  return {
    pid: child.pid ?? 0,
    async tell(what) {
      child.stdin.write(`${what}\n`);
      assert.is((await lines.next()).value, 'done');
    },
  };
}

/** The same from smaps. */
function truth(pid: number): string {
  const lines: string[] = [];
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) lines.push(`${hex(range[1])}-${hex(range[2])}`);
    else if (line.startsWith('VmFlags:')) lines.push(`${lines.pop()} ${line.slice(9).trim()}\n`);
  }
  return lines.filter((line) => !line.startsWith('ffff')).join('');
}

function hex(padded = ''): string {
  return BigInt(`0x${padded}`).toString(16);
}

test('are those of smaps, and those of now', async () => {
  const { pid, tell } = await start();
  const flags = await MappingFlags.learn(pid);
  assert.is(await flags.describe(), truth(pid));
  await tell('0 DOFORK');
  await tell('1 DONTFORK');
  const now = await flags.describe();
  assert.is(now, truth(pid));
  assert.match(now ?? '', / dc /);
  flags.close();
});

test('are not known where one mapping has others than any had', async () => {
  const { pid, tell } = await start();
  const flags = await MappingFlags.learn(pid);
  await tell('2 DONTDUMP');
  assert.is(await flags.describe(), undefined);
  await tell('2 DODUMP');
  assert.is(await flags.describe(), truth(pid));
  flags.close();
});

test('are given to CRIU in place of smaps, where they are of the mappings that there are', async () => {
  const { pid } = await start();
  const place = mkdtempSync(join(folder, 'flags-'));
  const read = (): string => {
    const program = `import os, sys; sys.stdout.write(open(os.open('smaps', os.O_RDONLY, dir_fd=os.open('/proc/${pid}', os.O_RDONLY))).read())`;
    const env = {
      ...process.env,
      LD_PRELOAD: projectFile('addon/build/Release/criu-memory.node'),
      HOMEPROXY_MEMORY: place,
    };
    return execFileSync('python3', ['-c', program], { encoding: 'utf8', env });
  };
  const heads = (text: string): string[] => {
    const found = text.split('\n').filter((line) => /^[0-9a-f]+-|^VmFlags/.test(line));
    return found.map((line) => line.trimEnd());
  };
  const known = truth(pid);
  const [, ...fewer] = known.split('\n');
  const other = known.replace(/^[0-9a-f]+/, '1000');
  for (const told of [undefined, '', fewer.join('\n'), `${known}1000-2000 rd\n`, known.slice(0, -1), other]) {
    if (told !== undefined) writeFileSync(join(place, 'mapping-flags'), told);
    assert.match(read(), /^Rss:/m, 'it reads all of smaps');
  }
  const smaps = readFileSync(`/proc/${pid}/smaps`, 'utf8');
  writeFileSync(join(place, 'mapping-flags'), known);
  const given = read();
  assert.not.match(given, /^Rss:/m);
  const ours = heads(smaps);
  while (ours.at(-2)?.startsWith('ffff') === true) ours.pop(); // the flags of [vsyscall] say nothing
  assert.equal(heads(given), ours);
  rmSync(place, { recursive: true });
});

test.run();
