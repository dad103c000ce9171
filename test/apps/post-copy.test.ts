// limit: 300 s
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { CopyProgress } from '../../cli/memory/carried.js';
import { type PagerState, pagerPids, readPagerState } from '../../cli/memory/pager.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { readProcess } from '../../cli/system/procfs.js';
import { projectFile } from '../../cli/system/project.js';
import { installFrom, installProgram, startServer } from '../lab/c-program.js';
import { copiesOf } from '../lab/copies.js';
import { downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { killQuietly, type Outcome } from '../lab/node-command.js';
import { describe, errorOf, oneLine, Scenario, type Summary } from '../lab/scenario.js';
import { settledTraces } from '../lab/traces.js';
import { suite } from '../suite.js';

let port = 7300;
const MEGABYTES = 64;
/** Every 10 ms so many pages are written: about 80 MB a second, and fewer may be sent. */
const PAGES = 200;
const SLOW = ['--bandwidth-limit', '30M', '--freeze-budget', '1000'];

const test = suite('memory that follows a process which writes faster than it can be sent');
/** Of the program, at its home. */
const NAME = 'remembering';
let scenario: Scenario;
let program: string;
let pid: number;
let client: LineClient;

test.before(async () => {
  scenario = await Scenario.start('post-copy', { hosts: 1 });
  program = await installProgram(NAME, scenario.home, scenario.lab.node('host1'));
  await begin();
});
test.after(downAll);

/** The process that the next tests are about. */
async function begin(): Promise<void> {
  const { home } = scenario;
  const size = [MEGABYTES, PAGES].map(String);
  pid = await startServer(home, [program, home.address, String(++port), ...size], port);
  client = await LineClient.connect(scenario.client, home.address, port);
}

const control = (node: string): string => scenario.lab.node(node).path('/run/homeproxy/control.sock');

function move(to: string, ...flags: string[]): Promise<Outcome> {
  const how = to === 'home' ? ['recall', String(pid)] : ['migrate', String(pid), to];
  return scenario.homeproxy('home', [...how, '--mode', 'post-copy', ...SLOW, ...flags, '--json']);
}

/** What is said of the pager on a node; undefined when there is none. */
function pagerOn(node: string): PagerState | undefined {
  const folder = scenario.lab.node(node).path('/run/homeproxy/images');
  const arriving = readdirSync(folder)
    .sort()
    .findLast((name) => name.endsWith('-restore'));
  return arriving === undefined ? undefined : readPagerState(join(folder, arriving));
}

/** Waits until it runs on a node, and some of its memory is not there yet. */
async function runsBefore(node: string): Promise<void> {
  for (const deadline = Date.now() + 20_000; ; await sleep(5)) {
    assert.ok(Date.now() < deadline, `${JSON.stringify(pagerOn(node))}`);
    if (pagerOn(node)?.stage !== 'serving') continue;
    const { processes } = await scenario.ask('home');
    if (processes[0]?.location !== node) continue;
    const { status } = await scenario.ask(node); // its home may know where it runs some milliseconds before that is written down there
    if ((status.incomplete ?? []).length > 0) return;
  }
}

/** Of another move; a command would take longer to start than the window may be open. */
async function refusal(): Promise<unknown> {
  const asked = streamControl(control('home'), migrateMethod, { pid, to: 'host1' }, () => undefined);
  return await asked.then(
    () => 'it moved',
    (error: { code?: unknown }) => error.code,
  );
}

async function whole(): Promise<void> {
  const answer = await client.ask('whole?');
  assert.ok(answer.startsWith('ok '), answer);
}

function committed(outcome: Outcome): Summary {
  assert.is(outcome.status, 0, describe(outcome));
  return oneLine(outcome) as Summary;
}

/** The pagers of a node end in one moment: none of those does anything between the end of the first and its own. */
function killPagers(node: string, which: (state: PagerState) => number[]): void {
  const state = pagerOn(node);
  const pids = state === undefined ? [] : which(state);
  const found = pids.map((inside) => scenario.lab.node(node).machinePid(inside) ?? 0);
  for (const signal of ['SIGSTOP', 'SIGKILL'] as const) for (const each of found) killQuietly(each, signal);
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await holds()); await sleep(20)) assert.ok(Date.now() < deadline, what);
}

/** The process has ended at its home. */
async function ends(): Promise<void> {
  const subject = scenario.home.machinePid(pid) ?? 0;
  await until('it lives on', () => [undefined, 'Z'].includes(readProcess(subject)?.state));
}

async function setLink(state: 'up' | 'down'): Promise<void> {
  await scenario.lab.node('host1').run(['ip', 'link', 'set', 'eth0', state]);
}

test('a destination whose kernel cannot hold a process back refuses it before anything is made', async () => {
  const { lab } = scenario;
  const wrapper = await installFrom('apps', 'no-userfaultfd', lab.node('host1'));
  await lab.stopDaemon('host1');
  const up = [process.execPath, projectFile('cli/bin/run.js'), 'up'];
  const without = await lab.node('host1').detach([wrapper, ...up]);
  try {
    await until('it is up', async () => (await scenario.hosts('home')).every(({ reachable }) => reachable));
    const { code, message, exitStatus } = errorOf(await move('host1'));
    assert.equal([code, exitStatus], ['REFUSED', 3], message);
    assert.match(message, /NO_USERFAULTFD/);
  } finally {
    killQuietly(lab.node('host1').machinePid(without) ?? 0, 'SIGTERM');
    await until('it has ended', () => readProcess(lab.node('host1').machinePid(without) ?? 0) === undefined);
    await lab.startDaemon('host1');
  }
  await whole();
});

test('copied ahead alone it would stand still for too long', async () => {
  const copy = ['migrate', String(pid), 'host1', ...SLOW, '--max-freeze', '1000', '--json'];
  assert.is(errorOf(await scenario.homeproxy('home', copy)).code, 'WILL_NOT_CONVERGE');
});

for (const to of ['host1', 'home']) {
  test(`it runs on ${to} before its memory is there, finds all of it, and may not move meanwhile`, async () => {
    const moving = move(to);
    await runsBefore(to);
    const [incomplete] = (await scenario.ask(to)).status.incomplete ?? [];
    assert.ok((incomplete?.missingBytes ?? 0) > 0);
    assert.equal([incomplete?.pid, incomplete?.from], [pid, to === 'home' ? 'host1' : 'home']);
    assert.is(await refusal(), 'ALREADY_MOVING');
    await whole();
    const { memory, freezeMs, bytesMoved } = committed(await moving);
    const { later = 0 } = memory ?? {};
    assert.ok(later > 10 << 20, JSON.stringify(memory));
    assert.ok(bytesMoved > (MEGABYTES << 19) + later / 2, `${bytesMoved} bytes moved`); // some were given back meanwhile
    assert.ok(freezeMs < 1000, `it stood still for ${freezeMs} ms`);
    await whole();
  });
}

test('whoever waits is told how far the memory is that follows', async () => {
  const told: CopyProgress[] = [];
  const asked = { pid, to: 'host1', postCopy: true, bandwidthLimit: 20_000_000, freezeBudgetMs: 1000 };
  await streamControl(control('home'), migrateMethod, asked, ({ phase, copied }) => {
    if (copied !== undefined && (copied.later === true) === (phase === 'replay')) told.push(copied);
  });
  const later = told.filter(({ later: follows }) => follows === true);
  assert.ok(later.length > 1, JSON.stringify(told));
  for (const [index, { bytes, total, rate }] of later.entries())
    assert.ok(bytes <= total && rate > 0 && bytes >= (later[index - 1]?.bytes ?? 0), JSON.stringify(later));
  assert.ok((later.at(-1)?.bytes ?? 0) > 10 << 20);
  await whole();
  committed(await scenario.homeproxy('home', ['recall', String(pid), '--json']));
});

test('slowed down first, it leaves less to follow: no more than may be sent in the freeze that is allowed', async () => {
  const { memory } = committed(await move('host1', '--max-freeze', '1000', '--throttle', '10%'));
  const { throttle, later = Number.POSITIVE_INFINITY } = memory ?? {};
  assert.ok((throttle?.percent ?? 100) < 50, JSON.stringify(memory));
  assert.ok(later > 0 && later < 30_000_000, JSON.stringify(memory));
  await whole();
  committed(await scenario.homeproxy('home', ['recall', String(pid), '--json']));
});

test('the daemon of its host is killed meanwhile: the next one goes on, and all comes', async () => {
  const moving = move('host1');
  await runsBefore('host1');
  await scenario.lab.stopDaemon('host1', 'SIGKILL');
  const there = pagerOn('host1');
  assert.is(there?.stage, 'serving');
  await scenario.lab.startDaemon('host1');
  await whole();
  committed(await moving);
});

test('the daemon that it left is killed meanwhile: the next one goes on, and all comes', async () => {
  const moving = scenario.homeproxy('home', ['recall', String(pid), '--json']);
  committed(await moving);
  const leaving = move('host1');
  await runsBefore('host1');
  await scenario.lab.stopDaemon('home', 'SIGKILL');
  assert.is(errorOf(await leaving).code, 'DAEMON_LOST');
  assert.ok((pagerOn('host1')?.missing ?? 0) > 0);
  await scenario.lab.startDaemon('home');
  await whole();
  await scenario.settled('home');
  assert.equal(
    (await scenario.ps('home')).map(({ location }) => location),
    ['host1'],
  );
});

test('its pager is killed meanwhile: the one beside it goes on, and all comes', async () => {
  const moving = move('home');
  await runsBefore('home');
  const before = pagerOn('home');
  killQuietly(scenario.home.machinePid(before?.serving ?? 0) ?? 0, 'SIGKILL');
  await whole();
  committed(await moving);
});

test('two of the three that are its pager are killed in one moment: the third goes on, and all comes', async () => {
  const moving = move('host1');
  await runsBefore('host1');
  killPagers('host1', ({ serving, standingBy }) => [serving, standingBy]);
  await whole();
  committed(await moving);
});

test('the link is lost for longer than anybody waits for a sign of life: it stands still, and then all comes', async () => {
  const moving = move('home');
  await runsBefore('home');
  await setLink('down');
  const answer = client.ask('whole?', 40_000);
  answer.catch(() => undefined); // heard below
  await sleep(12_000); // addon/lib/line.ts: LATER_SILENCE_MS
  const kept = pagerOn('home');
  assert.ok((kept?.missing ?? 0) > 0);
  const [there] = (await scenario.ask('host1')).status.kept ?? [];
  assert.equal([there?.pid, there?.to], [pid, 'home']);
  assert.match(there?.trouble ?? '', /home/);
  assert.is(pagerOn('home')?.missing, kept?.missing);
  await setLink('up');
  committed(await moving);
  assert.match(await answer, /^ok /);
});

test('the source is gone for good: that is said on every node, and the process can be killed', async () => {
  committed(await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']));
  const moving = move('home');
  await runsBefore('home');
  await scenario.lab.stopDaemon('host1', 'SIGKILL');
  await setLink('down');
  client.say('whole?');
  await sleep(500);
  const [incomplete] = (await scenario.ask('home')).status.incomplete ?? [];
  assert.equal([incomplete?.pid, incomplete?.from], [pid, 'host1']);
  assert.ok((incomplete?.missingBytes ?? 0) > 0);
  assert.is((await scenario.ask('home')).processes[0]?.role, 'moving');
  killQuietly(scenario.home.machinePid(pid) ?? 0, 'SIGKILL'); // in the midst of a page that never comes
  await ends();
  await until('its pager is there', async () => (await scenario.ask('home')).status.incomplete?.length === 0);
  await setLink('up'); // and if it comes back after all, its copy ends too
  await scenario.lab.startDaemon('host1');
  await moving;
  for (const node of ['home', 'host1']) await scenario.settled(node);
  await until('it is there yet', () => copiesOf(scenario.lab, NAME).length === 0);
  await client.close();
});

test('all of its pager is killed in one moment: it ends rather than to go on with zeros', async () => {
  await begin();
  committed(await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']));
  const moving = move('home');
  await runsBefore('home');
  killPagers('home', pagerPids);
  await ends();
  await moving;
  await client.close();
});

test('nothing is left anywhere', async () => {
  for (const node of ['home', 'host1']) await scenario.settled(node);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test('its host has lost its journal: its home keeps the frozen copy and says so, until somebody ends that', async () => {
  await begin();
  const moving = move('host1');
  await runsBefore('host1');
  await scenario.lab.stopDaemon('host1', 'SIGKILL');
  rmSync(scenario.lab.node('host1').path('/var/lib/homeproxy'), { recursive: true });
  await scenario.lab.startDaemon('host1');
  const kept = async () => (await scenario.ask('home')).status.kept?.[0];
  await until('it says so', async () => /host1 does not expect/.test((await kept())?.trouble ?? ''));
  await sleep(3000); // over more lines than one
  assert.ok(((await kept())?.missingBytes ?? 0) > 0);
  const [copy] = copiesOf(scenario.lab, NAME).filter(({ node }) => node === 'home');
  assert.is(copy?.live, false);
  killQuietly(copy?.machinePid ?? 0, 'SIGKILL');
  await moving;
  assert.equal((await scenario.settled('home')).kept, []);
  await until('it is there yet', () => !copiesOf(scenario.lab, NAME).some(({ node }) => node === 'home'));
});

test.run();
