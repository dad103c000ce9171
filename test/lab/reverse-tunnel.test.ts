// limit: 300 s
/** A network that drops what has another machine's source address: only through its home can a departed process answer. */

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { bareLab, downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { setNode } from './node-settings.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { Scenario } from './scenario.js';
import { StrictNetwork } from './strict-network.js';

const BIG = 3 << 20;
const test = suite('a host whose network drops foreign sources');
let scenario: Scenario;
let network: StrictNetwork;
let redis: Redis;
let load: Load;

async function start(): Promise<void> {
  const lab = await bareLab('reverse');
  setNode(lab, 'host1', { reverseTunnel: true });
  network = await StrictNetwork.impose(lab, {
    foreign1: `iifname "host1" ip saddr != ${lab.node('host1').address}`,
    foreign2: `iifname "host2" ip saddr != ${lab.node('host2').address}`,
  });
  scenario = await Scenario.start('reverse');
  redis = await startRedis(scenario.home);
}

test.before(start);
test.after(downAll);

/** From the client, as its user would. */
async function ask(...command: readonly string[]): Promise<string> {
  const redisCli = ['redis-cli', '-h', scenario.home.address, '-p', String(REDIS_PORT)];
  return (await scenario.client.run(['timeout', '10', ...redisCli, ...command])).stdout.trim();
}

test('with a reverse tunnel the process moves there under load, and nobody notices', async () => {
  load = await Load.start(scenario.client, scenario.home.address, { connections: 10 });
  await load.nextSecond();
  await scenario.migrate(redis.pid, 'host1');
  const before = await load.nextSecond();
  const after = await load.nextSecond();
  assert.ok(after.replies > before.replies, 'it answers from there');
  assert.equal(faultsOf(await load.stop()), NO_FAULTS);
});

test('what it says comes from its home: the network has dropped nothing', async () => {
  assert.is(await network.dropped('foreign1'), 0);
});

test('new connections and answers of megabytes come through', async () => {
  assert.is(await ask('EVAL', `return redis.call("SET", "big", string.rep("x", ${BIG}))`, '0'), 'OK');
  assert.is((await ask('GET', 'big')).length, BIG);
});

test('also after a restart of the daemon there', async () => {
  await scenario.lab.stopDaemon('host1', 'SIGKILL');
  assert.is(await ask('PING'), 'PONG');
  await scenario.lab.startDaemon('host1');
  assert.is(await ask('PING'), 'PONG');
  assert.is(await network.dropped('foreign1'), 0);
});

test('without the setting it cannot be heard from a host of such a network', async () => {
  await scenario.migrate(redis.pid, 'host2');
  let answer = 'none';
  try {
    answer = (await scenario.client.run(['timeout', '3', 'redis-cli', '-h', scenario.home.address, 'PING'])).stdout;
  } catch {
    // timeout says 124
  }
  assert.is(answer, 'none');
  assert.ok((await network.dropped('foreign2')) > 0);
});

test('and is heard again from where there is one, and at home', async () => {
  await scenario.migrate(redis.pid, 'host1');
  assert.is(await ask('PING'), 'PONG');
  await scenario.recall(redis.pid);
  assert.is((await ask('GET', 'big')).length, BIG);
});

test.run();
