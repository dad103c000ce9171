// limit: 180 s
import { setTimeout as pause, setImmediate } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { CopyProgress } from '../../cli/memory/carried.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { copiesBehind, rankOf } from './ranks.js';
import { describe, errorOf, oneLine, Scenario, type Summary } from './scenario.js';
import { settledTraces } from './traces.js';

const PORT = 7300;
const MEGABYTES = 300;
/** Every 10 ms so many pages are written: about 8 MB a second. */
const PAGES = 20;
/** Bytes per second. */
const LIMIT = 100_000_000;

/** The helper that makes the write tracking holds it for some tenths of a millisecond, on a busy machine for longer. */
const MOMENT_MS = 20;

const test = suite('a process with much memory, which writes all the time, home -> host1 -> host2 -> home');
let scenario: Scenario;
let pid: number;
let client: LineClient;

test.before(async () => {
  scenario = await Scenario.start('memory');
  const { home, lab } = scenario;
  const program = await installProgram('remembering', home, lab.node('host1'), lab.node('host2'));
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

/** @returns those of the nodes that copied behind whatever else runs there, before a move was over */
async function copiedBehind(move: Promise<unknown>, nodes: readonly string[]): Promise<string[]> {
  const daemons = await Promise.all(nodes.map(async (node) => [node, await scenario.daemonPid(node)] as const));
  const seen = new Set<string>();
  const over = move.then(() => true).catch(() => true);
  while (!(await Promise.race([over, pause(5, false)]))) {
    for (const [node, daemon] of daemons) if (copiesBehind(daemon)) seen.add(node);
  }
  return nodes.filter((node) => seen.has(node));
}

for (const [at, to] of [
  ['home', 'host1'],
  ['host1', 'host2'],
  ['host2', 'home'],
] as const) {
  test(`move to ${to}: every page is what it was, and stays so`, async () => {
    const before = await Promise.all([at, to].map(async (node) => rankOf(await scenario.daemonPid(node))));
    const move = to === 'home' ? scenario.recall(pid) : scenario.migrate(pid, to);
    const [summary, behind] = await Promise.all([move, copiedBehind(move, [at, to])]);
    assert.equal(behind, [at, to]); // nobody is kept from working
    assert.equal(await Promise.all([at, to].map(async (node) => rankOf(await scenario.daemonPid(node)))), before);
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

test('nothing is left anywhere', async () => {
  await client.close();
  for (const node of ['home', 'host1', 'host2']) await scenario.settled(node);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
