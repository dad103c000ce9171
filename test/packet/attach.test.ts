/** How the datapath comes onto an interface, stays there without its daemon, and leaves. */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { BpfObject, programInfo, tcAttach, tcQuery, xdpQuery } from '../../addon/lib/index.js';
import type { UserError } from '../../cli/errors.js';
import { Action, type BindingStruct, Egress } from '../../cli/forwarding/abi.gen.js';
import { encodeAddress } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { ParkQueue } from '../../cli/forwarding/park-queue.js';
import { projectFile } from '../../cli/system/project.js';
import { Rtnetlink } from '../../cli/system/rtnetlink.js';
import { countTcFilters } from '../../cli/system/tc.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';

const OBJECT = projectFile('bpf/build/homeproxy.bpf.o');
const PRIORITY = 0x6870;

interface Context {
  pins: string;
  run: string;
  ifindex: number;
}

const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
const qdiscs = (): string => execFileSync('tc', ['qdisc', 'show', 'dev', 'up0'], { encoding: 'utf8' });

const binding: BindingStruct = {
  epoch: 1,
  action: Action.pass,
  egress: Egress.open,
  draining: 0,
  hold: 0,
  park_ifindex: 0,
  uplink_ifindex: 1,
  pod_ifindex: 0,
  pod_mac: Buffer.alloc(6),
  host_mac: Buffer.alloc(6),
  ...tunnelFields({ to: '0.0.0.0', encapsulation: 'ip' }),
  node: encodeAddress('10.0.0.2'),
  home: encodeAddress('10.0.0.2'),
  next_hop: { ifindex: 0, mtu: 0, resolved: 0, source: Buffer.alloc(6), destination: Buffer.alloc(6) },
};

const test = suite<Context>('attach');

test.before.each((context) => {
  ip('link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'peer0');
  for (const name of ['up0', 'peer0']) ip('link', 'set', name, 'up');
  const [link] = JSON.parse(ip('-j', 'link', 'show', 'up0')) as { ifindex: number }[];
  context.ifindex = link?.ifindex ?? 0;
  context.pins = mkdtempSync(join(bpffs, 'attach'));
  context.run = mkdtempSync(join(folder, 'attach'));
});

test.after.each(() => {
  ip('link', 'del', 'up0');
});

const open = ({ pins, run }: Context, attach: AttachChoice = 'xdp'): Promise<Datapath> =>
  Datapath.open({
    objectPath: OBJECT,
    pins,
    run,
    nodeAddress: '10.0.0.2',
    uplinks: [{ interface: 'up0', attach }],
  });

const ingressProgram = (ifindex: number): number | undefined =>
  tcQuery({ ifindex, direction: 'ingress', priority: PRIORITY, handle: 1 })?.programId;

async function refusal(opening: Promise<Datapath>): Promise<UserError> {
  try {
    (await opening).close();
  } catch (error) {
    return error as UserError;
  }
  throw new Error('it was not refused');
}

const FOREIGN = `
  __attribute__((section("xdp"))) int foreign_xdp(void *context) { return 2; }
  unsigned long seen;
  __attribute__((section("tc"))) int foreign_tc(void *context) { __sync_fetch_and_add(&seen, 1); return -1; }
  char terms[] __attribute__((section("license"))) = "GPL";
`;

/** Somebody else's programs: they pass everything. */
function foreignProgram(name: 'xdp' | 'tc'): { object: BpfObject; program: ReturnType<BpfObject['program']> } {
  const source = join(folder, 'foreign.bpf.c');
  const object = join(folder, 'foreign.o');
  writeFileSync(source, FOREIGN);
  execFileSync('clang', ['-target', 'bpf', '-O2', '-g', '-c', source, '-o', object]);
  const loaded = BpfObject.open(object).load();
  return { object: loaded, program: loaded.program(`foreign_${name}`) };
}

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
    assert.is(await countTcFilters('up0'), 2);
    await datapath.detach();
    datapath.close();
  });
}

test('detaching leaves nothing: no program, no qdisc, no pin', async (context) => {
  const datapath = await open(context);
  assert.match(qdiscs(), /clsact/);
  const removed = await datapath.detach();
  datapath.close();
  assert.ok(removed.some((line) => line.includes('XDP program of up0')));
  assert.is(xdpQuery(context.ifindex), undefined);
  assert.not.match(qdiscs(), /clsact/);
  assert.not.ok(existsSync(context.pins));
  assert.equal(readdirSync(context.run), ['datapath.lock']);
});

test('lo has its qdisc all the time: to make one, or to take it away, loses what is sent there', async (context) => {
  const ofLo = (): string => execFileSync('tc', ['qdisc', 'show', 'dev', 'lo'], { encoding: 'utf8' });
  const datapath = await open(context);
  for (const needed of [false, true, false]) {
    await datapath.useLoopback(needed);
    assert.match(ofLo(), /clsact/);
    assert.is(await countTcFilters('lo'), needed ? 1 : 0);
  }
  await datapath.detach();
  datapath.close();
  assert.not.match(ofLo(), /clsact/);
});

test('a clsact qdisc that was there before stays', async (context) => {
  execFileSync('tc', ['qdisc', 'add', 'dev', 'up0', 'clsact']);
  const datapath = await open(context);
  await datapath.detach();
  datapath.close();
  assert.match(qdiscs(), /clsact/);
  assert.is(await countTcFilters('up0'), 0);
});

test('a filter that somebody added since stays, and so does the qdisc under it', async (context) => {
  const datapath = await open(context);
  const { object, program } = foreignProgram('tc');
  tcAttach({ ifindex: context.ifindex, direction: 'ingress', priority: 9, handle: 1, program });
  await datapath.detach();
  datapath.close();
  assert.is(await countTcFilters('up0'), 1);
  program.close();
  object.close();
});

test('what we pass is seen by the filters of others behind ours, in both directions', async (context) => {
  const datapath = await open(context, 'tc');
  const [peer] = JSON.parse(ip('-j', 'link', 'show', 'peer0')) as { ifindex: number }[];
  const kernel = new Rtnetlink();
  for (const [direction, device] of [
    ['ingress', peer?.ifindex ?? 0],
    ['egress', context.ifindex],
  ] as const) {
    const { object, program } = foreignProgram('tc');
    const filter = { ifindex: context.ifindex, direction, priority: 0xc000, handle: 1 }; // where tc puts one without a priority
    tcAttach({ ...filter, program });
    const counter = object.map('foreign.bss');
    const seen = (): bigint => counter.get(Buffer.alloc(4))?.readBigUInt64LE() ?? 0n;
    kernel.useNeighbour(Buffer.from([10, 0, 0, 88]), device); // who has 10.0.0.88?
    for (const end = Date.now() + 5000; seen() === 0n && Date.now() < end; ) await sleep(5);
    assert.ok(seen() > 0n, direction);
    for (const each of [counter, program, object]) each.close();
  }
  kernel.close();
  await datapath.detach();
  datapath.close();
});

test('without its daemon it stays, and the next one adopts it: bindings and counters live on, programs are new', async (context) => {
  const first = await open(context);
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

  const second = await open(context);
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

test("somebody else's filter in our place is named and left alone", async (context) => {
  const { object, program } = foreignProgram('tc');
  const filter = { ifindex: context.ifindex, direction: 'ingress', priority: PRIORITY, handle: 1 } as const;
  tcAttach({ ...filter, program });
  const error = await refusal(open(context, 'tc'));
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
