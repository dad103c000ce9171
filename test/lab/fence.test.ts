// limit: 120 s

import * as assert from 'uvu/assert';
import { Journal } from '../../cli/migration/journal.js';
import { suite } from '../suite.js';
import { Capture, macOf } from './capture.js';
import { copiesOf, placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { Load } from './load.js';
import { type Redis, startRedis } from './redis.js';
import { errorOf, Scenario } from './scenario.js';

const SERVER = 'redis-server';

const test = suite('a copy on host1 whose home knows it elsewhere under a newer epoch');
let scenario: Scenario;
let redis: Redis;
let load: Load;

test.before(async () => {
  scenario = await Scenario.start('fence');
  redis = await startRedis(scenario.home);
  load = await Load.start(scenario.client, scenario.home.address, { connections: 10, paceMs: 10, graceMs: 10 });
  await scenario.migrate(redis.pid, 'host1');
});
test.after(downAll);

/** Changes a node's journal while its daemon is down. */
async function rewrite(node: 'home' | 'host2', change: (journal: Journal) => void): Promise<void> {
  await scenario.lab.stopDaemon(node);
  const journal = new Journal(scenario.lab.node(node).path('/var/lib/homeproxy'));
  change(journal);
  await journal.close();
  await scenario.lab.startDaemon(node);
}

/** What an administrator who restores an old or a foreign journal does to a home node. */
async function rewriteTwin(change: { epoch: number; location: 'host1' | 'host2' }): Promise<void> {
  const { address } = scenario.lab.node(change.location);
  await rewrite('home', (journal) => {
    for (const twin of journal.twins.all()) {
      journal.twins.put(twin.twin, { ...twin, epoch: change.epoch, location: { name: change.location, address } });
    }
  });
}

async function repliesInASecond(): Promise<number> {
  const before = await load.nextSecond();
  const after = await load.nextSecond();
  return after.replies - before.replies;
}

test('serves on while its home says the same as it', async () => {
  await scenario.lab.stopDaemon('host1');
  await scenario.lab.startDaemon('host1');
  assert.ok((await repliesInASecond()) > 100);
});

test('is not taken by a host that has heard of a newer epoch, and stays where it is', async () => {
  const twins: string[] = [];
  await rewrite('home', (journal) => twins.push(...journal.twins.all().map(({ twin }) => twin)));
  await rewrite('host2', (journal) => journal.epochs.put(twins[0] ?? '', 100));
  const outcome = await scenario.homeproxy('home', ['migrate', String(redis.pid), 'host2', '--json']);
  assert.is(outcome.status, 6);
  assert.is(errorOf(outcome).code, 'STALE_EPOCH');
  assert.equal(placesOf(scenario.lab, SERVER), ['host1 (in a pod)']);
  assert.ok((await repliesInASecond()) > 100);
});

test('neither runs, nor hears, nor says a word any more once its daemon has asked', async () => {
  await rewriteTwin({ epoch: 9, location: 'host2' });
  await scenario.lab.stopDaemon('host1');
  await scenario.lab.startDaemon('host1');
  for (const deadline = Date.now() + 5000; placesOf(scenario.lab, SERVER)[0] !== 'host1 (in a pod, stopped)'; ) {
    assert.ok(Date.now() < deadline, placesOf(scenario.lab, SERVER).join());
    await load.nextSecond();
  }
  // Somebody lets it run all the same: the datapath does not.
  const cgroup = copiesOf(scenario.lab, SERVER)[0]?.cgroup ?? '';
  await scenario.lab.node('host1').run(['sh', '-c', 'echo 0 >"$1"', 'sh', `/sys/fs/cgroup${cgroup}/cgroup.freeze`]);
  const host = await macOf(scenario.lab.node('host1'));
  const capture = await Capture.start(scenario.client);
  assert.is(await repliesInASecond(), 0);
  const frames = await capture.stop();
  assert.equal(
    frames.filter(({ bytes }) => bytes.subarray(6, 12).toString('hex') === host.replaceAll(':', '')).length,
    0,
  );
});

test('is not moved on, and no older epoch revives it', async () => {
  await rewriteTwin({ epoch: 3, location: 'host1' });
  const outcome = await scenario.homeproxy('home', ['migrate', String(redis.pid), 'host2', '--json']);
  assert.is(outcome.status, 3);
  assert.is(errorOf(outcome).code, 'FENCED');
  assert.is(await repliesInASecond(), 0);
});

test.run();
