// limit: 60 s
/**
 * A home node (the namespace of this test) whose uplink is a bridge, as hosts of virtual machines have it, and is then deleted and
 * made again: as a VXLAN, then as a macvlan. The care-of host delivers into a pod. Kernels without the drivers of VLANs and
 * bonds run these tests too; to us those are interfaces as the bridge is one.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import type { UplinkStatus } from '../../cli/forwarding/attachments.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { Neighbours } from '../../cli/forwarding/neighbours.js';
import { followUplinks } from '../../cli/forwarding/uplinks.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { RouteMonitor } from '../../cli/system/route-monitor.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { classifier } from './classifiers.js';
import { departed } from './departed.js';
import { CARE_OF, CORRESPONDENT, HOME, POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';
import { joinLan, Machine, type Traffic } from './network.js';

const BYTES = 1 << 20;
const ID = 1;
const own = Machine.own();
const [correspondent, careOf, pod] = [await Machine.create(), await Machine.create(), await Machine.create()];
const lan = await joinLan({ [CORRESPONDENT]: correspondent, [HOME]: own, [CARE_OF]: careOf });
own.ip(`address del ${HOME}/24 dev up0`);
/** One end of the underlay that the VXLAN crosses; the other is on the switch. Its MTU leaves room for 50 bytes more. */
lan.switch.ip(
  `link add under1 mtu 1600 type veth peer name under0 mtu 1600 netns ${process.pid}`,
  'address add 192.168.77.2/24 dev under1',
  'link set under1 up',
  'link add vx0 mtu 1500 type vxlan id 7 dstport 4789 local 192.168.77.2 remote 192.168.77.1 dev under1',
  'link set vx0 master br0 up',
);
own.ip('address add 192.168.77.1/24 dev under0', 'link set under0 up');
/** Always the same: its neighbours need not find out, which takes them seconds. */
const UPLINK_MAC = '02:00:00:00:00:99';
/** How the uplink is made, and what must be done for it beside. */
const KINDS = {
  bridge: [`link add uplink address ${UPLINK_MAC} type bridge`, 'link set up0 master uplink'],
  vxlan: [
    `link add uplink address ${UPLINK_MAC} mtu 1500 type vxlan id 7 dstport 4789 local 192.168.77.1 remote 192.168.77.2 dev under0`,
  ],
  macvlan: ['link set up0 nomaster', `link add link up0 name uplink address ${UPLINK_MAC} type macvlan mode bridge`],
} as const;

function makeUplink(kind: keyof typeof KINDS): void {
  own.ip(...KINDS[kind], `address add ${HOME}/24 dev uplink`, 'link set uplink up');
}

makeUplink('bridge');
careOf.ip(
  `link add pod0 address ${POD_HOST_MAC} type veth peer name eth0 address ${POD_MAC} netns ${pod.pid}`,
  'link set pod0 addrgenmode none up',
);
pod.ip(
  `address add ${HOME}/32 dev eth0`,
  'link set eth0 addrgenmode none up',
  `neighbour add 169.254.77.1 lladdr ${POD_HOST_MAC} nud permanent dev eth0`,
  `route add default via 169.254.77.1 dev eth0 onlink src ${HOME} advmss 1440`,
);
pod.run('ethtool', '-K', 'eth0', 'gro', 'on');
const careOfMain = fileURLToPath(new URL('./care-of-main.js', import.meta.url));
const careOfNode: Traffic = careOf.startProgram(careOfMain, 'tc', folder, bpffs);
await careOfNode.next('ready');
const datapath = await Datapath.open({
  objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
  pins: join(bpffs, 'home'),
  run: join(folder, 'run'),
  nodeAddress: HOME,
  uplinks: [{ interface: 'uplink', attach: 'auto' }],
});
const monitor = new RouteMonitor();
const neighbours = new Neighbours(monitor, [HOME]);
const { ifindex } = await readLink('uplink');
let told: (status: UplinkStatus) => void = () => undefined;
const endFollowing = followUplinks(datapath, monitor, {
  gone: () => undefined,
  failed: (_, error) => console.error(error),
  returned: (status) => told(status),
});

let present = departed(ifindex, CARE_OF, await neighbours.resolve(CARE_OF));
datapath.tables.putBinding(ID, present);
datapath.tables.claimPort({ protocol: 'tcp', address: HOME, port: PORT }, ID, false);
neighbours.watch(CARE_OF, present.next_hop, (next_hop) => {
  present = { ...present, uplink_ifindex: datapath.tables.bindings.get(ID)?.uplink_ifindex ?? 0, next_hop };
  datapath.tables.putBinding(ID, present);
});
const tunnelledSoFar = (): number => Number(datapath.bindingCounters(ID).tunnelled?.packets ?? 0n);

/** Bulk data from the correspondent to the process, by the uplink as it is. */
async function reach(): Promise<void> {
  const before = tunnelledSoFar();
  const server = pod.start('sink', HOME, PORT);
  await server.next('ready');
  const client = correspondent.start('source', HOME, PORT, BYTES);
  const done = await client.next('done');
  assert.equal([done.bytes, done.intact], [BYTES, true]);
  assert.ok(tunnelledSoFar() > before);
  for (const traffic of [server, client]) traffic.close();
}

const test = suite('uplinks');

test('a bridge has no XDP of its own: tc is chosen, and status says why', () => {
  const [status] = datapath.status();
  assert.is(status?.mode, 'tc');
  assert.match(status?.reason ?? '', /no native XDP/);
});

test('the next hop is found behind it', () => {
  assert.equal([present.next_hop.resolved, present.next_hop.ifindex], [1, ifindex]);
});

test('a departed process is reached through it', reach);

for (const kind of ['vxlan', 'macvlan'] as const) {
  test(`deleted and made again as a ${kind}, it has the programs again, and the process is reached`, async () => {
    const before = tunnelledSoFar();
    own.ip('link del uplink');
    const back = new Promise<UplinkStatus>((resolve) => {
      told = resolve;
    });
    makeUplink(kind);
    const made = performance.now();
    const status = await back;
    const { ifindex: now } = await readLink('uplink');
    console.log(`  ${kind}: attached ${(performance.now() - made).toFixed(0)} ms after it was up`);
    assert.equal(datapath.status()[0], { ...status, reason: datapath.status()[0]?.reason });
    assert.equal([status.ifindex, status.mode], [now, 'tc']);
    assert.match(datapath.status()[0]?.reason ?? '', /came back/);
    for (const direction of ['ingress', 'egress'] as const) assert.ok(classifier(now, direction));
    assert.is(datapath.tables.bindings.get(ID)?.uplink_ifindex, now);
    assert.is(tunnelledSoFar(), before); // the maps are the same ones
    await reach();
  });
}

test('while it is gone, status says so', async () => {
  own.ip('link del uplink');
  for (const end = Date.now() + 5000; datapath.status()[0]?.ifindex !== 0 && Date.now() < end; ) await sleep(5);
  assert.match(datapath.status()[0]?.reason ?? '', /gone/);
});

test.after(async () => {
  endFollowing();
  neighbours.close();
  monitor.close();
  careOfNode.finish();
  await careOfNode.next('gone');
  await datapath.detach();
  datapath.close();
  lan.close();
  for (const machine of [correspondent, careOf, pod]) machine.close();
});
test.run();
