// limit: 120 s
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { installProgram, startServer } from './c-program.js';
import { Capture, macOf } from './capture.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { readIpv4, readTcp } from './pcap.js';
import { Scenario } from './scenario.js';

const CLOCKS_PORT = 7301;
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

for (const to of ['host1', 'host2', 'home', 'host1', 'home']) {
  test(`move to ${to}: its clocks since boot go on, and whatever waits on them ends neither early nor an uptime late`, async () => {
    const before = await ask();
    if (to === 'home') await scenario.recall(clocks);
    else await scenario.migrate(clocks, to);
    assert.equal(placesOf(scenario.lab, program), [to === 'home' ? 'home' : `${to} (in a pod)`]);
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

test.run();
