// limit: 120 s

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { type Redis, startRedis } from './redis.js';
import { oneLine, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const SERVER = 'redis-server';

const test = suite('a home node that lost its memory while Redis is away on host1');
let scenario: Scenario;
let redis: Redis;
let load: Load;

test.before(async () => {
  scenario = await Scenario.start('recover');
  redis = await startRedis(scenario.home);
  load = await Load.start(scenario.client, scenario.home.address, { connections: 20, paceMs: 10 });
  await scenario.migrate(redis.pid, 'host1');
});
test.after(downAll);

test('forwards on, though its daemon no longer knows the process', async () => {
  await scenario.lab.stopDaemon('home', 'SIGKILL');
  await scenario.home.run(['rm', '-rf', '/var/lib/homeproxy']);
  await scenario.lab.startDaemon('home');
  assert.equal(await scenario.ps('home'), []);
  const before = await load.nextSecond();
  const after = await load.nextSecond();
  assert.ok(after.replies > before.replies + 100);
  assert.is(after.resets, 0);
});

test('finds it with `homeproxy recover`, and a second time there is nothing to do', async () => {
  for (const outcome of ['rebuilt', 'known']) {
    const answer = oneLine(await scenario.homeproxy('home', ['recover', '--json']));
    assert.equal(answer, {
      processes: [{ pid: redis.pid, comm: SERVER, location: 'host1', outcome }],
      migrations: [],
      unreachable: [],
    });
  }
  const [row] = await scenario.ps('home');
  assert.equal([row?.pid, row?.location, row?.epoch], [redis.pid, 'host1', 2]);
});

test('moves it on under a newer epoch, and home again, and nothing is left over', async () => {
  await scenario.migrate(redis.pid, 'host2');
  assert.equal(placesOf(scenario.lab, SERVER), ['host2 (in a pod)']);
  await scenario.recall(redis.pid);
  assert.equal(placesOf(scenario.lab, SERVER), ['home']);
  // which cgroup it had left was lost as well: it is in the node's own
  const { home = [], ...hosts } = scenario.untouched;
  const expected = { ...hosts, home: [...home, `process /run/redis/redis-server 0.0.0.0:6379 in /`].sort() };
  assert.equal(await settledTraces(scenario.lab, expected), expected);
});

test('and its clients noticed nothing', async () => {
  assert.equal(faultsOf(await load.stop()), NO_FAULTS);
});

test.run();
