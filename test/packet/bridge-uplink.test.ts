// limit: 60 s
/**
 * A home node whose uplink is a bridge (the namespace of this test), as hosts of virtual machines have it; the care-of host
 * delivers into a pod. Networks by VLAN and bond drivers cannot be made on every kernel that runs these tests.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { Neighbours } from '../../cli/forwarding/neighbours.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { RouteMonitor } from '../../cli/system/route-monitor.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { departed } from './departed.js';
import { CARE_OF, CORRESPONDENT, HOME, POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';
import { joinLan, Machine, type Traffic } from './network.js';

const BYTES = 1 << 20;
const own = Machine.own();
const [correspondent, careOf, pod] = [await Machine.create(), await Machine.create(), await Machine.create()];
const lan = await joinLan({ [CORRESPONDENT]: correspondent, [HOME]: own, [CARE_OF]: careOf });
own.ip(
  'link add uplink type bridge',
  `address del ${HOME}/24 dev up0`,
  'link set up0 master uplink',
  `address add ${HOME}/24 dev uplink`,
  'link set uplink up',
);
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

const test = suite('a bridge as uplink');

test('has no XDP of its own: tc is chosen, and status says why', () => {
  const [status] = datapath.status();
  assert.is(status?.mode, 'tc');
  assert.match(status?.reason ?? '', /no native XDP/);
});

test('the next hop is found behind it', async () => {
  const hop = await neighbours.resolve(CARE_OF);
  assert.equal([hop.resolved, hop.ifindex], [1, ifindex]);
});

test('a departed process is reached through it', async () => {
  datapath.tables.putBinding(1, departed(ifindex, CARE_OF, await neighbours.resolve(CARE_OF)));
  datapath.tables.claimPort({ protocol: 'tcp', address: HOME, port: PORT }, 1, false);
  const server = pod.start('sink', HOME, PORT);
  await server.next('ready');
  const client = correspondent.start('source', HOME, PORT, BYTES);
  const done = await client.next('done');
  assert.equal([done.bytes, done.intact], [BYTES, true]);
  assert.ok(Number(datapath.bindingCounters(1).tunnelled?.packets ?? 0n) > 0);
  for (const traffic of [server, client]) traffic.close();
});

test.after(async () => {
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
