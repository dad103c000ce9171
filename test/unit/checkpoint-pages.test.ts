// limit: 120 s
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { findCriu, startDump } from '../../cli/checkpoint/criu.js';
import type { CriuSession } from '../../cli/checkpoint/criu-session.js';
import { createImageFolder, wipeImageFolder } from '../../cli/checkpoint/image-folder.js';
import { PagePipe } from '../../cli/checkpoint/page-pipe.js';
import { endRepair } from '../../cli/checkpoint/repair.js';
import type { Cgroup } from '../../cli/system/cgroup.js';
import { readText } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { Counter, closeCounters } from './counter.js';
import { endSubjects, enterPrivateWorld, testCgroup, until } from './private-world.js';

const entered = enterPrivateWorld({ processes: true });

interface World {
  criu: string;
  folder: string;
  cgroup: Cgroup;
}

const test = suite<World>('the memory that CRIU dumps into a pipe');

test.before((world) => {
  world.criu = findCriu('auto');
  world.folder = mkdtempSync(join(tmpdir(), 'checkpoint-pages-'));
  world.cgroup = testCgroup('pages');
});
test.after(({ folder }) => {
  closeCounters();
  endSubjects();
  wipeImageFolder(folder);
});

let folders = 0;

/** The function of the kernel in which CRIU waits: for a reader of what it writes, or for one that opens the FIFO at all. */
function whereItWaits({ run }: CriuSession): string {
  return readText(`/proc/${run.process?.pid}/wchan`) ?? '';
}

interface Dump {
  readonly session: CriuSession;
  readonly pages: PagePipe;
}

/** CRIU at its first hook. */
async function begun(world: World, counter: Counter): Promise<Dump> {
  const images = join(world.folder, `images-${folders++}`);
  createImageFolder(images);
  const pages = PagePipe.create(images);
  const session = await startDump({ criu: world.criu, pid: counter.pid, images });
  await session.reached('pre-dump');
  return { session, pages };
}

/** CRIU in the midst of its dump: the pipe is full, and nobody reads it. */
async function heldUp(world: World, counter: Counter): Promise<Dump> {
  const { session, pages } = await begun(world, counter);
  session.go('pre-dump');
  await until('CRIU waits for a reader', () => /pipe/.test(whereItWaits(session)));
  assert.not.ok(session.passed('post-dump'));
  return { session, pages };
}

test('CRIU killed while it waits for a reader: the process goes on, and so does its connection', async (world) => {
  const counter = await Counter.start(world);
  const { session, pages } = await heldUp(world, counter);
  counter.cgroup.setFrozen(true);
  process.kill(session.run.process?.pid ?? Number.NaN, 'SIGKILL');
  assert.is(await session.exited, null);
  pages.close();
  endRepair([counter.pid]);
  counter.cgroup.setFrozen(false);
  await counter.answers();
  counter.end();
});

test('when the reader dies in the midst of the dump, CRIU puts the process back by itself', async (world) => {
  const counter = await Counter.start(world);
  const { session, pages } = await heldUp(world, counter);
  pages.close();
  assert.not.equal(await session.exited, 0);
  assert.not.ok(session.passed('post-dump'));
  await counter.answers();
  counter.end();
});

test('when it dies before the dump, CRIU waits for the next one, which throws the pages away, and for its veto', async (world) => {
  const counter = await Counter.start(world);
  const { session, pages } = await begun(world, counter);
  pages.close();
  session.go('pre-dump');
  await until('CRIU waits for a reader', () => /partner/.test(whereItWaits(session)));
  PagePipe.adopt(session.run.images)?.discard();
  await session.reached('post-dump');
  session.stop();
  assert.not.equal(await session.exited, 0);
  await counter.answers();
  counter.end();
});

test('what comes out of the pipe is whole pages, more than the pipe holds', async (world) => {
  const counter = await Counter.start(world);
  const { session, pages } = await heldUp(world, counter);
  let bytes = 0;
  for await (const chunk of pages.chunks()) bytes += chunk.length;
  assert.ok(bytes > 1 << 20, `${bytes} bytes`);
  assert.is(bytes % 4096, 0);
  await session.reached('post-dump');
  session.stop();
  await session.exited;
  await counter.answers();
  counter.end();
});

if (!entered) skip(test, 'the memory that CRIU dumps into a pipe', 'needs root');
test.run();
