// limit: 120 s

import { spawn } from 'node:child_process';
import * as assert from 'uvu/assert';
import { gather, plannedFreezer, scatter } from '../../cli/checkpoint/freezer.js';
import { Throttle } from '../../cli/checkpoint/throttle.js';
import { Cgroup, unifiedMount } from '../../cli/system/cgroup.js';
import {
  type ProcessStamp,
  readProcess,
  readText,
  readTree,
  stampAlive,
  stampProcess,
} from '../../cli/system/procfs.js';
import { projectFile } from '../../cli/system/project.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, Subject, testCgroup, until } from './private-world.js';

const entered = enterPrivateWorld({ processes: true });
const test = suite<{ top: Cgroup }>('cgroup and freezer');

test.before((context) => {
  context.top = testCgroup('freezer');
});
test.after(endSubjects);

/** Forks without end, children and their children, and lets most of them end. */
const FORKING = `
import os, time, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print('ready', flush=True)
while True:
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.03)
            os._exit(0)
        time.sleep(0.04)
        os._exit(0)
    time.sleep(0.001)
`;

/** Has a child that has ended and for which it does not wait. */
const MOURNING = `
import os, time
child = os.fork()
if child == 0: os._exit(3)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print('ready', flush=True)
time.sleep(3600)
`;

/** Counts in a file's stead: in its own user time. */
const COUNTING = 'print("ready", flush=True)\nwhile True: pass';
const SLEEPING = 'import time\nprint("ready", flush=True)\ntime.sleep(3600)';

async function start(source: string, cgroup: Cgroup): Promise<Subject> {
  const subject = Subject.speaking(source);
  cgroup.add(subject.pid);
  await subject.says();
  return subject;
}

const folderOf = (pid: number): string => Cgroup.of(pid).path;
const state = (cgroup: Cgroup): boolean => /^frozen 1$/m.test(readText(`${cgroup.path}/cgroup.events`) ?? '');
/** Clock ticks that it has used. */
function processorTime(pid: number): number {
  const fields = (readText(`/proc/${pid}/stat`) ?? '').split(') ')[1]?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('finds cgroup v2 where the kernel says that it is mounted', () => {
  const mount = unifiedMount();
  assert.match(readText('/proc/self/mounts') ?? '', new RegExp(`^\\S+ ${mount} cgroup2 `, 'm'));
  assert.ok(readText(`${mount}/cgroup.procs`) !== undefined);
  assert.ok(
    readText(`${folderOf(process.pid)}/cgroup.procs`)
      ?.split('\n')
      .includes(String(process.pid)),
  );
});

test('gathers a tree with a zombie, which no cgroup takes', async ({ top }) => {
  const outer = top.child('mourning').create();
  const subject = await start(MOURNING, outer);
  assert.equal(
    readTree(subject.pid)
      .map((pid) => readProcess(pid)?.state)
      .at(-1),
    'Z',
  );
  const record = gather(subject.pid, plannedFreezer(subject.pid, 'gathered'));
  assert.is(folderOf(subject.pid), record.path);
  scatter(record);
  assert.is(folderOf(subject.pid), outer.path);
});

test('gathers a tree that goes on forking, so that nobody is outside, and stops all of it', async ({ top }) => {
  const outer = top.child('forking').create();
  const subject = await start(FORKING, outer);
  const record = gather(subject.pid, plannedFreezer(subject.pid, 'gathered'));
  const freezer = new Cgroup(record.path);
  assert.is(record.path, `${outer.path}/gathered`);
  const gathered = readTree(subject.pid);
  const newborn = (): number[] => readTree(subject.pid).filter((pid) => !gathered.includes(pid));
  await until('children are born inside', () => newborn().length > 5);
  freezer.setFrozen(true);
  await until('the kernel says that it is frozen', () => state(freezer));
  const tree = readTree(subject.pid).filter((pid) => readProcess(pid)?.state !== 'Z');
  assert.ok(tree.length > 1, `${tree.length} processes`);
  for (const pid of tree) assert.is(folderOf(pid), record.path);
  assert.equal(outer.processes(), []);

  scatter(record);
  assert.not.ok(freezer.exists);
  assert.ok(outer.processes().includes(subject.pid));
  await until('it runs, and forks again', () =>
    readTree(subject.pid).some((pid) => !tree.includes(pid) && readProcess(pid)?.state !== 'Z'),
  );
  outer.kill();
  await outer.empty();
  outer.remove();
});

test('puts each member back into the cgroup that it came from', async ({ top }) => {
  const [one, other] = [top.child('one').create(), top.child('other').create()];
  const subject = await start(
    'import os, time\nchild = os.fork()\nif child == 0: time.sleep(3600)\nprint(child, flush=True)\ntime.sleep(3600)',
    one,
  );
  const child = readTree(subject.pid)[1] ?? 0;
  other.add(child);
  const record = gather(subject.pid, plannedFreezer(subject.pid, 'gathered'));
  assert.equal([subject.pid, child].map(folderOf), [record.path, record.path]);
  assert.equal(
    [...record.origins].sort(([a], [b]) => a - b),
    [
      [subject.pid, one.path],
      [child, other.path],
    ],
  );
  scatter(record);
  assert.equal([subject.pid, child].map(folderOf), [one.path, other.path]);
  scatter(record); // once more, after a crash: nothing to do
  one.kill();
  other.kill();
  await Promise.all([one.empty(), other.empty()]);
  one.remove();
  other.remove();
});

test('a child that was born inside goes where the root came from', async ({ top }) => {
  const outer = top.child('born').create();
  const subject = await start(
    'import os, time\nprint("ready", flush=True)\ntime.sleep(0.2)\nif os.fork() > 0: print("forked", flush=True)\ntime.sleep(3600)',
    outer,
  );
  const record = gather(subject.pid, plannedFreezer(subject.pid, 'gathered'));
  await subject.says();
  assert.is(new Cgroup(record.path).processes().length, 2);
  scatter(record);
  assert.is(outer.processes().length, 2);
  outer.kill();
  await outer.empty();
  outer.remove();
});

test('a frozen process uses no processor, and goes on where it stood when it is let go', async ({ top }) => {
  const cgroup = top.child('frozen').create();
  const subject = await start(COUNTING, cgroup);
  cgroup.setFrozen(true);
  await until('the kernel says that it is frozen', () => state(cgroup));
  assert.ok(cgroup.frozen);
  const before = processorTime(subject.pid);
  await pause(150);
  assert.is(processorTime(subject.pid), before);
  cgroup.setFrozen(false);
  assert.not.ok(cgroup.frozen);
  await until('it runs on', () => processorTime(subject.pid) > before);
  cgroup.kill();
  await cgroup.empty();
  cgroup.remove();
});

/** Clock ticks that a process uses in so many milliseconds: ten each, of the processor that it may have. */
async function used(pid: number, ms: number): Promise<number> {
  const before = processorTime(pid);
  await pause(ms);
  return processorTime(pid) - before;
}

async function end(cgroup: Cgroup): Promise<void> {
  cgroup.kill();
  await cgroup.empty();
  cgroup.remove();
}

test('a tree that is slowed down has so much of its time, and all of it when that is over', async ({ top }) => {
  const cgroup = top.child('slowed').create();
  const subject = await start(COUNTING, cgroup);
  const helpers: ProcessStamp[] = [];
  const throttle = new Throttle(cgroup.path, {
    began: (process) => void helpers.push(process),
    lost: assert.unreachable,
  });
  assert.is(throttle.slowed, undefined);
  assert.ok(throttle.slowTo(50));
  assert.ok(throttle.slowTo(20));
  await until('it is stopped for the first time', () => state(cgroup));
  const ticks = await used(subject.pid, 1000);
  assert.ok(ticks > 0 && ticks < 45, `${ticks} of 100 ticks`);
  await throttle.lift();
  const [helper] = helpers;
  assert.is(helpers.length, 1);
  assert.ok(helper !== undefined && !stampAlive(helper));
  assert.not.ok(cgroup.frozen);
  const slowed = throttle.slowed;
  assert.ok(slowed !== undefined && slowed.percent === 20 && slowed.ms >= 1000, JSON.stringify(slowed));
  assert.not.ok(throttle.slowTo(10), 'it is over for good');
  assert.not.ok(await ever(cgroup, 200));
  assert.equal(throttle.slowed, slowed);
  await throttle.lift();
  await end(cgroup);
});

/** Whether it is stopped at any time within so many milliseconds. */
async function ever(cgroup: Cgroup, ms: number): Promise<boolean> {
  for (const deadline = Date.now() + ms; Date.now() < deadline; await pause(3)) if (cgroup.frozen) return true;
  return false;
}

test('when what slows it down is killed, it has all its time again', async ({ top }) => {
  const cgroup = top.child('helperless').create();
  await start(COUNTING, cgroup);
  let [helper, lost] = [0, 0];
  const throttle = new Throttle(cgroup.path, {
    began: ({ pid }) => {
      helper = pid;
    },
    lost: () => void lost++,
  });
  throttle.slowTo(10);
  await until('it is stopped', () => cgroup.frozen);
  process.kill(helper, 'SIGKILL');
  await until('it is not slowed down any more', () => !throttle.slowTo(10));
  assert.not.ok(await ever(cgroup, 200));
  assert.is(lost, 1);
  await throttle.lift();
  await end(cgroup);
});

test('when its daemon is killed, it has all its time again before another is there', async ({ top }) => {
  const cgroup = top.child('orphaned').create();
  await start(COUNTING, cgroup);
  const program = projectFile('dist/cli/checkpoint/throttle-main.js');
  const helper = spawn(process.execPath, [program, cgroup.path], { stdio: ['pipe', 'ignore', 'inherit'] });
  const ended = new Promise((resolve) => helper.once('exit', resolve));
  helper.stdin.write('10\n');
  await until('it is stopped', () => cgroup.frozen);
  helper.stdin.end(); // so it looks to it when whoever holds the other end dies
  await ended;
  assert.not.ok(await ever(cgroup, 200));
  await end(cgroup);
});

test('a daemon ends what its predecessor has left, and what was stopped runs', async ({ top }) => {
  const cgroup = top.child('adopted').create();
  await start(COUNTING, cgroup);
  const program = projectFile('dist/cli/checkpoint/throttle-main.js');
  const helper = spawn(process.execPath, [program, cgroup.path], { stdio: ['pipe', 'ignore', 'inherit'] });
  const stamp = stampProcess(helper.pid ?? 0);
  helper.stdin.write('10\n');
  await until('it is stopped', () => cgroup.frozen);
  process.kill(stamp.pid, 'SIGSTOP'); // it does not get to do anything
  await until('what slows it down stands still', () => readProcess(stamp.pid)?.state === 'T');
  cgroup.setFrozen(true);
  Throttle.adopt(cgroup.path, stamp);
  assert.not.ok(stampAlive(stamp));
  assert.not.ok(await ever(cgroup, 200));
  cgroup.setFrozen(true); // by somebody else meanwhile: it is his
  Throttle.adopt(cgroup.path, stamp);
  assert.ok(cgroup.frozen);
  await end(cgroup);
});

test('a frozen process can be killed, and empty() tells when nobody is left', async ({ top }) => {
  const cgroup = top.child('doomed').create();
  const subject = await start(SLEEPING, cgroup);
  cgroup.setFrozen(true);
  let empty = false;
  const waiting = cgroup.empty().then(() => {
    empty = true;
  });
  await pause(60);
  assert.not.ok(empty);
  cgroup.kill();
  await waiting;
  assert.equal(cgroup.processes(), []);
  await subject.ended();
  await cgroup.empty(); // at once
  cgroup.remove();
  assert.not.ok(cgroup.exists);
  cgroup.remove();
  await cgroup.empty();
});

test('empty() does not return for a child cgroup that still has members', async ({ top }) => {
  const outer = top.child('outer').create();
  const inner = outer.child('inner').create();
  await start(SLEEPING, inner);
  const first = await Promise.race([outer.empty().then(() => 'empty'), pause(60).then(() => 'populated')]);
  assert.is(first, 'populated');
  inner.kill();
  await outer.empty();
  inner.remove();
  outer.remove();
});

test('adding a process that has ended is no error; another failure is', async ({ top }) => {
  const cgroup = top.child('adding').create();
  const subject = await start(SLEEPING, cgroup);
  subject.kill();
  await subject.ended();
  cgroup.add(subject.pid);
  cgroup.remove();
  assert.throws(() => cgroup.add(process.pid), /ENOENT/);
});

test('goes up to the nearest cgroup that still exists, and never out of the tree', ({ top }) => {
  assert.is(top.child('a').child('b').nearestExisting().path, top.path);
  assert.is(top.nearestExisting().path, top.path);
  assert.is(new Cgroup('/tmp').nearestExisting().path, unifiedMount());
  assert.is(new Cgroup('').nearestExisting().path, unifiedMount());
});

if (!entered) skip(test, 'cgroup and freezer', 'needs root');
test.run();
