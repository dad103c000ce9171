// limit: 480 s
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { allSteps, nameOf, reducedMatrix } from '../fault/cases.js';
import { FaultLab } from '../fault/fault-lab.js';
import { runCase } from '../fault/run-case.js';
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
    assert.is.not(result.outcome, 'unreached', 'no migration of that direction comes to this step');
  });
}

test('in all this no reply was lost, repeated or out of order, and no connection was reset', async () => {
  assert.equal(faultsOf(await lab.load.stop()), NO_FAULTS);
  console.log(`  ${allSteps().length} steps, the longest stall ${longestMs.toFixed(0)} ms`);
});

test.run();
