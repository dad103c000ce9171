/** Which hook an uplink's programs go to, and why, as `status` says it. */

import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { chooseHook, fallBack } from '../../cli/forwarding/hook-choice.js';
import { suite } from '../suite.js';

const link = (kind?: string) => ({
  ifindex: 2,
  ifname: 'eth0',
  mtu: 1500,
  ...(kind === undefined ? {} : { linkinfo: { info_kind: kind } }),
});
const refused = (code: string) => Object.assign(new Error(code), { code });

const test = suite('choice of hook');

test('what is configured is not second-guessed', () => {
  for (const [choice, mode] of [
    ['xdp', 'xdp-native'],
    ['xdp-generic', 'xdp-generic'],
    ['tc', 'tc'],
  ] as const) {
    assert.equal(chooseHook(link('veth'), choice), { mode, reason: 'as configured' });
  }
});

test('auto tries native XDP on hardware, and not on veth', () => {
  assert.is(chooseHook(link(), 'auto').mode, 'xdp-native');
  const veth = chooseHook(link('veth'), 'auto');
  assert.is(veth.mode, 'tc');
  assert.match(veth.reason, /auto: .*partial checksums/);
});

test('auto goes to tc when the driver refuses, and says what it said', () => {
  for (const [code, reason] of [
    ['EOPNOTSUPP', /auto: its driver has no native XDP \(EOPNOTSUPP\)/],
    ['EINVAL', /MTU, LRO, queues\) \(EINVAL\)/],
    ['ERANGE', /MTU\) \(ERANGE\)/],
    ['ENOMEM', /queues .*\(ENOMEM\)/],
  ] as const) {
    const choice = fallBack(refused(code));
    assert.is(choice?.mode, 'tc');
    assert.match(choice?.reason ?? '', reason);
  }
});

test('an error that is not about the driver is not taken for one', () => {
  for (const code of ['EBUSY', 'EPERM', 'ENODEV']) assert.is(fallBack(refused(code)), undefined, code);
  assert.is(fallBack(new UserError({ code: 'EINVAL', message: 'ours' })), undefined);
});

test.run();
