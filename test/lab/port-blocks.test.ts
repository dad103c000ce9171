// limit: 120 s
/** Connections that a process opens while it is away: their ports come from a block that its home keeps free for it. */

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { Dialer } from './dialer.js';
import { downAll } from './lab-fixture.js';
import { Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const PORTS = { counters: 7200, datagrams: 7201, first: 7210, second: 7211 };
const RESERVED = '/proc/sys/net/ipv4/ip_local_reserved_ports';
const RESERVED_BY_USER = '7999,65400-65410';

const test = suite('connections that are opened away from home');
let scenario: Scenario;
let first: Dialer;
let second: Dialer;
const blocks: Record<string, [number, number]> = {};

async function start(): Promise<void> {
  scenario = await Scenario.start('blocks');
  const { home, client, lab } = scenario;
  const dialer = await installProgram('dialer', home, lab.node('host1'), lab.node('host2'));
  const counters = await installProgram('counters', client);
  const datagrams = await installProgram('datagrams', client);
  await startServer(client, [counters, '::', String(PORTS.counters)], PORTS.counters);
  await startServer(client, [datagrams, '::', String(PORTS.datagrams)], PORTS.datagrams);
  await home.run(['sh', '-c', `echo ${RESERVED_BY_USER} >${RESERVED}`]);
  first = await Dialer.start([dialer, '0.0.0.0', String(PORTS.first)], home, PORTS.first, client);
  second = await Dialer.start([dialer, home.address, String(PORTS.second)], home, PORTS.second, client);
}

test.before(start);
test.after(downAll);

async function reserved(): Promise<string> {
  return (await scenario.home.run(['cat', RESERVED])).stdout.trim();
}

/** With TCP and UDP, over both families. @returns its own ports */
async function dialAll(dialer: Dialer): Promise<number[]> {
  const { address, address6 } = scenario.client;
  const ports: number[] = [];
  for (const to of [address, address6]) {
    ports.push(await dialer.dial('tcp', to, PORTS.counters), await dialer.dial('udp', to, PORTS.datagrams));
  }
  return ports;
}

function requireIn(ports: readonly number[], pid: number): void {
  const [lowest = 0, highest = 0] = blocks[pid] ?? [];
  for (const port of ports) assert.ok(port >= lowest && port <= highest, `${port} is in ${lowest}-${highest}`);
}

test('each departed process has a block of its own, which its home reserves beside what the user has reserved', async () => {
  await scenario.migrate(first.pid, 'host1');
  await scenario.migrate(second.pid, 'host1');
  for (const { pid, portBlock } of await scenario.ps('home')) {
    blocks[pid] = (portBlock ?? '').split('-').map(Number) as [number, number];
  }
  const [one = [0, 0], other = [0, 0]] = Object.values(blocks);
  assert.is(one[1] - one[0], 255);
  assert.ok(one[1] < other[0] || other[1] < one[0], `${one} and ${other} are apart`);
  const ranges = (await reserved()).split(',').map((range) => range.split('-').map(Number));
  for (const [lowest, highest] of [one, other, [7999, 7999], [65_400, 65_410]] as const) {
    assert.ok(
      ranges.some(([from = 0, to = from]) => from <= lowest && to >= highest),
      `${lowest}-${highest} is reserved`,
    );
  }
});

test('what it opens there has ports of the block, TCP and UDP, and is answered', async () => {
  for (const dialer of [first, second]) requireIn(await dialAll(dialer), dialer.pid);
  await first.goesOn();
  await second.goesOn();
});

test('a killed daemon takes the block up again, also when somebody has written the list anew', async () => {
  await scenario.lab.stopDaemon('home', 'SIGKILL');
  await scenario.home.run(['sh', '-c', `echo ${RESERVED_BY_USER} >${RESERVED}`]);
  await first.goesOn(5);
  await scenario.lab.startDaemon('home');
  const [lowest, highest] = blocks[first.pid] ?? [];
  assert.ok((await reserved()).includes(`${lowest}-`) || (await reserved()).includes(`-${highest}`));
});

test('it goes on to another host with these connections, and opens more there', async () => {
  await scenario.migrate(first.pid, 'host2');
  await first.goesOn();
  requireIn(await dialAll(first), first.pid);
  await first.goesOn();
});

test('at home its ports are ordinary ones, and the list is what the user wrote', async () => {
  await scenario.recall(first.pid);
  await scenario.recall(second.pid);
  await dialAll(first);
  await first.goesOn();
  await second.goesOn();
  assert.is(await reserved(), RESERVED_BY_USER);
});

test('from there it leaves again with all that it has', async () => {
  await scenario.migrate(first.pid, 'host2');
  await first.goesOn();
  assert.equal(await first.report().then(({ streams }) => streams), 12);
  await scenario.recall(first.pid);
  await first.goesOn();
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
  assert.is(await reserved(), RESERVED_BY_USER);
});

test.run();
