// limit: 240 s

import * as assert from 'uvu/assert';
import { BpfMap } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { attachedDuring, attachedPrograms } from './attached.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { failuresOf, NewConnections } from './new-connections.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const SERVER = 'redis-server';
/** Linux retransmits after 200 ms at the earliest (TCP_RTO_MIN): a reply that comes sooner was lost by nobody. */
const ORDINARY_WAIT_MS = 200;

const test = suite('while Redis is away on host1, under load');
let scenario: Scenario;
let redis: Redis;
let load: Load;

test.before(async () => {
  scenario = await Scenario.start('crash');
  const { home, client } = scenario;
  redis = await startRedis(home);
  load = await Load.start(client, home.address, { paceMs: 8 });
  await scenario.migrate(redis.pid, 'host1');
  await load.nextSecond();
});
test.after(downAll);

/** The load goes on as if nothing had happened, and new connections work. */
async function assertServed(): Promise<void> {
  const fresh = await NewConnections.start(scenario.client, scenario.home.address, REDIS_PORT, 20);
  const before = await load.nextSecond();
  const after = await load.nextSecond();
  assert.ok(after.replies > before.replies + 100, `${after.replies - before.replies} replies in a second`);
  assert.is(after.resets, 0);
  assert.ok(after.longestMs < ORDINARY_WAIT_MS, `one waited ${after.longestMs} ms`);
  const attempts = await fresh.stop();
  assert.equal(failuresOf(attempts), []);
  assert.ok(attempts.attempts.length >= 30, `${attempts.attempts.length} new connections`);
}

type Row = Awaited<ReturnType<Scenario['ps']>>[number];

async function rows(): Promise<{ home: Row; host1: Row }> {
  const [[home], [host1]] = await Promise.all([scenario.ps('home'), scenario.ps('host1')]);
  if (home === undefined || host1 === undefined) throw new Error(`not in ps: ${JSON.stringify({ home, host1 })}`);
  return { home, host1 };
}

/** All that a row says but its counters. */
function identityOf({ counters, ...rest }: Row): Omit<Row, 'counters'> {
  assert.ok(Object.keys(counters).length > 0);
  return rest;
}

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  let before: { home: Row; host1: Row };
  let programs: Record<string, number[]>[];

  test(`traffic goes on after ${signal} to the daemon at home`, async () => {
    before = await rows();
    programs = [await attachedPrograms(scenario.home), await attachedPrograms(scenario.lab.node('host1'))];
    await scenario.lab.stopDaemon('home', signal);
    await assertServed();
  });

  test(`and after ${signal} to the one on host1 as well`, async () => {
    await scenario.lab.stopDaemon('host1', signal);
    await assertServed();
    assert.equal(placesOf(scenario.lab, SERVER), ['host1 (in a pod)']);
    assert.equal([await attachedPrograms(scenario.home), await attachedPrograms(scenario.lab.node('host1'))], programs);
  });

  test('daemons that start again adopt what is there, and no hook is ever without its program', async () => {
    for (const [index, name] of ['home', 'host1'].entries()) {
      const seen = await attachedDuring(scenario.lab.node(name), () => scenario.lab.startDaemon(name));
      const hooks = Object.keys(programs[index] ?? {});
      assert.ok(hooks.length >= 2, hooks.join(' '));
      for (const found of seen) {
        assert.equal(Object.keys(found), hooks, `${name}: ${JSON.stringify(seen)}`);
        for (const [hook, ids] of Object.entries(found)) assert.is(ids.length, 1, `${name}: two programs at ${hook}`);
      }
    }
    const after = await rows();
    assert.equal(identityOf(after.home), identityOf(before.home));
    assert.equal(identityOf(after.host1), identityOf(before.host1));
    for (const node of ['home', 'host1'] as const) {
      for (const [reason, { packets }] of Object.entries(before[node].counters)) {
        const now = after[node].counters[reason]?.packets ?? 0;
        assert.ok(now >= packets, `${node}: ${reason} was ${packets} and is ${now}`);
      }
    }
    assert.ok((after.home.counters.tunnelled?.packets ?? 0) > (before.home.counters.tunnelled?.packets ?? 0) + 100);
    await assertServed();
  });
}

test('the state of a binding that a daemon was killed over is swept by the next one', async () => {
  const pin = scenario.lab.node('host2').path('/sys/fs/bpf/homeproxy/maps/park_states');
  await scenario.lab.stopDaemon('host2', 'SIGKILL');
  const map = BpfMap.openPinned(pin);
  const key = Buffer.alloc(map.keySize);
  key.writeUInt32LE(77);
  map.set(key, Buffer.alloc(map.valueSize));
  await scenario.lab.startDaemon('host2');
  assert.equal([...map.keys()], []);
  map.close();
});

test('such a daemon moves it on, and home again, and nothing is left over', async () => {
  await scenario.migrate(redis.pid, 'host2');
  assert.equal(placesOf(scenario.lab, SERVER), ['host2 (in a pod)']);
  await load.nextSecond();
  await scenario.recall(redis.pid);
  assert.equal(placesOf(scenario.lab, SERVER), ['home']);
  await load.nextSecond();
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test('in all this no reply was lost and no connection reset', async () => {
  assert.equal(faultsOf(await load.stop()), NO_FAULTS);
});

test.run();
