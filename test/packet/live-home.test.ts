/**
 * A home node and a care-of host on live links, joined by a switch. The home node is the namespace that the test itself runs in;
 * the care-of host delivers into a pod.
 */

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { Action, type BindingStruct, Egress } from '../../cli/forwarding/abi.gen.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { Neighbours } from '../../cli/forwarding/neighbours.js';
import { ParkQueue } from '../../cli/forwarding/park-queue.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { RouteMonitor } from '../../cli/system/route-monitor.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { departed } from './departed.js';
import { CARE_OF, CORRESPONDENT, HOME, POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';
import { joinLan, type Lan, Machine, type Traffic } from './network.js';

const CARE_OF_MAIN = fileURLToPath(new URL('./care-of-main.js', import.meta.url));
const ID = 1;

const own = Machine.own();
let correspondent: Machine;
let careOf: Machine;
let pod: Machine;
let careOfNode: Traffic;
let lan: Lan | undefined;
let datapath: Datapath;
let opened: Datapath | undefined;
let present: BindingStruct;
/** What the running test opened, closed whether it passed or not. */
let openedByTest: { close(): void }[] = [];

function track<Closable extends { close(): void }>(closable: Closable): Closable {
  openedByTest.push(closable);
  return closable;
}

async function start(attach: AttachChoice): Promise<void> {
  correspondent = await Machine.create();
  careOf = await Machine.create();
  pod = await Machine.create();
  lan = await joinLan({ [CORRESPONDENT]: correspondent, [HOME]: own, [CARE_OF]: careOf });
  await startCareOf(attach);
  opened = await Datapath.open({
    objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
    pins: join(bpffs, 'home'),
    run: join(folder, 'run'),
    nodeAddress: HOME,
    uplinks: [{ interface: 'up0', attach }],
  });
  datapath = opened;
  const { ifindex } = await readLink('up0');
  const monitor = new RouteMonitor();
  const neighbours = new Neighbours(monitor);
  const next_hop = await neighbours.resolve(CARE_OF);
  neighbours.close();
  monitor.close();
  assert.is(next_hop.resolved, 1);
  present = { ...departed(ifindex, CARE_OF, next_hop), action: Action.pass, egress: Egress.open };
  datapath.tables.parkStates.put(ID, { parked: 0n, replayed: 0n });
  bind({});
  for (const protocol of ['tcp', 'udp'] as const) {
    datapath.tables.claimPort({ protocol, address: HOME, port: PORT }, ID, false);
  }
}

/** A pod as cli/pod makes it, but that it advertises too large an MSS: its own end of a veth has the home address, and its next hop is a permanent neighbour. */
async function startCareOf(attach: AttachChoice): Promise<void> {
  careOf.ip(
    `link add pod0 address ${POD_HOST_MAC} type veth peer name eth0 address ${POD_MAC} netns ${pod.pid}`,
    'link set pod0 addrgenmode none up',
  );
  pod.ip(
    `address add ${HOME}/32 dev eth0`,
    'link set eth0 addrgenmode none up',
    `neighbour add 169.254.77.1 lladdr ${POD_HOST_MAC} nud permanent dev eth0`,
    `route add default via 169.254.77.1 dev eth0 onlink src ${HOME}`,
  );
  pod.run('ethtool', '-K', 'eth0', 'gro', 'on');
  careOfNode = careOf.startProgram(CARE_OF_MAIN, attach, folder, bpffs);
  await careOfNode.next('ready');
}

function bind(change: Partial<BindingStruct>): void {
  present = { ...present, ...change };
  datapath.tables.putBinding(ID, present);
}

async function stop(): Promise<void> {
  careOfNode?.finish();
  await careOfNode?.next('gone');
  await opened?.detach();
  opened?.close();
  lan?.close();
  for (const machine of [correspondent, careOf, pod]) machine?.close();
}

async function until(holds: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 3000; !holds(); ) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function packets(reason: string): number {
  return Number(datapath.bindingCounters(ID)[reason]?.packets ?? 0n);
}

for (const attach of ['tc', 'xdp', 'xdp-generic'] as const) {
  const test = suite(`a home node by ${attach}`);

  test.before(() => start(attach));
  test.after.each(() => {
    for (const each of openedByTest) each.close();
    openedByTest = [];
  });
  test.after(stop);

  test('a correspondent learns the smaller MTU from our answer', async () => {
    bind({ action: Action.tunnel, egress: Egress.shut });
    assert.not.match(correspondent.run('ip', 'route', 'get', HOME), /mtu/);
    await correspondent.start('datagram', HOME, PORT, 1500 - 28).next('sent');
    await until(() => packets('too_big') > 0, 'the answer');
    await until(() => correspondent.run('ip', 'route', 'get', HOME).includes('mtu 1480'), 'the new MTU');
    correspondent.ip('route flush cache');
  });

  // The pod advertises a segment too large for the tunnel: where GRO has made a super-packet of them, it is cut anew.
  test('a TCP connection through the tunnel carries its bytes, both ways', async () => {
    bind({ action: Action.tunnel, egress: Egress.shut });
    const server = track(pod.start('sink', HOME, PORT));
    await server.next('ready');
    const client = track(correspondent.start('source', HOME, PORT, 4 << 20));
    const done = await client.next('done');
    assert.equal([done.bytes, done.intact], [4 << 20, true]);
    assert.is((await server.next('received')).bytes, 4 << 20);
    assert.ok(packets('tunnelled') > 0);
    assert.equal(
      [correspondent, pod].map((machine) => machine.counter('TcpInCsumErrors')),
      [0, 0],
    );
  });

  test('nobody at home answers for a departed process: no RST, no ICMP', async () => {
    bind({ action: Action.pass, egress: Egress.open });
    const refused = await correspondent.start('probe', HOME, PORT, 500).next('probed');
    assert.is(refused.outcome, 'ECONNREFUSED', 'an open egress lets the RST out');
    const unreachable = await correspondent.start('probe-udp', HOME, PORT, 500).next('probed');
    assert.is(unreachable.outcome, 'ECONNREFUSED', 'an open egress lets the ICMP error out');
    bind({ egress: Egress.shut });
    const before = packets('guarded');
    const silence = await correspondent.start('probe', HOME, PORT, 400).next('probed');
    const silenceUdp = await correspondent.start('probe-udp', HOME, PORT, 400).next('probed');
    assert.equal([silence.outcome, silenceUdp.outcome], ['silence', 'silence']);
    assert.ok(packets('guarded') - before >= 2);
  });

  for (const [where, machine, action] of [
    ['away', () => pod, Action.tunnel],
    ['at home', () => own, Action.pass],
  ] as const) {
    test(`parked packets reach a process that is ${where} in order, none is lost and none overtakes`, async () => {
      const listener = track(machine().start('count', HOME, PORT));
      await listener.next('ready');
      const queue = track(await ParkQueue.create(datapath, ID, 10_000));
      bind({ action: Action.park, egress: Egress.shut, park_ifindex: queue.ifindex, draining: 0 });
      const sender = track(correspondent.start('stream', HOME, PORT, 100_000));
      await until(() => queue.pending >= 500, '500 parked packets');
      bind({ action, egress: Egress.open, draining: 1 });
      const first = await queue.replay();
      bind({ draining: 0 });
      const last = await queue.replay();
      await new Promise((resolve) => setTimeout(resolve, 30)); // some that never were parked
      sender.finish();
      const { packets: sent } = await sender.next('sent');
      assert.ok(first.replayed >= 500);
      assert.is(first.lost + last.lost, 0);
      listener.finish(String(sent));
      const counted = await listener.next('counted');
      assert.equal(
        { received: counted.received, distinct: counted.distinct, late: counted.late },
        { received: sent, distinct: sent, late: 0 },
      );
      bind({ park_ifindex: 0 });
    });
  }

  test.run();
}
