// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfLink, BpfObject, type BpfProgram, tcAttach, tcxQuery } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, ifindex, veth } from './fixture.js';
import { bpffs } from './private-namespaces.js';

interface Context {
  object: BpfObject;
  decide: BpfProgram;
  mark: BpfProgram;
  shoot: BpfProgram;
  near: number;
}

const test = suite<Context>('tcx');
const code = (expected: string) => (error: NodeJS.ErrnoException) => error.code === expected;
const ids = (near: number): number[] => tcxQuery(near, 'egress').map(({ programId }) => programId);

test.before.each((context) => {
  const object = BpfObject.open(compile('sample')).load();
  const [near] = veth('near', 'far');
  Object.assign(context, { object, near });
  for (const name of ['decide', 'mark', 'shoot'] as const) context[name] = object.program(name);
});

test.after.each(({ object, decide, mark, shoot }) => {
  for (const each of [object, decide, mark, shoot]) each.close();
  execFileSync('ip', ['link', 'del', 'near']);
});

/** Frames that have left by an interface. */
function sent(name: string): number {
  const [link] = JSON.parse(execFileSync('ip', ['-j', '-s', 'link', 'show', name], { encoding: 'utf8' })) as {
    stats64: { tx: { packets: number } };
  }[];
  return link?.stats64.tx.packets ?? 0;
}

/** Whether a frame that is sent out of `near` leaves it: an ARP request that nobody answers. */
function leaves(): boolean {
  execFileSync('ip', ['addr', 'replace', '192.0.2.1/24', 'dev', 'near']);
  execFileSync('ip', ['neigh', 'flush', 'dev', 'near']);
  const before = sent('near');
  const script = "const s=require('dgram').createSocket('udp4');s.send('x',9,'192.0.2.9',()=>s.close())";
  execFileSync(process.execPath, ['-e', script]);
  return sent('near') > before;
}

for (const direction of ['ingress', 'egress'] as const) {
  test(`${direction}: attached, seen by a query, and gone when the link closes`, ({ mark, near }) => {
    assert.equal(tcxQuery(near, direction), []);
    const link = mark.attachTcx(near, direction);
    const { id, programId, ifindex: attachedTo } = link.info();
    assert.equal(tcxQuery(near, direction), [{ programId: mark.id, linkId: id }]);
    assert.equal([programId, attachedTo], [mark.id, near]);
    assert.equal(tcxQuery(near, direction === 'ingress' ? 'egress' : 'ingress'), []);
    link.close();
    assert.equal(tcxQuery(near, direction), []);
  });
}

test('without a link it lasts as long as the interface', ({ mark, shoot }) => {
  const [passing] = veth('passing', 'passing-peer');
  mark.attachTcxForGood(passing, 'ingress');
  shoot.attachTcxForGood(passing, 'ingress');
  const expected = [shoot, mark].map(({ id }) => ({ programId: id, linkId: 0 }));
  assert.equal(tcxQuery(passing, 'ingress'), expected);
  execFileSync('ip', ['link', 'del', 'passing']);
  assert.throws(() => tcxQuery(passing, 'ingress'), code('ENODEV'));
});

test('the last that is attached comes first, and its verdict hides those behind it, filters too', ({
  mark,
  shoot,
  near,
}) => {
  tcAttach({ ifindex: near, direction: 'egress', priority: 1, handle: 1, program: shoot });
  assert.not(leaves(), 'the filter drops');
  const second = mark.attachTcx(near, 'egress'); // TC_ACT_OK
  assert.ok(leaves(), 'the filter is not asked');
  const first = shoot.attachTcx(near, 'egress');
  assert.equal(ids(near), [shoot.id, mark.id]);
  assert.not(leaves());
  for (const link of [first, second]) link.close();
});

test('the same program twice, one of another kind, and an interface that is not there are refused', ({
  decide,
  mark,
  near,
}) => {
  const link = mark.attachTcx(near, 'egress');
  assert.throws(() => mark.attachTcx(near, 'egress'), code('EEXIST'));
  assert.throws(() => decide.attachTcx(near, 'egress'), code('EINVAL'));
  assert.throws(() => mark.attachTcx(99_999, 'egress'), code('ENODEV'));
  assert.throws(() => tcxQuery(99_999, 'egress'), code('ENODEV'));
  link.close();
});

test('a pinned link outlives close, is opened again, updated in its place among others, and detached', ({
  mark,
  shoot,
  near,
}) => {
  const path = join(bpffs, 'tcx');
  const link = mark.attachTcx(near, 'egress');
  link.pin(path);
  link.close();
  const again = BpfLink.openPinned(path);
  const other = BpfObject.open(compile('sample')).load();
  const theirs = other.program('mark');
  const before = theirs.attachTcx(near, 'egress');
  assert.equal(ids(near), [theirs.id, mark.id]);
  again.update(shoot);
  again.update(shoot); // what is there already
  assert.equal(ids(near), [theirs.id, shoot.id]);
  again.detach();
  assert.equal([ids(near), again.info().ifindex], [[theirs.id], 0]);
  assert.throws(() => again.update(mark), code('ENOLINK'));
  again.unpin();
  for (const each of [again, before, theirs, other]) each.close();
});

test('a link whose interface is gone says so, and is not of the one that comes again under its name', ({
  mark,
  shoot,
}) => {
  const [gone] = veth('gone', 'gone-peer');
  const link = mark.attachTcx(gone, 'ingress');
  execFileSync('ip', ['link', 'del', 'gone']);
  assert.is(link.info().ifindex, 0);
  assert.throws(() => link.update(shoot), code('ENOLINK'));
  veth('gone', 'gone-peer');
  assert.equal(tcxQuery(ifindex('gone'), 'ingress'), []);
  assert.is(link.info().ifindex, 0);
  link.close();
  execFileSync('ip', ['link', 'del', 'gone']);
});

test.run();
