/**
 * The other node of the live tests, in a network namespace of its own: `node care-of-main.js <attach> <folder> <bpffs>`.
 * Delivers what comes tunnelled for the home address into the pod behind `pod0`. Each line of its input is an {@link Upgrade}
 * to programs that take over from those that run. On the end of its input it says what it counted, and takes everything away.
 */
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { xdpQuery } from '../../addon/lib/index.js';
import { Action, Egress } from '../../cli/forwarding/abi.gen.js';
import { encodeAddress, encodeMac } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { asFilterToo, type Classifier, classifiers } from './classifiers.js';
import { CARE_OF, HOME, POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';

const [attach = 'tc', folder = '', bpffs = ''] = process.argv.slice(2);
const ID = 3;

export interface Upgrade {
  readonly objectPath: string;
  /** false: by filters, also where the kernel has tcx. */
  readonly tcx: boolean;
  /** As it is when the daemon is killed before it has taken the filters away. */
  readonly unfinished?: boolean;
}

const open = ({ objectPath, tcx }: Upgrade): Promise<Datapath> =>
  Datapath.open({
    objectPath,
    tcx,
    pins: join(bpffs, 'care-of'),
    run: join(folder, 'care-of'),
    nodeAddress: CARE_OF,
    uplinks: [{ interface: 'up0', attach: attach as AttachChoice }],
  });

let datapath = await open({ objectPath: projectFile('bpf/build/homeproxy.bpf.o'), tcx: false });
const [uplink, pod] = [await readLink('up0'), await readLink('pod0')];
const { tables } = datapath;
tables.setNodes([HOME]);
tables.parkStates.put(ID, { parked: 0n, replayed: 0n });
tables.putBinding(ID, {
  epoch: 1,
  action: Action.deliver,
  egress: Egress.open,
  draining: 0,
  hold: 0,
  park_ifindex: 0,
  uplink_ifindex: uplink.ifindex,
  pod_ifindex: pod.ifindex,
  pod_mac: encodeMac(POD_MAC),
  host_mac: encodeMac(POD_HOST_MAC),
  ...tunnelFields({ to: '0.0.0.0', encapsulation: 'ip' }),
  node: encodeAddress(CARE_OF),
  home: encodeAddress(CARE_OF),
  next_hop: { ifindex: 0, mtu: 0, resolved: 0, source: Buffer.alloc(6), destination: Buffer.alloc(6) },
});
for (const protocol of ['tcp', 'udp'] as const) tables.claimPort({ protocol, address: HOME, port: PORT }, ID, false);
datapath.addDevice(pod.ifindex, ID, 'pod');

const say = (event: object): void => {
  process.stdout.write(`${JSON.stringify(event)}\n`);
};

const SIDES = [
  [uplink.ifindex, 'ingress'],
  [uplink.ifindex, 'egress'],
  [pod.ifindex, 'ingress'],
] as const;

/** What runs on the uplink and behind the pod's link now. */
const programs = (): { xdp: number | undefined; tc: Classifier[][] } => ({
  xdp: xdpQuery(uplink.ifindex)?.programId,
  tc: SIDES.map(([ifindex, direction]) => classifiers(ifindex, direction)),
});

say({ event: 'ready' });
for await (const line of createInterface({ input: process.stdin })) {
  const upgrade = JSON.parse(line) as Upgrade;
  datapath.close();
  datapath = await open(upgrade);
  if (upgrade.unfinished === true) for (const [ifindex, direction] of SIDES) asFilterToo(ifindex, direction);
  say({ event: 'upgraded', ...programs() });
}
finish();

function finish(): void {
  const counted = Object.entries(datapath.bindingCounters(ID)).map(([reason, { packets }]) => [
    reason,
    Number(packets),
  ]);
  say({ event: 'counted', reasons: Object.fromEntries(counted) });
  void datapath.detach().then(() => {
    datapath.close();
    say({ event: 'gone' });
  });
}
