// limit: 120 s
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { type PagerState, readPagerState } from '../../cli/memory/pager.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { readProcess } from '../../cli/system/procfs.js';
import { installProgram, startServer } from '../lab/c-program.js';
import { downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { killQuietly, type Outcome } from '../lab/node-command.js';
import { describe, errorOf, oneLine, Scenario, type Summary } from '../lab/scenario.js';
import { settledTraces } from '../lab/traces.js';
import { suite } from '../suite.js';

const PORT = 7300;
const MEGABYTES = 64;
/** Every 10 ms so many pages are written: about 80 MB a second, and fewer may be sent. */
const PAGES = 200;
const SLOW = ['--bandwidth-limit', '30M', '--freeze-budget', '1000'];

const test = suite('memory that follows a process which writes faster than it can be sent');
let scenario: Scenario;
let pid: number;
let client: LineClient;

test.before(async () => {
  scenario = await Scenario.start('post-copy', { hosts: 1 });
  const { home, lab } = scenario;
  const program = await installProgram('remembering', home, lab.node('host1'));
  pid = await startServer(home, [program, home.address, String(PORT), String(MEGABYTES), String(PAGES)], PORT);
  client = await LineClient.connect(scenario.client, home.address, PORT);
});
test.after(downAll);

function move(to: string): Promise<Outcome> {
  const how = to === 'home' ? ['recall', String(pid)] : ['migrate', String(pid), to];
  return scenario.homeproxy('home', [...how, '--mode', 'post-copy', ...SLOW, '--json']);
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
    if (processes[0]?.location === node) return;
  }
}

/** Of another move; a command would take longer to start than the window may be open. */
async function refusal(): Promise<unknown> {
  const socket = scenario.home.path('/run/homeproxy/control.sock');
  const asked = streamControl(socket, migrateMethod, { pid, to: 'host1' }, () => undefined);
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
    const { memory, freezeMs } = committed(await moving);
    assert.ok((memory?.later ?? 0) > 10 << 20, JSON.stringify(memory));
    assert.ok(freezeMs < 1000, `it stood still for ${freezeMs} ms`);
    await whole();
  });
}

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

test('both pagers are killed in one moment: it ends rather than to go on with zeros', async () => {
  committed(await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']));
  const moving = move('home');
  await runsBefore('home');
  const { serving, standingBy } = pagerOn('home') ?? { serving: 0, standingBy: 0 };
  const pagers = [serving, standingBy].map((inside) => scenario.home.machinePid(inside) ?? 0);
  for (const signal of ['SIGSTOP', 'SIGKILL'] as const) for (const pager of pagers) killQuietly(pager, signal);
  const subject = scenario.home.machinePid(pid) ?? 0;
  for (const deadline = Date.now() + 5000; ![undefined, 'Z'].includes(readProcess(subject)?.state); await sleep(10))
    assert.ok(Date.now() < deadline, 'it lives on');
  await moving;
});

test('nothing is left anywhere', async () => {
  await client.close();
  for (const node of ['home', 'host1']) await scenario.settled(node);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
