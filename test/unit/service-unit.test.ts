/** The systemd unit for a Node.js and a homeproxy that are anywhere. */
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { projectFile } from '../../cli/system/project.js';
import { serviceUnit } from '../../cli/system/service-unit.js';
import { suite } from '../suite.js';

const TEMPLATE = readFileSync(projectFile('config/systemd/homeproxy.service'), 'utf8');
const NODE = '/home/ada/.nvm/versions/node/v20.20.2/bin/node';
const PROGRAM = '/home/ada/.nvm/versions/node/v20.20.2/lib/node_modules/homeproxy/cli/bin/run.js';

const test = suite('the unit');

test('starts that Node.js with that program, and is else the one that ships', () => {
  const lines = serviceUnit(TEMPLATE, NODE, PROGRAM).split('\n');
  const shipped = TEMPLATE.split('\n');
  const changed = lines.filter((line, index) => line !== shipped[index]);
  assert.equal(changed, [`ExecStart=${NODE} ${PROGRAM} up`]);
  assert.is(lines.length, shipped.length);
});

for (const path of ['/opt/my node/bin/node', '/opt/100%/node', '/opt/$HOME/node', '/opt/"a"/node', '/opt/a\nb/node']) {
  test(`refuses a path that would mean something else there: ${JSON.stringify(path)}`, () => {
    const refusal = (error: unknown) =>
      error instanceof UserError && error.code === 'UNIT_UNWRITABLE' && error.exitStatus === 7;
    assert.throws(() => serviceUnit(TEMPLATE, path, PROGRAM), refusal);
    assert.throws(() => serviceUnit(TEMPLATE, NODE, path), refusal);
  });
}

test.run();
