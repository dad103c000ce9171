import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { criuHooksLibrary } from '../../addon/lib/index.js';
import { STREAMS, StreamFile, streamRecords } from '../../cli/checkpoint/stream-file.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { folder } from './private-namespaces.js';

const test = suite<{ program: string; place: string }>('connections that CRIU dumps and restores');

test.before((world) => {
  world.place = mkdtempSync(join(folder, 'dumped-'));
  world.program = join(world.place, 'dumping');
  execFileSync('clang', ['-O1', '-o', world.program, projectFile('test/addon/fixtures/dumping.c')]);
});
test.after(({ place }) => rmSync(place, { recursive: true }));

function act({ program, place }: { program: string; place: string }, cwd: string, words: readonly string[]): string {
  const env = { LD_PRELOAD: criuHooksLibrary() };
  return execFileSync(program, words, { encoding: 'utf8', env, cwd: join(place, cwd) });
}

function emptyFolder({ place }: { place: string }): string {
  return mkdtempSync(join(place, 'images-')).slice(place.length + 1);
}

test('what CRIU writes of connections is in one file, and it reads each from there', (world) => {
  const cwd = emptyFolder(world);
  const images = [
    ['1a', 150],
    ['2b', 1],
    ['ffffffff', 3_000_001],
    ['3', 70_000],
  ] as const;
  act(world, cwd, ['dump', ...images.flatMap(([inode, bytes]) => [inode, String(bytes)])]);
  assert.equal(readdirSync(join(world.place, cwd)).sort(), ['hooks.log', STREAMS]);
  const inodes = [...new Set([...streamRecords(join(world.place, cwd))].map(({ inode }) => inode.toString(16)))];
  assert.equal(inodes, ['1a', '2b', 'ffffffff', '3']);
  const read = act(world, cwd, ['restore', '3', '1a', '4c', 'ffffffff', '2b', '1a']).trimEnd().split('\n');
  assert.equal(read, ['70000 0', '150 0', 'none', '3000001 0', '1 0', '150 0']);
});

test('ten thousand connections, as they came from another node', (world) => {
  const cwd = emptyFolder(world);
  const inodes = Array.from(
    { length: 10_000 },
    (_none, index) => (((7919 * index + 1) % 65_536) * 65_537) % 0xffff_ffff,
  );
  const file = new StreamFile(join(world.place, cwd));
  for (const inode of new Set(inodes)) {
    file.begin(inode);
    file.add(Buffer.alloc(150, inode.toString(16)[0]));
  }
  file.finish();
  const some = inodes.filter((_inode, index) => index % 9 === 0).map((inode) => inode.toString(16));
  const read = act(world, cwd, ['restore', ...some])
    .trimEnd()
    .split('\n');
  assert.equal(new Set(read), new Set(['150 0']));
});

test('an image that is cut short, or that nobody wrote, is none', (world) => {
  const cwd = emptyFolder(world);
  act(world, cwd, ['dump', '1', '100', '2', '100', '3', '100']);
  truncateSync(join(world.place, cwd, STREAMS), 2 * 116 + 58 + 57); // the second half of the third is not whole
  assert.equal(act(world, cwd, ['restore', '1', '2', '3', '4']), '100 0\n100 0\n50 0\nnone\n');
  truncateSync(join(world.place, cwd, STREAMS), 0);
  assert.equal(act(world, cwd, ['restore', '1']), 'none\n');
});

test('without room for them the dump fails, and nobody is asked whether it may go on', (world) => {
  const cwd = emptyFolder(world);
  const small = join(world.place, cwd);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16k', 'none', small]);
  try {
    assert.throws(
      () => act(world, cwd, ['dump', '1', '1000000']),
      ({ status }: { status: number }) => status === 2,
    ); // as soon as CRIU writes it
    act(world, cwd, ['dump', '1', '100000']); // in the end: a veto
    assert.equal(readdirSync(small), [STREAMS]);
  } finally {
    execFileSync('umount', [small]);
  }
});

test('a socket in an epoll set is the one that was put there, or is not: of thousands that takes a fraction of what the kernel takes', (world) => {
  const tookMs = [criuHooksLibrary(), ''].map((library) => {
    const began = performance.now();
    const env = { LD_PRELOAD: library };
    assert.is(execFileSync(world.program, ['epoll', '10000'], { encoding: 'utf8', env }), '0 3\n');
    return performance.now() - began;
  });
  const [ours = 0, kernels = 0] = tookMs;
  assert.ok(2 * ours < kernels, `${ours} ms, ${kernels} ms without`);
});

test.run();
