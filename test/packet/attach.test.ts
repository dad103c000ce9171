/** How the datapath comes onto an interface, stays there without its daemon, and leaves. */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { programInfo, tcAttach, tcQuery, tcxQuery, xdpQuery } from '../../addon/lib/index.js';
import type { Datapath } from '../../cli/forwarding/datapath.js';
import { ParkQueue } from '../../cli/forwarding/park-queue.js';
import { countTcFilters } from '../../cli/system/tc.js';
import { attaching, foreignProgram, ip, open, PRIORITY, qdiscs, WAYS, ways } from './attach-scene.js';
import { bindingOf } from './binding-fields.js';
import { classifier } from './classifiers.js';
import { refusal } from './refusal.js';

const binding = bindingOf({ action: 'pass', resolved: false }, '10.0.0.2');

const ingressProgram = (ifindex: number): number | undefined => classifier(ifindex, 'ingress');

const test = attaching('attach');

for (const [attach, mode, reason] of [
  ['xdp', 'xdp-native', /as configured/],
  ['xdp-generic', 'xdp-generic', /as configured/],
  ['tc', 'tc', /as configured/],
  ['auto', 'tc', /veth loses partial checksums/],
] as const) {
  test(`${attach} attaches by ${mode} on veth, and says why`, async (context) => {
    const datapath = await open(context, attach);
    const [status] = datapath.status();
    assert.equal([status?.interface, status?.ifindex, status?.mode], ['up0', context.ifindex, mode]);
    assert.match(status?.reason ?? '', reason);
    assert.is(xdpQuery(context.ifindex)?.mode, mode === 'tc' ? undefined : mode.slice('xdp-'.length));
    assert.equal(ways(context.ifindex), ['tcx', 'tcx']);
    assert.equal(status?.classifier, { by: 'tcx', reason: 'the kernel has it' });
    assert.not.match(qdiscs(), /clsact/);
    await datapath.detach();
    datapath.close();
  });
}

test('where tcx is not to be used tc programs are filters, and status says so', async (context) => {
  const datapath = await open(context, 'tc', false);
  assert.equal(ways(context.ifindex), ['filter', 'filter']);
  assert.equal(datapath.status()[0]?.classifier, { by: 'filter', reason: 'as configured' });
  assert.equal(tcxQuery(context.ifindex, 'ingress'), []);
  await datapath.detach();
  datapath.close();
});

for (const [way, tcx] of WAYS) {
  test(`${way}: detaching leaves nothing: no program, no qdisc, no pin`, async (context) => {
    const datapath = await open(context, 'xdp', tcx);
    assert.is(qdiscs().includes('clsact'), !tcx);
    await datapath.useLoopback(true);
    const removed = await datapath.detach();
    datapath.close();
    for (const what of ['XDP program of up0', 'tc ingress program of up0', 'tc egress program of lo']) {
      assert.ok(removed.includes(what), `${what} is not among ${removed}`);
    }
    assert.is(xdpQuery(context.ifindex), undefined);
    assert.equal(ways(context.ifindex), []);
    assert.is(classifier(1, 'egress'), undefined);
    assert.not.match(qdiscs(), /clsact/);
    assert.not.ok(existsSync(context.pins));
    assert.equal(readdirSync(context.run), ['datapath.lock']);
  });
}

test('filters: lo has its qdisc all the time: to make one, or to take it away, loses what is sent there', async (context) => {
  const ofLo = (): string => execFileSync('tc', ['qdisc', 'show', 'dev', 'lo'], { encoding: 'utf8' });
  const datapath = await open(context, 'xdp', false);
  for (const needed of [false, true, false]) {
    await datapath.useLoopback(needed);
    assert.match(ofLo(), /clsact/);
    assert.is(await countTcFilters('lo'), needed ? 1 : 0);
  }
  await datapath.detach();
  datapath.close();
  assert.not.match(ofLo(), /clsact/);
});

for (const [way, tcx] of WAYS) {
  test(`${way}: a clsact qdisc that was there before stays`, async (context) => {
    execFileSync('tc', ['qdisc', 'add', 'dev', 'up0', 'clsact']);
    const datapath = await open(context, 'xdp', tcx);
    await datapath.detach();
    datapath.close();
    assert.match(qdiscs(), /clsact/);
    assert.is(await countTcFilters('up0'), 0);
  });
}

test('a filter that somebody added since stays, and so does the qdisc under it', async (context) => {
  const datapath = await open(context, 'xdp', false);
  const { object, program } = foreignProgram('tc');
  tcAttach({ ifindex: context.ifindex, direction: 'ingress', priority: 9, handle: 1, program });
  await datapath.detach();
  datapath.close();
  assert.is(await countTcFilters('up0'), 1);
  program.close();
  object.close();
});

for (const [way, tcx] of WAYS)
  test(`${way}: without its daemon it stays, and the next one adopts it: bindings and counters live on, programs are new`, async (context) => {
    const first = await open(context, 'xdp', tcx);
    first.tables.putBinding(4, binding);
    const before = [xdpQuery(context.ifindex)?.programId, ingressProgram(context.ifindex)];
    ip('address', 'add', '10.0.0.2/24', 'dev', 'up0');
    ip('neigh', 'add', '10.0.0.77', 'lladdr', '02:00:00:00:00:77', 'dev', 'up0');
    const sent = "const s=require('dgram').createSocket('udp4');s.send('x',9,'10.0.0.77',()=>s.close())";
    execFileSync(process.execPath, ['-e', sent]);
    const counted = (datapath: Datapath): number =>
      datapath
        .counters()
        .filter(({ hook }) => hook === 'egress')
        .reduce((sum, { packets }) => sum + Number(packets), 0);
    const packets = counted(first);
    assert.ok(packets > 0);
    first.close();

    assert.equal([xdpQuery(context.ifindex)?.programId, ingressProgram(context.ifindex)], before);
    execFileSync(process.execPath, ['-e', sent]);

    const second = await open(context, 'xdp', tcx);
    assert.equal(second.tables.bindings.get(4), binding);
    assert.ok(counted(second) > packets, 'what came while nobody was there was counted');
    const after = [xdpQuery(context.ifindex)?.programId, ingressProgram(context.ifindex)];
    assert.ok(after.every((id, index) => id !== undefined && id !== before[index]));
    await second.detach();
    second.close();
  });

test('adoption takes the mode that is configured now', async (context) => {
  (await open(context, 'xdp')).close();
  const generic = await open(context, 'xdp-generic');
  assert.is(generic.status()[0]?.mode, 'xdp-generic');
  assert.is(xdpQuery(context.ifindex)?.mode, 'generic');
  generic.close();
  const tc = await open(context, 'tc');
  assert.is(xdpQuery(context.ifindex), undefined);
  await tc.detach();
  tc.close();
});

test('two daemons at once: the second is refused', async (context) => {
  const first = await open(context);
  assert.is((await refusal(open(context))).code, 'DATAPATH_LOCKED');
  await first.detach();
  first.close();
});

test("somebody else's XDP program is named and left alone, and nothing of ours is attached", async (context) => {
  const { object, program } = foreignProgram('xdp');
  const link = program.attachXdp(context.ifindex, { mode: 'native' });
  const error = await refusal(open(context));
  assert.equal([error.code, error.exitStatus], ['XDP_TAKEN', 7]);
  assert.match(error.message, new RegExp(`"foreign_xdp" \\(id ${program.id}\\)`));
  assert.is(xdpQuery(context.ifindex)?.programId, program.id);
  assert.is(await countTcFilters('up0').catch(() => 0), 0);
  assert.not.match(qdiscs(), /clsact/);
  const beside = await open(context, 'tc');
  assert.is(beside.status()[0]?.mode, 'tc');
  await beside.detach();
  beside.close();
  for (const each of [link, program, object]) each.close();
});

test("filters: somebody else's in our place is named and left alone", async (context) => {
  const { object, program } = foreignProgram('tc');
  const filter = { ifindex: context.ifindex, direction: 'ingress', priority: PRIORITY, handle: 1 } as const;
  tcAttach({ ...filter, program });
  const error = await refusal(open(context, 'tc', false));
  assert.is(error.code, 'TC_TAKEN');
  assert.match(error.message, /"foreign_tc"/);
  assert.is(tcQuery(filter)?.programId, program.id);
  program.close();
  object.close();
});

test('an interface that is gone does not keep the rest from being removed', async (context) => {
  const datapath = await open(context);
  ip('link', 'del', 'up0');
  await datapath.detach();
  datapath.close();
  assert.not.ok(existsSync(context.pins));
  ip('link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'peer0'); // for the hook that takes it away
});

test('a park queue is taken up by the next daemon with what waits in it', async (context) => {
  const first = await open(context, 'tc');
  first.tables.putBinding(4, binding);
  const queue = await ParkQueue.create(first, 4, 100);
  assert.is(programInfo(ingressProgram(queue.ifindex) ?? 0).name, 'hp_replay');
  first.close(); // the queue's own descriptor is left open, as a killed daemon's would not be
  const second = await open(context, 'tc');
  const adopted = ParkQueue.adopt(second, 4, queue.record);
  assert.equal([adopted?.ifindex, adopted?.pending], [queue.ifindex, 0]);
  assert.equal(await adopted?.replay(), { replayed: 0, lost: 0 });
  adopted?.close();
  await second.detach();
  second.close();
});

test.run();
