// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import {
  BpfLink,
  type BpfMap,
  BpfObject,
  type BpfProgram,
  programInfo,
  tcAttach,
  tcDetach,
  tcQuery,
  tcRemoveClsact,
  xdpQuery,
} from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, ifindex, u32, until, veth } from './fixture.js';
import { bpffs } from './private-namespaces.js';

interface Context {
  object: BpfObject;
  decide: BpfProgram;
  prepend: BpfProgram;
  mark: BpfProgram;
  shoot: BpfProgram;
  counts: BpfMap;
  near: number;
  far: number;
}

const test = suite<Context>('attach');
const code = (expected: string) => (error: NodeJS.ErrnoException) => error.code === expected;

test.before.each((context) => {
  const object = BpfObject.open(compile('sample')).load();
  const [near, far] = veth('near', 'far');
  Object.assign(context, { object, near, far, counts: object.map('a_name_longer_than_fifteen') });
  for (const name of ['decide', 'prepend', 'mark', 'shoot'] as const) context[name] = object.program(name);
});

test.after.each(({ object, decide, prepend, mark, shoot, counts }) => {
  for (const each of [object, decide, prepend, mark, shoot, counts]) each.close();
  execFileSync('ip', ['link', 'del', 'near']);
});

const total = (counts: BpfMap): number =>
  (counts.getPerCpu(u32(0)) ?? []).reduce((sum, value) => sum + value.readUInt32LE(), 0);

/** Sends one broadcast frame out of an interface: an ARP request that nobody answers. */
function sendFrame(name: string): void {
  execFileSync('ip', ['addr', 'replace', '192.0.2.1/24', 'dev', name]);
  const sent = "const s=require('dgram').createSocket('udp4');s.send('x',9,'192.0.2.9',()=>s.close())";
  execFileSync(process.execPath, ['-e', sent]);
}

for (const [mode, found] of [
  ['native', 'native'],
  ['generic', 'generic'],
  ['auto', 'native'],
] as const) {
  test(`XDP ${mode}: attached, seen by a query, it sees packets, and it is gone when the link closes`, async (context) => {
    const { decide, near, counts } = context;
    assert.is(xdpQuery(near), undefined);
    const link = decide.attachXdp(near, { mode });
    assert.equal(xdpQuery(near), { mode: found, programId: decide.id });
    assert.is(link.info().ifindex, near);
    assert.is(link.info().programId, decide.id);
    assert.is(link.info().id > 0, true);
    const before = total(counts);
    sendFrame('far');
    await until(() => total(counts) > before, 'the program saw the frame');
    link.close();
    assert.is(xdpQuery(near), undefined);
    link.close();
    assert.throws(() => link.info(), code('EBADF'));
    assert.throws(() => link.update(decide), code('EBADF'));
  });
}

test("somebody else's program is not replaced", ({ decide, prepend, near }) => {
  const link = decide.attachXdp(near, { mode: 'native' });
  assert.throws(() => prepend.attachXdp(near, { mode: 'native' }), code('EBUSY'));
  assert.is(xdpQuery(near)?.programId, decide.id);
  link.close();
});

test('an interface that is not there and a program of another kind are refused', ({ decide, mark, near }) => {
  assert.throws(() => decide.attachXdp(99_999, { mode: 'auto' }), code('ENODEV'));
  assert.throws(() => mark.attachXdp(near, { mode: 'auto' }), code('EINVAL'));
  assert.throws(() => xdpQuery(99_999), code('ENODEV'));
});

test('native XDP on an interface whose driver has none is EOPNOTSUPP; auto falls back to generic', ({ decide }) => {
  const lo = ifindex('lo');
  assert.throws(() => decide.attachXdp(lo, { mode: 'native' }), code('EOPNOTSUPP'));
  const link = decide.attachXdp(lo, { mode: 'auto' });
  assert.equal(xdpQuery(lo), { mode: 'generic', programId: decide.id });
  link.close();
});

test('a pinned link outlives close, can be opened again, updated and taken away', ({ decide, prepend, near }) => {
  const path = join(bpffs, 'link');
  const link = decide.attachXdp(near, { mode: 'native' });
  assert.throws(() => link.unpin(), code('ENOENT'));
  link.pin(path);
  assert.is(link.path, path);
  link.close();
  assert.is(xdpQuery(near)?.programId, decide.id, 'pinned, it stays');

  const again = BpfLink.openPinned(path);
  again.update(prepend);
  assert.is(xdpQuery(near)?.programId, prepend.id);
  assert.is(programInfo(prepend.id).name, 'prepend');
  again.unpin();
  assert.is(existsSync(path), false);
  assert.is(xdpQuery(near)?.programId, prepend.id, 'open, it stays');
  again.close();
  assert.is(xdpQuery(near), undefined);
  assert.throws(() => BpfLink.openPinned(path), code('ENOENT'));
});

test('a detached link, and one whose interface is gone, says so: ifindex 0, update ENOLINK', ({
  decide,
  prepend,
  near,
}) => {
  const link = decide.attachXdp(near, { mode: 'native' });
  link.detach();
  assert.is(xdpQuery(near), undefined);
  assert.is(link.info().ifindex, 0);
  assert.throws(() => link.update(prepend), code('ENOLINK'));
  link.close();

  const [gone] = veth('gone', 'gone-peer');
  const orphan = decide.attachXdp(gone, { mode: 'native' });
  execFileSync('ip', ['link', 'del', 'gone']);
  assert.is(orphan.info().ifindex, 0);
  assert.throws(() => orphan.update(prepend), code('ENOLINK'));
  orphan.close();
});

for (const direction of ['ingress', 'egress'] as const) {
  test(`tc ${direction}: attach says whether it made clsact; query, replace, detach`, ({ mark, shoot, near }) => {
    const place = { ifindex: near, direction, priority: 10, handle: 1 };
    assert.is(tcQuery(place), undefined, 'without clsact');
    assert.is(tcDetach(place), false);
    assert.equal(tcAttach({ ...place, program: mark }), { createdClsact: true });
    assert.equal(tcQuery(place), { programId: mark.id });
    assert.is(tcQuery({ ...place, priority: 11 }), undefined);
    assert.is(tcQuery({ ...place, handle: 2 }), undefined);
    assert.throws(() => tcAttach({ ...place, program: shoot }), code('EEXIST'));
    assert.equal(tcQuery(place), { programId: mark.id });
    assert.equal(tcAttach({ ...place, program: shoot, replace: true }), { createdClsact: false });
    assert.equal(tcQuery(place), { programId: shoot.id });
    assert.is(tcDetach(place), true);
    assert.is(tcDetach(place), false);
    assert.is(tcRemoveClsact(near), true);
    assert.is(tcRemoveClsact(near), false);
  });
}

test('tc: several filters in one place, told apart by priority; removing clsact removes all', ({
  mark,
  shoot,
  near,
}) => {
  const first = { ifindex: near, direction: 'ingress', priority: 1, handle: 1 } as const;
  const second = { ...first, direction: 'egress', priority: 2 } as const;
  tcAttach({ ...first, program: mark });
  assert.equal(tcAttach({ ...second, program: shoot }), { createdClsact: false });
  assert.equal([tcQuery(first), tcQuery(second)], [{ programId: mark.id }, { programId: shoot.id }]);
  const shown = execFileSync('tc', ['filter', 'show', 'dev', 'near', 'ingress'], { encoding: 'utf8' });
  assert.match(shown, /pref 1 bpf .*handle 0x1 mark.* direct-action/);
  tcRemoveClsact(near);
  assert.equal([tcQuery(first), tcQuery(second)], [undefined, undefined]);
});

test('tc: a refused program leaves no clsact behind, and the error has what the kernel said', ({ decide, near }) => {
  const place = { ifindex: near, direction: 'ingress', priority: 1, handle: 1 } as const;
  assert.throws(() => tcAttach({ ...place, program: decide }), code('EINVAL'));
  assert.is(tcRemoveClsact(near), false);
  const nowhere = { ...place, ifindex: 99_999 };
  assert.throws(() => tcAttach({ ...nowhere, program: decide }), code('ENODEV'));
  assert.throws(() => tcQuery(nowhere), code('ENODEV'));
  assert.throws(() => tcRemoveClsact(99_999), code('ENODEV'));
});

test('tc: interface, priority and handle must be in range', ({ mark, near }) => {
  const place = { ifindex: near, direction: 'ingress', priority: 1, handle: 1 } as const;
  for (const wrong of [{ ifindex: 0 }, { priority: 0 }, { priority: 65_536 }, { handle: 0 }, { handle: 2 ** 32 }]) {
    assert.throws(() => tcAttach({ ...place, ...wrong, program: mark }), RangeError);
    assert.throws(() => tcQuery({ ...place, ...wrong }), RangeError);
  }
});

test.run();
