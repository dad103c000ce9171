// limit: 180 s
import { setImmediate } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { CopyProgress } from '../../cli/memory/carried.js';
import { journalMethod, migrateMethod } from '../../cli/node/control-methods.js';
import { callControl, streamControl } from '../../cli/node/control-transport.js';
import { readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { startHomeproxy } from './node-command.js';
import { describe, errorOf, oneLine, Scenario, type Summary } from './scenario.js';
import { isSlowed } from './slowed.js';
import { settledTraces } from './traces.js';

const PORT = 7300;
const MEGABYTES = 300;
/** Every 10 ms so many pages are written: about 8 MB a second. */
const PAGES = 20;
/** Bytes per second. */
const LIMIT = 100_000_000;

/** A second one writes, of so many megabytes, so many pages every 10 ms: 160 MB a second, of which a fifth can be sent. */
const BUSY = { port: PORT + 1, megabytes: 32, pages: 400 };
const NARROW = { flag: '30M', rate: 30_000_000 };
const SHORT_MS = 900;

/** The helper that makes the write tracking holds it for some tenths of a millisecond, on a busy machine for longer. */
const MOMENT_MS = 20;

const test = suite('a process with much memory, which writes all the time, home -> host1 -> host2 -> home');
let scenario: Scenario;
let pid: number;
let client: LineClient;
let program: string;
let busy: number;
let busyClient: LineClient;

test.before(async () => {
  scenario = await Scenario.start('memory');
  const { home, lab } = scenario;
  program = await installProgram('remembering', home, lab.node('host1'), lab.node('host2'));
  const size = [MEGABYTES, PAGES].map(String);
  pid = await startServer(home, [program, home.address, String(PORT), ...size, 'kinds'], PORT);
  client = await LineClient.connect(scenario.client, home.address, PORT);
});
test.after(downAll);

test('a move whose freeze is foreseen to be too long is not begun', async () => {
  const move = ['migrate', String(pid), 'host1', '--freeze-budget', '1', '--max-freeze', '1', '--json'];
  const [outcome, stoodStillMs] = await watched(scenario.homeproxy('home', move));
  assert.is(errorOf(outcome).code, 'WILL_NOT_CONVERGE');
  assert.is(outcome.status, 3);
  assert.ok(stoodStillMs < MOMENT_MS, `it stood still for ${stoodStillMs} ms`);
  await whole();
});

test('a move that is given up in the freeze: the process goes on, whole, and can be moved afterwards', async () => {
  const move = ['migrate', String(pid), 'host1', '--max-freeze', '1', '--json'];
  assert.is(errorOf(await scenario.homeproxy('home', move)).code, 'ROLLED_BACK');
  await whole();
});

test('the daemon is killed while CRIU holds the process at the gate: it goes on, whole', async () => {
  const { home, lab } = scenario;
  const subject = home.machinePid(pid) ?? 0;
  const daemon = await scenario.daemonPid('home');
  const move = scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']);
  let ended = false;
  move.finally(() => {
    ended = true;
  });
  while (readProcess(subject)?.state !== 't' && !ended) await setImmediate();
  process.kill(daemon, 'SIGKILL');
  assert.is(errorOf(await move).code, 'DAEMON_LOST');
  await lab.stopDaemon('home', 'SIGKILL'); // it is awaited
  await lab.startDaemon('home');
  await scenario.settled('home');
  assert.equal(await scenario.ps('home'), []);
  await whole();
});

/** All that the process has in its memory is as it should be. */
async function whole(): Promise<void> {
  const answer = await client.ask('whole?');
  assert.ok(answer.startsWith('ok '), answer);
}

/** @returns what comes of an attempt, and the longest that somebody held the process in one go meanwhile (as CRIU does), in milliseconds */
async function watched<Result>(attempt: Promise<Result>): Promise<[Result, number]> {
  const subject = scenario.home.machinePid(pid) ?? 0;
  let [ended, since, longest] = [false, 0, 0];
  attempt.finally(() => {
    ended = true;
  });
  for (; !ended; await setImmediate()) {
    const now = performance.now();
    if (readProcess(subject)?.state !== 't') since = 0;
    else if (since === 0) since = now;
    else longest = Math.max(longest, now - since);
  }
  return [await attempt, longest];
}

for (const to of ['host1', 'host2', 'home']) {
  test(`move to ${to}: every page is what it was, and stays so`, async () => {
    const summary = to === 'home' ? await scenario.recall(pid) : await scenario.migrate(pid, to);
    assert.ok(summary.bytesMoved > MEGABYTES << 19);
    assert.is(summary.memory?.copied, 'ahead');
    assert.ok((summary.memory?.forecast?.rounds ?? 0) > 1);
    await whole();
    await whole();
  });
}

test('a move with nothing copied ahead, all of it in the freeze: every page is what it was', async () => {
  const move = ['migrate', String(pid), 'host1', '--mode', 'stop-and-copy', '--json'];
  const [outcome, stoodStillMs] = await watched(scenario.homeproxy('home', move));
  assert.is(outcome.status, 0, describe(outcome));
  assert.ok(stoodStillMs > MOMENT_MS, `nobody saw it stand still: ${stoodStillMs} ms`); // or it would prove nothing above
  const { bytesMoved, memory } = oneLine(outcome) as Summary;
  assert.is(memory?.reason?.code, 'ASKED');
  assert.ok(bytesMoved > MEGABYTES << 19);
  await whole();
});

test('a move with a limit of the bandwidth: no faster, and whoever waits is told how far it is', async () => {
  const told: CopyProgress[] = [];
  const { bytesMoved, totalMs, memory } = await streamControl(
    scenario.home.path('/run/homeproxy/control.sock'),
    migrateMethod,
    { pid, bandwidthLimit: LIMIT },
    ({ copied }) => void (copied !== undefined && told.push(copied)),
  );
  assert.ok(totalMs > (0.9 * 1000 * bytesMoved) / LIMIT, `${bytesMoved} bytes in ${totalMs} ms`);
  assert.ok((memory?.forecast?.sent ?? 0) > 0 && (memory?.forecast?.sent ?? 0) <= LIMIT);
  const first = told.filter(({ round }) => round === 1);
  assert.ok(first.length > 1);
  for (const { bytes, total, rate } of first) {
    assert.ok(bytes <= total && total > MEGABYTES << 19);
    assert.ok(rate > 0, String(rate)); // pages of zeros count, and are not sent: it may be more than the limit
  }
  await whole();
});

const busySlowed = (ms: number): Promise<boolean> => isSlowed(scenario.lab, BUSY.port, ms);

async function busyWhole(): Promise<void> {
  assert.ok((await busyClient.ask('whole?')).startsWith('ok '));
}

test('a process that writes more than can be sent stays where it is, and nobody slows it down', async () => {
  const { home } = scenario; // not before: what it writes takes a good part of a processor
  const size = [BUSY.megabytes, BUSY.pages].map(String);
  busy = await startServer(home, [program, home.address, String(BUSY.port), ...size], BUSY.port);
  busyClient = await LineClient.connect(scenario.client, home.address, BUSY.port);
  const move = ['migrate', String(busy), 'host1', '--bandwidth-limit', NARROW.flag, '--max-freeze', String(SHORT_MS)];
  const command = startHomeproxy(scenario.home, [...move, '--json']);
  let slowed = false;
  while (command.running) slowed ||= await busySlowed(50);
  const { code, remedy = '' } = errorOf(await command.ended);
  assert.is(code, 'WILL_NOT_CONVERGE');
  assert.match(remedy, /--throttle/);
  assert.not.ok(slowed);
  await busyWhole();
});

test('one that may be slowed down moves, stands still no longer than it may, and has its own pace there', async () => {
  const paces = new Set<number | undefined>();
  const summary = await streamControl(
    scenario.home.path('/run/homeproxy/control.sock'),
    migrateMethod,
    { pid: busy, to: 'host1', bandwidthLimit: NARROW.rate, maxFreezeMs: SHORT_MS, throttle: 10 },
    ({ copied }) => void (copied !== undefined && paces.add(copied.pace)),
  );
  const { freezeMs, memory, migration } = summary;
  assert.ok(freezeMs <= SHORT_MS, `${freezeMs} ms`);
  const { percent = 100, ms = 0 } = memory?.throttle ?? {};
  assert.ok(percent >= 10 && percent <= 50 && ms > 0, JSON.stringify(memory));
  assert.ok(paces.has(undefined) && paces.has(percent), [...paces].join());
  const { migrations } = await callControl(scenario.home.path('/run/homeproxy/control.sock'), journalMethod, {
    migration,
  });
  assert.ok(migrations[0]?.steps.some(({ step }) => step === 'source:memory-slowed'));
  assert.equal(migrations[0]?.summary?.memory?.throttle, memory?.throttle);
  assert.is((await scenario.ps('home')).find(({ pid: of }) => of === busy)?.location, 'host1');
  assert.not.ok(await busySlowed(200));
  await busyWhole();
});

test('Ctrl-C while it is slowed down: it stays where it is, at its own pace', async () => {
  const flags = ['--bandwidth-limit', NARROW.flag, '--max-freeze', String(SHORT_MS), '--throttle', '25%'];
  const command = startHomeproxy(scenario.home, ['recall', String(busy), ...flags]);
  while (command.running && !(await busySlowed(100)));
  assert.ok(command.running, 'it was never slowed down');
  command.kill('SIGINT');
  assert.is((await command.ended).status, 130, describe(await command.ended));
  for (const node of ['home', 'host1']) await scenario.settled(node);
  assert.is((await scenario.ps('home')).find(({ pid: of }) => of === busy)?.location, 'host1');
  assert.not.ok(await busySlowed(200));
  await busyWhole();
  await scenario.recall(busy);
  await busyWhole();
});

test('nothing is left anywhere', async () => {
  await client.close();
  await busyClient.close();
  for (const node of ['home', 'host1', 'host2']) await scenario.settled(node);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
