// limit: 120 s
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { isShellJob } from '../../cli/process/session-verdicts.js';
import { limitsOf } from '../../cli/process/task-verdicts.js';
import { Cgroup, unifiedMount } from '../../cli/system/cgroup.js';
import { readChildren, readProcess } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, until } from './private-world.js';
import { examine, objections, startInState, words } from './verdicts-subject.js';

const test = suite('verdicts on tracers, sessions and the numbers of a tree');
const entered = enterPrivateWorld({ processes: false });
const folder = mkdtempSync('/tmp/homeproxy-verdicts-');

test('one that somebody traces: refused TRACED, and he goes on tracing', async () => {
  const subject = await startInState('');
  const tracer = await startInState(`
assert libc.ptrace(0x4206, ${subject.pid}, 0, 0) == 0`);
  try {
    const { verdicts } = await examine(subject.pid);
    assert.equal(words(verdicts), ['refused TRACED']);
    assert.match(
      verdicts.find(({ code }) => code === 'TRACED')?.reason ?? '',
      new RegExp(`pid ${tracer.pid} \\(ready\\)`),
    );
  } finally {
    tracer.kill();
    subject.kill();
  }
});

test('a child of a session that its parent leads: it moves without it, and loses both; the parent with it keeps all', async () => {
  const subject = await startInState('if os.fork() == 0: ready()');
  try {
    const [child = 0] = readChildren(subject.pid);
    const { verdicts, description } = await examine(child);
    assert.equal(words(verdicts), ['will-change SESSION']);
    assert.match(objections(verdicts)[0]?.reason ?? '', new RegExp(`session of pid ${subject.pid} `));
    const parent = verdicts.find(({ code }) => code === 'PARENT_STAYS');
    assert.match(parent?.reason ?? '', new RegExp(`its parent, pid ${subject.pid} `));
    assert.equal(description.session, { id: subject.pid, group: subject.pid });
    assert.is(isShellJob(description), true);
    const whole = await examine(subject.pid);
    assert.equal(words(whole.verdicts), []);
    assert.is(isShellJob(whole.description), false);
  } finally {
    subject.kill();
  }
});

test('a child that was born before its parent began a session: refused FOREIGN_SESSION', async () => {
  const subject = await startInState(`
if os.fork(): ready()
if os.fork() == 0: ready()
os.setsid()`);
  try {
    const [leader = 0] = readChildren(subject.pid);
    await until('it leads a session, and its child does not', () => readProcess(leader)?.session === leader);
    const [child = 0] = readChildren(leader);
    const { verdicts } = await examine(leader);
    assert.ok(words(verdicts).includes('refused FOREIGN_SESSION'), words(verdicts).join());
    assert.match(verdicts.find(({ code }) => code === 'FOREIGN_SESSION')?.subject ?? '', new RegExp(`pid ${child}`));
  } finally {
    subject.kill();
  }
});

test('one that a service manager has started: it will see it end, may start it again, and what keeps it from that is said', async () => {
  const unit = new Cgroup(join(unifiedMount(), `homeproxy-test-${process.pid}.service`)).create();
  const subject = await startInState('');
  try {
    unit.add(subject.pid);
    const { verdicts } = await examine(subject.pid);
    const service = verdicts.find(({ code }) => code === 'SERVICE');
    assert.is(service?.outcome, 'will-change');
    assert.match(service?.reason ?? '', /belongs to homeproxy-test-\d+\.service: the service manager sees it end/);
    assert.match(service?.remedy ?? '', /^set Restart=no for homeproxy-test-\d+\.service/);
  } finally {
    subject.kill();
    await unit.empty();
    unit.remove();
  }
});

test('limits of its cgroup and of those above stay (CGROUP_LIMITS): read from files, for not every kernel has the controllers', () => {
  const [top, slice] = [join(folder, 'cgroup'), join(folder, 'cgroup/slice')];
  mkdirSync(join(slice, 'service'), { recursive: true });
  writeFileSync(join(top, 'memory.max'), '1\n'); // of the machine itself there is none
  writeFileSync(join(slice, 'memory.max'), '1073741824\n');
  writeFileSync(join(slice, 'service/memory.max'), 'max\n');
  writeFileSync(join(slice, 'service/cpu.max'), '50000 100000\n');
  assert.equal(limitsOf({ path: join(slice, 'service') }, top), ['cpu.max 50000 100000', 'memory.max 1073741824']);
  assert.equal(limitsOf({ path: top }, top), []);
});

test('numbers that must be free at home: threads, and groups whose leader has ended', async () => {
  const subject = await startInState(`
import threading
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
leader = os.fork()
if leader == 0:
    os.setpgid(0, 0)
    os.execvp('sleep', ['sleep', '3600'])
while os.getpgid(leader) != leader: time.sleep(0.01)
if os.fork() == 0:
    os.setpgid(0, leader)
    time.sleep(3600)
while not any(os.getpgid(int(pid)) == leader for pid in open('/proc/self/task/%d/children' % os.getpid()).read().split() if int(pid) != leader): time.sleep(0.01)
os.kill(leader, 9)
os.waitpid(leader, 0)
os.environ['LEADER'] = str(leader)
open('${folder}/leader', 'w').write(str(leader))`);
  try {
    const { description } = await examine(subject.pid);
    const leader = Number(readFileSync(`${folder}/leader`, 'utf8'));
    const threads = readdirSync(`/proc/${subject.pid}/task`).map(Number);
    assert.equal(
      new Set(description.numbers),
      new Set([...threads.filter((thread) => thread !== subject.pid), leader]),
    );
  } finally {
    subject.kill();
  }
});

test.after(() => {
  endSubjects();
  rmSync(folder, { recursive: true, force: true });
});

if (!entered) skip(test, 'verdicts on tracers, sessions and the numbers of a tree', 'needs root');
test.run();
