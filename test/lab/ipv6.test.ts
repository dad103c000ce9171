// limit: 120 s
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { installProgram, startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { failuresOf, NewConnections } from './new-connections.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { Scenario, type Summary } from './scenario.js';
import { settledTraces } from './traces.js';

const COUNTERS_PORT = 7201;
const CONNECTIONS = 20;

const test = suite('Redis on an IPv6 address, and a server on a wildcard of both families');
let scenario: Scenario;
let redis: Redis;
let counters: { readonly pid: number; readonly program: string };
let loads: Record<'Redis' | 'IPv6' | 'IPv4', Load>;
let fresh: NewConnections[];

test.before(async () => {
  scenario = await Scenario.start('ipv6');
  const { home, client, lab } = scenario;
  redis = await startRedis(home, { bind: home.address6 });
  const program = await installProgram('counters', home, lab.node('host1'), lab.node('host2'));
  counters = { pid: await startServer(home, [program, '::', String(COUNTERS_PORT)], COUNTERS_PORT), program };
  const options = { connections: CONNECTIONS, paceMs: 8 };
  loads = {
    Redis: await Load.start(client, home.address6, options),
    IPv6: await Load.start(client, home.address6, { ...options, port: COUNTERS_PORT }),
    IPv4: await Load.start(client, home.address, { ...options, port: COUNTERS_PORT }),
  };
  fresh = await Promise.all([
    NewConnections.start(client, home.address6, REDIS_PORT, 20),
    NewConnections.start(client, home.address6, COUNTERS_PORT, 20),
    NewConnections.start(client, home.address, COUNTERS_PORT, 20),
  ]);
});
test.after(downAll);

/** Replies to each load, within a second. */
async function repliesInASecond(): Promise<number[]> {
  const reports = (): Promise<{ replies: number }[]> =>
    Promise.all(Object.values(loads).map((load) => load.nextSecond()));
  const before = await reports();
  const after = await reports();
  return after.map(({ replies }, index) => replies - (before[index]?.replies ?? 0));
}

for (const to of ['host1', 'host2', 'home']) {
  test(`both move to ${to}, and serve all their connections there`, async () => {
    const moves: Summary[] = [];
    for (const pid of [redis.pid, counters.pid]) {
      moves.push(to === 'home' ? await scenario.recall(pid) : await scenario.migrate(pid, to));
    }
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    assert.equal(
      [...placesOf(scenario.lab, 'redis-server'), ...placesOf(scenario.lab, counters.program)],
      [place, place],
    );
    const replies = await repliesInASecond();
    assert.ok(
      replies.every((count) => count > 100),
      replies.join(' '),
    );
    moves.forEach(({ connections, parkedPackets, replayedPackets, droppedPackets }, index) => {
      assert.ok(connections >= CONNECTIONS * (index + 1), `${connections} connections`);
      assert.ok(parkedPackets >= CONNECTIONS, `${parkedPackets} parked`);
      assert.equal([replayedPackets, droppedPackets], [parkedPackets, 0]);
    });
  });
}

test('no reply was lost, repeated or out of order, and no connection was reset', async () => {
  for (const [name, load] of Object.entries(loads)) assert.equal(faultsOf(await load.stop()), NO_FAULTS, name);
});

test('connections that a client opened meanwhile all work', async () => {
  for (const attempts of fresh) assert.equal(failuresOf(await attempts.stop()), []);
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
