// limit: 180 s
import { closeSync, copyFileSync, existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { getsockopt, pidfdGetfd, pidfdOpen } from '../../addon/lib/index.js';
import { criuVersion, findCriu, startDump, startRestore } from '../../cli/checkpoint/criu.js';
import { type CriuRun, CriuSession, INVENTORY } from '../../cli/checkpoint/criu-session.js';
import { Gate } from '../../cli/checkpoint/gate.js';
import { createImageFolder, listImages, wipeImageFolder } from '../../cli/checkpoint/image-folder.js';
import { endRepair } from '../../cli/checkpoint/repair.js';
import { ExternalError } from '../../cli/errors.js';
import { Cgroup } from '../../cli/system/cgroup.js';
import { listProcesses, readCommandLine, readProcess } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { Counter, closeCounters, FAMILIES } from './counter.js';
import { endSubjects, enterPrivateWorld, testCgroup, until } from './private-world.js';

const entered = enterPrivateWorld({ processes: true });

interface World {
  criu: string;
  folder: string;
  cgroup: Cgroup;
}

const test = suite<World>('CRIU, held at its hooks');

let folders = 0;
function images({ folder }: World): string {
  const path = join(folder, `images-${folders++}`);
  createImageFolder(path);
  return path;
}

async function heldAtPostDump(world: World, counter: Counter): Promise<CriuSession> {
  const session = await startDump({ criu: world.criu, pid: counter.pid, images: images(world) });
  await session.reached('pre-dump');
  session.go('pre-dump');
  await session.reached('post-dump');
  return session;
}

/** What CRIU has left running with these images. */
function left({ images: folder }: CriuRun): string[] {
  return listProcesses()
    .filter((pid) => readProcess(pid)?.state !== 'Z')
    .map(readCommandLine)
    .filter((line) => line.includes(folder));
}

const nothingLeft = (run: CriuRun): Promise<void> =>
  until('nothing of CRIU is left', () => left(run).length === 0, 30_000);

const gone = (pid: number): boolean => readProcess(pid) === undefined || readProcess(pid)?.state === 'Z';

async function dumped(world: World, counter: Counter): Promise<string> {
  const session = await heldAtPostDump(world, counter);
  session.go('post-dump');
  assert.is(await session.exited, 0);
  await counter.subject.ended();
  return session.run.images;
}

/** All files but the inventory, as a stream of images brings them. */
function bring(from: string, to: string): Buffer {
  for (const { name } of listImages(from)) if (name !== INVENTORY) copyFileSync(join(from, name), join(to, name));
  return readFileSync(join(from, INVENTORY));
}

test.before((world) => {
  world.criu = findCriu('auto');
  world.folder = mkdtempSync(join(tmpdir(), 'checkpoint-criu-'));
  world.cgroup = testCgroup('criu');
});
test.after(({ folder }) => {
  closeCounters();
  endSubjects();
  wipeImageFolder(folder);
});

test('says its version', async ({ criu }) => {
  assert.match(await criuVersion(criu), /^\d+\.\d+/);
});

test('waits at pre-dump before it touches the process, and at the gate and at post-dump with it stopped', async (world) => {
  const counter = await Counter.start(world);
  const folder = images(world);
  const gate = Gate.create(folder);
  const session = await startDump({ criu: world.criu, pid: counter.pid, images: folder });
  await session.reached('pre-dump');
  assert.ok(session.passed('pre-dump'));
  assert.not.ok(session.passed('post-dump'));
  await counter.answers();
  session.go('post-dump'); // a word for a later hook is not for this one
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.not.ok(session.passed('post-dump'));
  session.go('pre-dump');
  await gate.reachedBy(session);
  assert.is(readProcess(counter.pid)?.state, 't');
  assert.not.ok(session.passed('post-dump'));
  gate.pass(new BigUint64Array());
  await session.reached('post-dump');
  assert.is(readProcess(counter.pid)?.state, 't');
  session.stop();
  assert.not.equal(await session.exited, 0);
  await counter.answers();
  await nothingLeft(session.run);
  counter.end();
});

test('a gate that nobody will answer at fails the dump, and the process goes on', async (world) => {
  const counter = await Counter.start(world);
  const folder = images(world);
  const gate = Gate.create(folder);
  const session = await startDump({ criu: world.criu, pid: counter.pid, images: folder });
  session.go('pre-dump');
  await gate.reachedBy(session);
  gate.close();
  assert.not.equal(await session.exited, 0);
  assert.not.ok(session.passed('post-dump'));
  await counter.answers();
  await nothingLeft(session.run);
  counter.end();
});

test('a veto at pre-dump leaves the process alone', async (world) => {
  const counter = await Counter.start(world);
  const session = await startDump({ criu: world.criu, pid: counter.pid, images: images(world) });
  await session.reached('pre-dump');
  session.stop();
  assert.not.equal(await session.exited, 0);
  session.go('pre-dump'); // a word that comes late hurts nobody
  assert.not.ok(session.passed('post-dump'));
  await counter.answers();
  counter.end();
});

for (const family of FAMILIES) {
  test(`a restore waits for its inventory, then at post-restore, and what it restored goes on with its connection: ${family.words}`, async (world) => {
    const counter = await Counter.start(world, family);
    const from = await dumped(world, counter);
    assert.ok(gone(counter.pid));
    const to = images(world);
    const session = await startRestore({
      criu: world.criu,
      images: to,
      cgroupProcs: `${counter.cgroup.path}/cgroup.procs`,
    });
    const inventory = bring(from, to);
    await new Promise((resolve) => setTimeout(resolve, 150));
    assert.ok(gone(counter.pid), 'nothing is restored without the inventory');
    assert.not.ok(session.passed('post-restore'));
    await session.release(inventory);
    await session.reached('post-restore');
    assert.not.ok(session.passed('pre-resume'));
    assert.not.ok(gone(counter.pid));
    session.go('post-restore');
    await session.reached('pre-resume');
    assert.not.ok(session.passed('post-resume'));
    session.go('pre-resume');
    await session.resumed(10_000);
    assert.ok(session.passed('post-resume'));
    await counter.answers();
    assert.is(await session.exited, 0);
    assert.is(Cgroup.of(counter.pid).path, counter.cgroup.path);
    await nothingLeft(session.run);
    counter.end();
  });
}

test('a veto at post-restore restores nothing', async (world) => {
  const counter = await Counter.start(world);
  const from = await dumped(world, counter);
  const to = images(world);
  const session = await startRestore({ criu: world.criu, images: to });
  await session.release(bring(from, to));
  await session.reached('post-restore');
  session.stop();
  assert.not.equal(await session.exited, 0);
  assert.not.ok(session.passed('pre-resume'));
  await until('the copy is gone', () => gone(counter.pid));
  counter.end();
});

test('a restore that waits for its inventory can be ended, and nothing of it is left', async (world) => {
  const counter = await Counter.start(world);
  const from = await dumped(world, counter);
  const to = images(world);
  const session = await startRestore({ criu: world.criu, images: to });
  bring(from, to);
  await session.kill();
  assert.is(await session.exited, null);
  assert.ok(gone(counter.pid));
  await nothingLeft(session.run);
  await session.kill(); // again: nothing to do
  counter.end();
});

/** Its number in the counter: the listener has the one before. */
const CONNECTION = 4;
const [SOL_SOCKET, SO_REUSEADDR] = [1, 2];

function reuseAddress(pid: number, fd: number): number {
  const pidfd = pidfdOpen(pid);
  const socket = pidfdGetfd(pidfd, fd);
  try {
    return getsockopt(socket, SOL_SOCKET, SO_REUSEADDR, 4).readInt32LE();
  } finally {
    closeSync(socket);
    closeSync(pidfd);
  }
}

for (const family of FAMILIES) {
  test(`CRIU killed while it holds a frozen tree: sockets out of repair mode, and the connection is healthy: ${family.words}`, async (world) => {
    const counter = await Counter.start(world, family);
    const session = await heldAtPostDump(world, counter);
    counter.cgroup.setFrozen(true);
    process.kill(session.run.process?.pid ?? Number.NaN, 'SIGKILL');
    assert.is(await session.exited, null);
    assert.is(endRepair([counter.pid]), 1);
    assert.is(reuseAddress(counter.pid, CONNECTION), 1); // as before: a new server may take the port
    counter.cgroup.setFrozen(false);
    await counter.answers();
    assert.is(endRepair([]), 0);
    assert.is(endRepair([counter.pid]), 0);
    counter.end();
  });
}

test('nothing is left of a CRIU that was killed at a hook', async (world) => {
  const counter = await Counter.start(world);
  const session = await heldAtPostDump(world, counter);
  counter.cgroup.setFrozen(true);
  process.kill(session.run.process?.pid ?? Number.NaN, 'SIGKILL');
  assert.is(await session.end(5000), null);
  session.stop();
  endRepair([counter.pid]);
  counter.cgroup.setFrozen(false);
  wipeImageFolder(session.run.images);
  await nothingLeft(session.run);
  counter.end();
});

test('a second daemon takes up a run that is held, and decides it', async (world) => {
  const counter = await Counter.start(world);
  const session = await heldAtPostDump(world, counter);
  const run = JSON.parse(JSON.stringify(session.run)) as CriuRun; // as the journal gives it back
  const adopted = CriuSession.adopt(run);
  assert.ok(adopted.passed('pre-dump'));
  await adopted.reached('post-dump');
  adopted.stop();
  assert.is(await adopted.exited, null);
  assert.not.equal(await session.exited, 0);
  await counter.answers();
  const over = CriuSession.adopt(run);
  assert.is(await over.exited, null);
  counter.end();
});

test('a run whose pid nobody has written down is found by its images, and ended with its script', async (world) => {
  const counter = await Counter.start(world);
  const session = await heldAtPostDump(world, counter);
  counter.cgroup.setFrozen(true);
  const adopted = CriuSession.adopt({ ...session.run, process: undefined });
  assert.equal(adopted.run.process, session.run.process);
  await adopted.kill();
  await session.exited;
  await nothingLeft(session.run);
  endRepair([counter.pid]);
  counter.cgroup.setFrozen(false);
  await counter.answers();
  counter.end();
});

test('a run whose files are gone is over, and reached nothing', async (world) => {
  const run: CriuRun = { verb: 'dump', process: undefined, images: join(world.folder, 'never') };
  const adopted = CriuSession.adopt(run);
  assert.is(await adopted.exited, null);
  assert.not.ok(adopted.passed('pre-dump'));
  adopted.stop();
});

test('a hook that is late is CRIU_SLOW, and CRIU can be ended', async (world) => {
  const counter = await Counter.start(world);
  const session = await startDump({ criu: world.criu, pid: counter.pid, images: images(world) });
  await session.reached('pre-dump');
  let thrown: unknown;
  await session.reached('post-dump', 30).catch((error: unknown) => {
    thrown = error;
  });
  assert.instance(thrown, ExternalError);
  assert.is((thrown as ExternalError).code, 'CRIU_SLOW');
  assert.is(await session.end(30), null);
  await nothingLeft(session.run);
  await counter.answers();
  counter.end();
});

test('a process that is not there: the failure has the command and what CRIU says', async (world) => {
  const counter = await Counter.start(world);
  counter.end();
  await counter.subject.ended();
  const session = await startDump({ criu: world.criu, pid: counter.pid, images: images(world) });
  await session.reached('pre-dump'); // CRIU has not looked yet
  session.go('pre-dump');
  let thrown: unknown;
  await session.reached('post-dump').catch((error: unknown) => {
    thrown = error;
  });
  assert.instance(thrown, ExternalError);
  const { code, command, log, exitStatus } = thrown as ExternalError;
  assert.is(code, 'CRIU_FAILED');
  assert.is(exitStatus, 5);
  assert.match(command, /criu dump -D \S+ /);
  assert.ok(log.length > 0, 'it quotes the log');
});

test('images that are no images: the restore fails, and says so', async (world) => {
  const to = images(world);
  const session = await startRestore({ criu: world.criu, images: to });
  await session.release(Buffer.from('this is no inventory'));
  let thrown: unknown;
  await session.reached('post-restore').catch((error: unknown) => {
    thrown = error;
  });
  assert.instance(thrown, ExternalError);
  assert.ok(existsSync(join(to, 'restore.log')));
});

if (!entered) skip(test, 'CRIU, held at its hooks', 'needs root');
test.run();
