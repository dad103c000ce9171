// limit: 900 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { journalMethod } from '../../cli/node/control-methods.js';
import { allSteps, nameOf, reducedMatrix } from '../fault/cases.js';
import { FaultLab } from '../fault/fault-lab.js';
import { runCase } from '../fault/run-case.js';
import { suite } from '../suite.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, NO_FAULTS } from './load.js';

const test = suite('the daemon that stands at a step is killed there, and started again: one copy, nothing left over');
let lab: FaultLab;
let longestMs = 0;

test.before(async () => {
  lab = await FaultLab.start('fault');
  await lab.learn();
});
test.after(downAll);

for (const fault of reducedMatrix()) {
  test(nameOf(fault), async () => {
    const result = await runCase(lab, fault);
    longestMs = Math.max(longestMs, result.stallMs);
    assert.equal(result.faults, []);
    assert.is.not(result.outcome, 'unreached', `no migration of that direction comes to this step; it ${result.said}`);
  });
}

test('a destination whose coordinator dies after the commit clears up by itself', async () => {
  await lab.moveTo('home');
  lab.stopAt('home', 'coordinator:destination-committed');
  const migration = lab.migrate('host1').catch(() => undefined);
  const until = async (holds: () => boolean | Promise<boolean>): Promise<void> => {
    for (const deadline = Date.now() + 25_000; !(await holds()); await sleep(20)) assert.ok(Date.now() < deadline);
  };
  await until(() => lab.arrived('home'));
  const arriving = async (): Promise<number> => (await lab.ask('host1', journalMethod, { last: 1 })).arriving.length;
  assert.is(await arriving(), 1);
  await lab.killDaemon('home');
  await until(async () => (await arriving()) === 0);
  await lab.startDaemon('home');
  await migration;
  assert.equal(await lab.faults(25_000), []);
  assert.is(await lab.location(), 'host1');
});

test('in all this no reply was lost, repeated or out of order, and no connection was reset', async () => {
  assert.equal(faultsOf(await lab.load.stop()), NO_FAULTS);
  console.log(`  ${allSteps().length} steps, the longest stall ${longestMs.toFixed(0)} ms`);
});

test.run();
