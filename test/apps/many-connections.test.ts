// limit: 180 s

import * as assert from 'uvu/assert';
import { placesOf } from '../lab/copies.js';
import { downAll } from '../lab/lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from '../lab/load.js';
import { startRedis } from '../lab/redis.js';
import { Scenario } from '../lab/scenario.js';
import { settledTraces } from '../lab/traces.js';
import { suite } from '../suite.js';

const CONNECTIONS = 5000;

const test = suite(`${CONNECTIONS} connections of one process, home -> host1 -> home`);
let scenario: Scenario;
let load: Load;
let pid: number;

test.before(async () => {
  scenario = await Scenario.start('many', { hosts: 1 });
  pid = (await startRedis(scenario.home)).pid;
  load = await Load.start(scenario.client, scenario.home.address, { connections: CONNECTIONS, paceMs: 3000 });
});
test.after(downAll);

for (const to of ['host1', 'home']) {
  test(`move to ${to}`, async () => {
    await load.nextSecond();
    const moved = to === 'home' ? await scenario.recall(pid) : await scenario.migrate(pid, to);
    assert.equal(placesOf(scenario.lab, 'redis-server'), [to === 'home' ? 'home' : `${to} (in a pod)`]);
    assert.is(moved.connections, CONNECTIONS);
    const { replies } = load.progress;
    while ((await load.nextSecond()).replies <= replies + CONNECTIONS);
  });
}

test('every reply came, once and in order, on every connection', async () => {
  await load.nextSecond();
  const result = await load.stop();
  assert.equal(faultsOf(result), NO_FAULTS);
  assert.ok(result.replies > 2 * CONNECTIONS, `${result.replies} replies`);
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
