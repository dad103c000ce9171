import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { checkLabName, planNodes } from '../../cli/lab/plan.js';
import { mountPoints } from '../../cli/lab/shared-system.js';
import { suite } from '../suite.js';

const test = suite('the plan of a lab');

test('gives client, home and hosts consecutive addresses', () => {
  assert.equal(
    planNodes(3, 1000).map(({ name, role, address, address6 }) => `${name} ${role} ${address} ${address6}`),
    [
      'client client 10.77.0.1 fd77::1',
      'home home 10.77.0.2 fd77::2',
      'host1 host 10.77.0.3 fd77::3',
      'host2 host 10.77.0.4 fd77::4',
      'host3 host 10.77.0.5 fd77::5',
    ],
  );
});

test('sets the clocks since boot of hosts far ahead of home or behind it, never below zero', () => {
  const offsets = planNodes(4, 61.5).map(({ uptimeOffset }) => uptimeOffset);
  assert.equal(offsets, [0, 86_400, 400 * 86_400, -30, 402 * 86_400, -30]);
});

test('takes no name that could lead out of the folder or cgroup of labs', () => {
  for (const name of ['', '.', '..', 'a/b', '-a', 'A', 'a b', 'a.lock', 'a'.repeat(33)]) {
    assert.throws(
      () => checkLabName(name),
      (error: unknown) => error instanceof UserError && error.exitStatus === 2,
    );
  }
  assert.is(checkLabName('test-1'), 'test-1');
});

test('finds mount points in mountinfo: decoded, once each, parents first, nothing that mounts itself when looked at', () => {
  const text = [
    '31 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw',
    '40 31 0:30 / /srv/a\\040b\\134c/deep rw - tmpfs none rw',
    '41 31 0:31 / /srv/a\\040b\\134c rw master:2 propagate_from:1 - tmpfs none rw',
    '42 31 0:32 / /net rw - autofs systemd-1 rw',
    '43 41 0:33 / /srv/a\\040b\\134c rw - tmpfs over rw',
    '',
  ].join('\n');
  assert.equal(mountPoints(text), ['/', '/srv/a b\\c', '/srv/a b\\c/deep']);
});

test.run();
