// limit: 240 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { Capture, macOf } from './capture.js';
import { copiesOf, placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { readIpv4, readTcp } from './pcap.js';
import { describe, errorOf, Scenario } from './scenario.js';
import { askTicker, installTicker, TICKER } from './ticker.js';
import { settledTraces } from './traces.js';

const CLOCKS_PORT = 7301;
const PORTS = { home: 7311, host2: 7312, host1: 7313, stranger: 7314 };
const PID = 20_000;
/** More than a processor that others use as well can make a thread wait, and less than any two nodes' clocks differ. */
const LATE_S = 5;

type Ends = readonly [ends: number, earliest: number, latest: number];
type Clocks = Record<'monotonic' | 'boottime' | 'uptime' | 'back' | 'ahead', number> & Record<string, number | Ends>;

const test = suite('what a process calls its own in another place: its clocks and its pid');
let scenario: Scenario;
let program: string;
let clocks: number;
let client: LineClient;
let capture: Capture;
const stations: string[] = [];

test.before(async () => {
  scenario = await Scenario.start('places');
  const { home, lab } = scenario;
  const nodes = [home, lab.node('host1'), lab.node('host2')];
  program = await installProgram('clocks', ...nodes);
  await installTicker(...nodes);
  clocks = await startServer(home, [program, String(CLOCKS_PORT)], CLOCKS_PORT);
  capture = await Capture.start(scenario.client);
  client = await LineClient.connect(scenario.client, home.address, CLOCKS_PORT);
});
test.after(downAll);

async function uptimeOf(node: LabNode): Promise<number> {
  return Number.parseFloat((await node.run(['cat', '/proc/uptime'])).stdout);
}

async function ask(): Promise<Clocks> {
  return JSON.parse(await client.ask('?')) as Clocks;
}

/** Every way to wait, and how often each has come to its end. */
function waits(said: Clocks): [string, Ends][] {
  return Object.entries(said).filter((entry): entry is [string, Ends] => Array.isArray(entry[1]));
}

interface Ticks {
  /** In what is read first, in what is read next, and in what is left for later. */
  readonly now: number;
  readonly next: number;
  readonly left: number;
}

/** Reads the periodic timers, which are left with unread ticks again. */
async function askTicks(): Promise<{ unread: Ticks; counted: Ticks; over: number; since: number }> {
  const said = await client.ask('ticks');
  const [now = 0, next = 0, left = 0, counted = 0, nextCounted = 0, leftCounted = 0, over = 0, since = 0] = (
    said.match(/[\d.]+/g) ?? []
  ).map(Number);
  return { unread: { now, next, left }, counted: { now: counted, next: nextCounted, left: leftCounted }, over, since };
}

/** Waits until every way to wait has come to its end again. */
async function afterEveryWait(): Promise<Clocks> {
  const before = new Map(waits(await ask()));
  for (;;) {
    const said = await ask();
    if (waits(said).every(([way, [ends]]) => ends > (before.get(way)?.[0] ?? 0))) return said;
    await sleep(20);
  }
}

test('the nodes have been up for very different times', async () => {
  const [home, host1, host2] = await Promise.all(['home', 'host1', 'host2'].map((n) => uptimeOf(scenario.lab.node(n))));
  assert.ok((host1 ?? 0) > (home ?? 0) + 1e7, `host1 ${host1} s, home ${home} s`);
  assert.ok((host2 ?? 0) < (home ?? 0) - 80_000, `host2 ${host2} s, home ${home} s`);
});

const TICKS_A_SECOND = 50;
const ticked = { unread: 0, counted: 0 };

for (const to of ['host1', 'host2', 'home', 'host1', 'home']) {
  test(`move to ${to}: its clocks since boot go on, and whatever waits on them ends neither early nor an uptime late`, async () => {
    const before = await ask();
    const { unread, counted } = await askTicks();
    if (to === 'home') await scenario.recall(clocks);
    else await scenario.migrate(clocks, to);
    assert.equal(placesOf(scenario.lab, program), [to === 'home' ? 'home' : `${to} (in a pod)`]);
    const ticks = await askTicks();
    for (const [kind, first, second] of [
      ['unread', unread, ticks.unread],
      ['counted', counted, ticks.counted],
    ] as const) {
      assert.ok(first.left > (kind === 'counted' ? 1 : 0), `${first.left} ticks were left`);
      assert.ok(second.now >= first.left, `${kind}: of ${first.left} ticks that were left it reads ${second.now}`);
      assert.ok(second.next > 0, `${kind}: it has stopped`);
      ticked[kind] += first.now + first.next + second.now + second.next;
      assert.ok(ticked[kind] <= ticks.since * TICKS_A_SECOND, `${kind}: ${ticked[kind]} ticks in ${ticks.since} s`);
    }
    assert.is(ticks.over, 0, 'a timer that had come to its end came to it once more');
    const after = await afterEveryWait();
    for (const clock of ['monotonic', 'boottime', 'uptime'] as const) {
      const passed = after[clock] - before[clock];
      assert.ok(passed > 0 && passed < 60, `${clock}: ${before[clock]} before, ${after[clock]} after`);
    }
    assert.is(after.back, 0, JSON.stringify(after));
    assert.ok(after.ahead < 0.1, `the monotonic clock was ${after.ahead} s too fast`);
    for (const [way, [, earliest, latest]] of waits(after)) {
      assert.ok(earliest >= 0, `${way} ended ${-earliest} s early`);
      assert.ok(latest < LATE_S, `${way} ended ${latest} s late`);
    }
    stations.push(await macOf(scenario.lab.node(to)));
  });
}

test('its TCP timestamps went on through all of it (RFC 7323: a peer drops what is older)', async () => {
  await client.close();
  const home = await macOf(scenario.home);
  const sent = (await capture.stop()).flatMap((frame) => {
    const packet = readIpv4(frame);
    const segment = packet === undefined ? undefined : readTcp(packet);
    return segment?.sourcePort === CLOCKS_PORT && segment.timestamp !== undefined ? [segment] : [];
  });
  const macs = sent.map(({ sourceMac }) => sourceMac).filter((mac, index, all) => mac !== all[index - 1]);
  assert.equal(macs, [home, ...stations]);
  sent.forEach(({ timestamp = 0, at }, index) => {
    const last = sent[index - 1];
    if (last === undefined) return;
    const ticks = (timestamp - (last.timestamp ?? 0)) | 0; // milliseconds, modulo 2^32
    assert.ok(ticks >= 0, `the timestamp went back by ${-ticks} after ${at}`);
    assert.ok(ticks < at - last.at + 1000, `the timestamp went ${ticks} ms ahead in ${at - last.at} ms`);
  });
});

/** Starts a ticker under a pid of our choosing, in a session of its own (kernel.rst, ns_last_pid). */
async function tickerAs(node: LabNode, pid: number, port: number): Promise<void> {
  const start = 'echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; setsid "$2" "$3" </dev/null >/dev/null 2>&1 & echo $!';
  const { stdout } = await node.run(['setsid', '-w', 'bash', '-c', start, 'bash', String(pid), TICKER, String(port)]);
  assert.is(Number(stdout), pid, `${node.name} gave another pid`);
}

/** Where each process with a pid runs that answers on a port, as `<node>` or `<node> (in a pod)`. */
function tickers(pid: number): string[] {
  const found = copiesOf(scenario.lab, TICKER).filter((copy) => copy.pid === pid && copy.live);
  return found
    .map(({ node, depth, commandLine }) => `${commandLine.split(' ')[1]}: ${node}${depth > 1 ? ' (in a pod)' : ''}`)
    .sort();
}

async function awakeningsAt(node: LabNode, port: number): Promise<number> {
  const ticker = await LineClient.connect(scenario.client, node.address, port);
  const { awakenings } = await askTicker(ticker);
  await ticker.close();
  return awakenings;
}

test('processes with one and the same pid, of two homes and of the host itself, live on one host', async () => {
  const { home, lab } = scenario;
  const [host1, host2] = [lab.node('host1'), lab.node('host2')];
  for (const [node, port] of [
    [home, PORTS.home],
    [host2, PORTS.host2],
    [host1, PORTS.host1],
  ] as const) {
    await tickerAs(node, PID, port);
  }
  await scenario.migrate(PID, 'host1');
  const { status, ...said } = await scenario.homeproxy('host2', ['migrate', String(PID), 'host1', '--json']);
  assert.is(status, 0, JSON.stringify(said));
  const expected = [`${PORTS.home}: host1 (in a pod)`, `${PORTS.host2}: host1 (in a pod)`, `${PORTS.host1}: host1`];
  assert.equal(tickers(PID), expected.sort());
  const { processes } = await scenario.ask('host1');
  assert.equal(processes.map(({ pid, home: of }) => `${pid} of ${of}`).sort(), [`${PID} of home`, `${PID} of host2`]);
  for (const [node, port] of [
    [home, PORTS.home],
    [host2, PORTS.host2],
    [host1, PORTS.host1],
  ] as const) {
    assert.ok((await awakeningsAt(node, port)) > 0);
  }
});

test('a pid that somebody at home was given meanwhile: the recall says by whom, and the process lives on where it is', async () => {
  const { home } = scenario;
  await tickerAs(home, PID, PORTS.stranger);
  const outcome = await scenario.homeproxy('home', ['recall', String(PID), '--json']);
  assert.is(outcome.status, 3, describe(outcome));
  const { message, remedy = '' } = errorOf(outcome);
  assert.match(message, new RegExp(`pid ${PID}: at home this number now belongs to .*ticker.*PID_TAKEN`));
  assert.match(remedy, /end that process/);
  assert.ok((await awakeningsAt(home, PORTS.home)) > 0);
  await home.run(['kill', String(PID)]);
  while (
    (await scenario.homeproxy('home', ['ps'])).status === 0 &&
    tickers(PID).some((place) => place.endsWith(': home'))
  ) {
    await sleep(10);
  }
});

test('each comes back to its own home under its pid', async () => {
  await scenario.recall(PID);
  const { status, ...said } = await scenario.homeproxy('host2', ['recall', String(PID), '--json']);
  assert.is(status, 0, JSON.stringify(said));
  assert.equal(tickers(PID), [`${PORTS.home}: home`, `${PORTS.host2}: host2`, `${PORTS.host1}: host1`].sort());
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
