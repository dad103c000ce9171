/** The park queue's bounds, and next hops found ahead of the packets. */

import { execFileSync } from 'node:child_process';
import { closeSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { pidfdGetfd, pidfdOpen } from '../../addon/lib/index.js';
import { Action, type BindingStruct, Egress, type NextHopStruct } from '../../cli/forwarding/abi.gen.js';
import { encodeMac } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { Neighbours } from '../../cli/forwarding/neighbours.js';
import { ParkQueue } from '../../cli/forwarding/park-queue.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { RouteMonitor } from '../../cli/system/route-monitor.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { departed } from './departed.js';
import { CORRESPONDENT, HOME, PORT } from './live-addresses.js';
import { joinLan, Machine } from './network.js';

const ID = 2;
const own = Machine.own();
const correspondent = await Machine.create();
const lan = await joinLan({ [CORRESPONDENT]: correspondent, [HOME]: own });
const datapath = await Datapath.open({
  objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
  pins: join(bpffs, 'park'),
  run: join(folder, 'park'),
  nodeAddress: HOME,
  uplinks: [{ interface: 'up0', attach: 'tc' }],
});
const { ifindex } = await readLink('up0');
const noHop: NextHopStruct = { ifindex: 0, mtu: 0, resolved: 0, source: Buffer.alloc(6), destination: Buffer.alloc(6) };
const binding: BindingStruct = { ...departed(ifindex, '0.0.0.0', noHop), action: Action.park };
datapath.tables.claimPort({ protocol: 'udp', address: HOME, port: PORT }, ID, false);

async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const end = Date.now() + 3000; !(await holds()); ) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function macOf(machine: Machine): string {
  return /link\/ether (\S+)/.exec(machine.run('ip', 'link', 'show', 'up0'))?.[1] ?? '';
}

/** What the node counted as parked and lost. */
function parkLost(): number {
  const row = datapath.counters().find(({ hook, reason }) => hook === 'replay' && reason === 'park_lost');
  return Number(row?.packets ?? 0n);
}

const park = suite('park queue');

park('what is still in it when it is closed is counted as lost', async () => {
  const queue = await ParkQueue.create(datapath, ID, 50);
  datapath.tables.putBinding(ID, { ...binding, park_ifindex: queue.ifindex });
  const sender = correspondent.start('stream', HOME, PORT, 20);
  const { packets } = await sender.next('sent');
  await until(() => queue.pending === packets, 'all have been counted');
  const before = parkLost();
  queue.close();
  assert.is(parkLost() - before, packets);
  sender.close();
  datapath.tables.removeBinding(ID);
  datapath.tables.claimPort({ protocol: 'udp', address: HOME, port: PORT }, ID, false);
});

park('it holds so many packets, and says how many it lost beyond that', async () => {
  const queue = await ParkQueue.create(datapath, ID, 50);
  datapath.tables.putBinding(ID, { ...binding, park_ifindex: queue.ifindex });
  const sender = correspondent.start('stream', HOME, PORT, 200);
  const { packets } = await sender.next('sent');
  await until(() => queue.pending === packets, 'all have been counted');
  datapath.tables.putBinding(ID, { ...binding, action: Action.pass, egress: Egress.open, draining: 1 });
  const { replayed, lost } = await queue.replay();
  assert.is(replayed + lost, packets);
  assert.ok(replayed >= 50 && replayed <= 64, `${replayed} were held`); // the kernel rounds rings up
  const [device] = JSON.parse(own.run('ip', '-j', '-s', 'link', 'show', queue.record.name));
  assert.is(device.stats64.tx.dropped, lost, 'the device has counted them too');
  const before = parkLost();
  queue.close();
  queue.close();
  assert.is(parkLost() - before, lost);
  assert.is(Number(datapath.bindingCounters(ID).park_lost?.packets ?? 0n), lost);
  sender.close();
});

park('what it lost is not waited for, though packets come all the time', async () => {
  const queue = await ParkQueue.create(datapath, ID, 50);
  const parking = { ...binding, park_ifindex: queue.ifindex };
  datapath.tables.putBinding(ID, parking);
  const sender = correspondent.start('stream', HOME, PORT, 1_000_000);
  await until(() => queue.pending > 200, 'it is full');
  datapath.tables.putBinding(ID, { ...parking, action: Action.pass, egress: Egress.open, draining: 1 });
  const began = performance.now();
  const { replayed, lost } = await queue.replay();
  assert.ok(performance.now() - began < 1000, `${performance.now() - began} ms`);
  assert.ok(replayed > 0 && lost > 0, `${replayed} replayed, ${lost} lost`);
  queue.close();
  sender.close();
});

park('the kernel puts nothing of its own into it', async () => {
  const queue = await ParkQueue.create(datapath, ID, 50);
  await new Promise((resolve) => setTimeout(resolve, 300)); // router solicitations and the like would come at once
  assert.equal(await queue.replay(), { replayed: 0, lost: 0 });
  queue.close();
});

park('closing it removes the TAP and its holder', async () => {
  const queue = await ParkQueue.create(datapath, ID, 50);
  assert.is((await readLink(queue.record.name)).ifindex, queue.ifindex);
  queue.close();
  queue.close();
  await until(
    () =>
      readLink(queue.record.name).then(
        () => false,
        () => true,
      ),
    'the TAP is gone',
  );
  assert.is(datapath.tables.devices.get(queue.ifindex), undefined);
});

park('a binding can have the next one while the TAP of its last is not gone yet', async () => {
  const last = await ParkQueue.create(datapath, ID, 50);
  const pidfd = pidfdOpen(last.record.holder.pid);
  const kept = pidfdGetfd(pidfd, 3); // as a holder that a busy machine has not let end
  last.close();
  const next = await ParkQueue.create(datapath, ID, 50);
  assert.is((await readLink(last.record.name)).ifindex, last.ifindex);
  assert.is.not(next.record.name, last.record.name);
  for (const descriptor of [pidfd, kept]) closeSync(descriptor);
  next.close();
});

const neighbours = suite('neighbours');
const monitor = new RouteMonitor();

neighbours('a neighbour is resolved before the first packet', async () => {
  const known = new Neighbours(monitor);
  const hop = await known.resolve(CORRESPONDENT);
  assert.equal(hop.destination, encodeMac(macOf(correspondent)));
  assert.equal([hop.resolved, hop.ifindex, hop.mtu], [1, ifindex, 1500]);
  known.close();
});

neighbours('one that does not answer is left to tc', async () => {
  const known = new Neighbours(monitor);
  const hop = await known.resolve('10.0.0.200');
  assert.equal([hop.resolved, hop.ifindex], [0, ifindex]);
  known.close();
});

neighbours('a neighbour that changes its MAC is told of', async () => {
  const known = new Neighbours(monitor);
  const hop = await known.resolve(CORRESPONDENT);
  const seen: NextHopStruct[] = [];
  known.watch(CORRESPONDENT, hop, (next) => seen.push(next));
  const changed = '02:00:00:00:00:aa';
  own.ip(`neighbour replace ${CORRESPONDENT} lladdr ${changed} dev up0 nud reachable`);
  await until(() => seen.some((next) => Buffer.compare(next.destination, encodeMac(changed)) === 0), 'told');
  known.close();
});

neighbours('a MAC that nobody answers for is forgotten, and the true one found', async () => {
  const known = new Neighbours(monitor);
  const hop = await known.resolve(CORRESPONDENT);
  const seen: NextHopStruct[] = [];
  own.ip(`neighbour replace ${CORRESPONDENT} lladdr 02:00:00:00:00:ab dev up0 nud reachable`);
  known.watch(CORRESPONDENT, hop, (next) => seen.push(next));
  const knows = (mac: string) => () => Buffer.compare(seen.at(-1)?.destination ?? hop.source, encodeMac(mac)) === 0;
  await until(knows('02:00:00:00:00:ab'), 'the wrong one is told of');
  await until(knows(macOf(correspondent)), 'the true one is told of');
  known.close();
});

neighbours('the kernel is kept certain of a neighbour that is watched', async () => {
  const known = new Neighbours(monitor);
  own.ip(`neighbour replace ${CORRESPONDENT} lladdr ${macOf(correspondent)} dev up0 nud stale`);
  known.watch(CORRESPONDENT, await known.resolve(CORRESPONDENT), () => undefined);
  await until(() => own.run('ip', 'neighbour', 'show', CORRESPONDENT).includes('REACHABLE'), 'it is reachable');
  known.close();
});

neighbours('a smaller MTU is told of: of the route, of the device, and one that the kernel has learnt', async () => {
  const known = new Neighbours(monitor);
  const mtus: number[] = [];
  known.watch(CORRESPONDENT, await known.resolve(CORRESPONDENT), ({ mtu }) => mtus.push(mtu));
  own.ip(`route add ${CORRESPONDENT}/32 dev up0 mtu 1400`);
  await until(() => mtus.at(-1) === 1400, 'the route is told of');
  own.ip(`route del ${CORRESPONDENT}/32 dev up0`);
  await until(() => mtus.at(-1) === 1500, 'the route is gone');
  own.ip('link set up0 mtu 1300');
  await until(() => mtus.at(-1) === 1300, 'the device is told of');
  own.ip('link set up0 mtu 1500');
  await until(() => mtus.at(-1) === 1500, 'the device has its MTU again');
  known.close();
});

neighbours('no route is no way, and a new one is taken at once', async () => {
  const known = new Neighbours(monitor);
  const seen: NextHopStruct[] = [];
  known.watch(CORRESPONDENT, await known.resolve(CORRESPONDENT), (next) => seen.push(next));
  own.ip('link set up0 down');
  await until(() => seen.at(-1)?.ifindex === 0, 'there is no way');
  own.ip('link set up0 up');
  await until(() => seen.at(-1)?.resolved === 1, 'there is one again');
  assert.is(seen.at(-1)?.ifindex, ifindex);
  known.close();
});

neighbours('what was lost in a flood of notifications is read again', async () => {
  const narrow = new RouteMonitor(1); // the kernel's smallest room
  const known = new Neighbours(narrow);
  const seen: NextHopStruct[] = [];
  const heard: string[] = [];
  narrow.listen((changes) => heard.push(...changes.map(({ kind }) => kind)));
  known.watch(CORRESPONDENT, await known.resolve(CORRESPONDENT), (next) => seen.push(next));
  const flood = Array.from({ length: 200 }, (_, n) => `route add 198.51.100.${n}/32 dev up0`);
  const last = `route add ${CORRESPONDENT}/32 dev up0 mtu 1399`;
  execFileSync('ip', ['-batch', '-'], { input: [...flood, last].join('\n') }); // nobody reads meanwhile
  await until(() => seen.at(-1)?.mtu === 1399, 'the last change is known');
  assert.ok(heard.includes('lost'));
  own.ip(`route del ${CORRESPONDENT}/32 dev up0`);
  known.close();
  narrow.close();
});

neighbours.after(async () => {
  monitor.close();
  await datapath.detach();
  datapath.close();
  lan.close();
  correspondent.close();
});

park.run();
neighbours.run();
