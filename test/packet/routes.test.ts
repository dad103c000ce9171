// limit: 90 s
/**
 * The way to a departed process changes under its traffic. On one link: a correspondent, the home node (the namespace of this
 * test), two routers, and the care-of host with a pod.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import type { BindingStruct, NextHopStruct } from '../../cli/forwarding/abi.gen.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import type { AttachChoice } from '../../cli/forwarding/hook-choice.js';
import { Neighbours, NO_WAY } from '../../cli/forwarding/neighbours.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { RouteMonitor } from '../../cli/system/route-monitor.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { departed } from './departed.js';
import { CARE_OF, CORRESPONDENT, HOME, POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';
import { joinLan, type Lan, Machine, type Traffic } from './network.js';

const program = (name: string): string => fileURLToPath(new URL(`./${name}.js`, import.meta.url));
const ROUTERS = ['10.0.0.11', '10.0.0.12'] as const;
/** A second, and what this machine may need to wake whom it concerns. */
const HEALED_MS = 1500;
const SECOND_ADDRESS = '10.0.0.22';
const ID = 1;

const own = Machine.own();
let machines: Record<'correspondent' | 'careOf' | 'pod' | 'first' | 'second', Machine>;
let careOfNode: Traffic;
let lan: Lan;
let datapath: Datapath;
let monitor: RouteMonitor;
let neighbours: Neighbours;
let present: BindingStruct;

async function start(attach: AttachChoice): Promise<void> {
  const [correspondent, careOf, pod, first, second] = await Promise.all(
    Array.from({ length: 5 }, () => Machine.create()),
  );
  if (!correspondent || !careOf || !pod || !first || !second) throw new Error('too few machines');
  machines = { correspondent, careOf, pod, first, second };
  const [firstAddress, secondAddress] = ROUTERS;
  lan = await joinLan({
    [CORRESPONDENT]: correspondent,
    [HOME]: own,
    [CARE_OF]: careOf,
    [firstAddress]: first,
    [secondAddress]: second,
  });
  for (const router of [first, second]) {
    router.sysctl('net.ipv4.ip_forward=1', 'net.ipv4.conf.all.send_redirects=0', 'net.ipv4.conf.up0.send_redirects=0');
  }
  await startCareOf(attach);
  datapath = await Datapath.open({
    objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
    pins: join(bpffs, 'home'),
    run: join(folder, 'run'),
    nodeAddress: HOME,
    uplinks: [{ interface: 'up0', attach }],
  });
  monitor = new RouteMonitor();
  neighbours = new Neighbours(monitor, [HOME]);
  const { ifindex } = await readLink('up0');
  present = departed(ifindex, CARE_OF, NO_WAY);
  goBy(await neighbours.resolve(CARE_OF));
  neighbours.watch(CARE_OF, present.next_hop, goBy);
  datapath.tables.claimPort({ protocol: 'udp', address: HOME, port: PORT }, ID, false);
}

async function startCareOf(attach: AttachChoice): Promise<void> {
  const { careOf, pod } = machines;
  careOf.ip(
    `link add pod0 address ${POD_HOST_MAC} type veth peer name eth0 address ${POD_MAC} netns ${pod.pid}`,
    'link set pod0 addrgenmode none up',
  );
  pod.ip(`address add ${HOME}/32 dev eth0`, 'link set eth0 addrgenmode none up');
  pod.run('ethtool', '-K', 'eth0', 'gro', 'on');
  careOfNode = careOf.startProgram(program('care-of-main'), attach, folder, bpffs);
  await careOfNode.next('ready');
}

function goBy(next_hop: NextHopStruct): void {
  present = { ...present, next_hop };
  datapath.tables.putBinding(ID, present);
}

async function stop(): Promise<void> {
  neighbours.close();
  monitor.close();
  careOfNode.finish();
  await careOfNode.next('gone');
  await datapath.detach();
  datapath.close();
  lan.close();
  for (const machine of Object.values(machines)) machine.close();
}

function macOf(machine: Machine): string {
  return /link\/ether (\S+)/.exec(machine.run('ip', 'link', 'show', 'up0'))?.[1] ?? '';
}

/** To whose MAC the programs send now. */
function hopMac(): string {
  return Buffer.from(present.next_hop.destination)
    .toString('hex')
    .replace(/(..)(?=.)/g, '$1:');
}

/** From now on frames to that MAC go to the correspondent, whose NIC does not take them. */
function misdirect(mac: string): void {
  lan.switch.run('bridge', 'fdb', 'replace', mac, 'dev', 'port0', 'master', 'static');
}

/** Packets of the binding by reason, all programs together. */
function counted(): Record<string, number> {
  const totals = Object.entries(datapath.bindingCounters(ID));
  return Object.fromEntries(totals.map(([reason, { packets }]) => [reason, Number(packets)]));
}

interface Beats {
  readonly sent: number;
  readonly heard: number;
  /** What the programs at home counted meanwhile. */
  readonly reasons: Record<string, number>;
  /** How long nothing came, for each gap, in milliseconds. */
  readonly gaps: readonly { readonly missing: number; readonly ms: number }[];
}

/** Numbered datagrams to the departed process, before and while and after something `happens`. It must hear again. */
async function beats(happens: (hearing: () => Promise<void>) => Promise<void>): Promise<Beats> {
  const before = counted();
  const hearer = machines.pod.startProgram(program('beat-main'), 'hear', HOME, PORT);
  await hearer.next('ready');
  const sender = machines.correspondent.startProgram(program('beat-main'), 'send', HOME, PORT);
  try {
    /** Until a hundred more have come, which were sent after now. */
    const hearing = async (): Promise<void> => {
      const from = total(counted()) - total(before);
      for (;;) {
        const { last } = await hearer.next('hundred', 20_000);
        if (Number(last) >= from + 100) return;
      }
    };
    await hearing();
    await happens(hearing);
    await hearing();
    sender.finish();
    const { packets: sent } = await sender.next('sent');
    await until(() => total(counted()) - total(before) >= Number(sent), 'all have been counted');
    hearer.finish();
    const { packets: heard } = await hearer.next('heard');
    const after = counted();
    const reasons = Object.entries(after).map(
      ([reason, packets]) => [reason, packets - (before[reason] ?? 0)] as const,
    );
    return {
      sent: Number(sent),
      heard: Number(heard),
      reasons: Object.fromEntries(reasons.filter(([, packets]) => packets > 0)),
      gaps: hearer.all('gap').map(({ missing, ms }) => ({ missing: Number(missing), ms: Number(ms) })),
    };
  } finally {
    sender.close();
    hearer.close();
  }
}

const total = (reasons: Record<string, number>): number => Object.values(reasons).reduce((sum, each) => sum + each, 0);

const longestGap = ({ gaps }: Beats): number => Math.max(0, ...gaps.map(({ ms }) => ms));

function report(what: string, beats: Beats): void {
  const { sent, heard, reasons } = beats;
  const longest = longestGap(beats).toFixed(0);
  console.log(`  ${what}: ${sent - heard} of ${sent} lost, longest gap ${longest} ms, ${JSON.stringify(reasons)}`);
}

async function until(holds: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 5000; !holds(); ) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

for (const attach of ['tc', 'xdp'] as const) {
  const test = suite(`the way to a departed process, by ${attach}`);
  test.before(() =>
    start(attach).catch((error) => {
      console.error(error);
      throw error;
    }),
  );
  test.after(stop);

  test('another router: not one packet is lost', async () => {
    own.ip(`route replace ${CARE_OF}/32 via ${ROUTERS[0]}`);
    const seen = await beats(async (hearing) => {
      own.ip(`route replace ${CARE_OF}/32 via ${ROUTERS[1]}`);
      await hearing();
      own.ip(`route replace ${CARE_OF}/32 via ${ROUTERS[0]}`);
    });
    report('two changes of the route', seen);
    assert.is(seen.heard, seen.sent);
    assert.equal(seen.reasons, { tunnelled: seen.sent });
  });

  test('a router that dies: the kernel is told, and takes the other one of two', async () => {
    own.sysctl('net.ipv4.fib_multipath_use_neigh=1');
    own.ip(`route replace ${CARE_OF}/32 nexthop via ${ROUTERS[0]} nexthop via ${ROUTERS[1]}`);
    const routers = [machines.first, machines.second];
    const inUse = (): Machine | undefined => routers.find((router) => macOf(router) === hopMac());
    let dead: Machine | undefined;
    const seen = await beats(async () => {
      dead = inUse();
      const mac = hopMac();
      dead?.ip('link set up0 down');
      misdirect(mac);
      await until(() => ![undefined, dead].includes(inUse()), 'the other one is used');
    });
    report('a dead router', seen);
    assert.ok(seen.heard < seen.sent, 'what had gone to the dead router is lost');
    assert.ok(longestGap(seen) < HEALED_MS);
    assert.equal(seen.reasons, { tunnelled: seen.sent }); // lost behind us, after we had sent it
    dead?.ip('link set up0 up');
    lan.switch.run('bridge', 'fdb', 'del', macOf(dead ?? own), 'dev', 'port0', 'master');
    own.ip(`route replace ${CARE_OF}/32 via ${ROUTERS[0]}`);
  });

  test('a host that has another MAC, and tells nobody', async () => {
    own.ip(`route del ${CARE_OF}/32`);
    const [before, after] = [macOf(machines.careOf), attach === 'tc' ? '02:00:00:00:00:77' : '02:00:00:00:00:78'];
    const seen = await beats(async () => {
      machines.careOf.ip(`link set up0 address ${after}`);
      misdirect(before);
      await until(() => hopMac() === after, 'the new one is known');
    });
    for (const router of [machines.first, machines.second]) router.ip('neighbour flush dev up0');
    report('another MAC', seen);
    assert.ok(seen.heard < seen.sent, 'what had gone to the old MAC is lost');
    assert.ok(longestGap(seen) < HEALED_MS);
    assert.equal(seen.reasons, { tunnelled: seen.sent });
  });

  test('no route: every packet is counted as such; the next route is taken at once', async () => {
    const seen = await beats(async () => {
      own.ip(`route replace unreachable ${CARE_OF}/32`);
      await until(() => (counted().no_route ?? 0) > 50, 'packets are refused');
      own.ip(`route replace ${CARE_OF}/32 via ${ROUTERS[0]}`);
    });
    report('no route', seen);
    assert.is(seen.heard + (seen.reasons.no_route ?? 0), seen.sent);
    assert.is(seen.heard, seen.reasons.tunnelled);
    own.ip(`route del ${CARE_OF}/32`);
  });

  test('by an interface that takes no frames from XDP: not one packet is lost', async () => {
    own.ip(
      'link add br1 type bridge',
      `link add up1 type veth peer name port9 netns ${lan.switch.pid}`,
      'link set up1 master br1 up',
      'link set br1 up',
      `address add ${SECOND_ADDRESS}/32 dev br1`,
    );
    lan.switch.ip('link set port9 master br0 up');
    const { ifindex } = await readLink('br1');
    const seen = await beats(async (hearing) => {
      own.ip(`route replace ${CARE_OF}/32 dev br1`);
      await until(() => present.next_hop.ifindex === ifindex, 'the bridge is the way');
      await hearing();
      own.ip(`route del ${CARE_OF}/32`);
      await until(() => present.next_hop.ifindex !== ifindex, 'it is the way no more');
    });
    report('by a bridge and back', seen);
    own.ip('link del br1', 'link del up1');
    assert.is(seen.heard, seen.sent);
    assert.equal(seen.reasons, { tunnelled: seen.sent });
  });

  test('a next hop that nobody knows: the kernel asks, and holds what comes meanwhile', async () => {
    const seen = await beats(async (hearing) => {
      own.ip(`neighbour flush dev up0`);
      await hearing();
    });
    report('a forgotten neighbour', seen);
    assert.is(seen.heard, seen.sent);
    assert.equal(seen.reasons, { tunnelled: seen.sent });
  });

  test('a next hop that does not answer: no route, as soon as the kernel has given it up, until it is there again', async () => {
    own.sysctl('net.ipv4.neigh.up0.mcast_solicit=1', 'net.ipv4.neigh.up0.retrans_time_ms=200');
    let [held, back] = [0, 0];
    const seen = await beats(async () => {
      machines.careOf.ip('link set up0 down');
      const from = total(counted());
      await until(() => present.next_hop.ifindex === 0, 'the kernel has given it up');
      held = total(counted()) - from;
      await until(
        () => (counted().no_route ?? 0) > 500,
        'packets are refused, also while the kernel looks for it again',
      );
      machines.careOf.ip('link set up0 up');
      const up = performance.now();
      await until(() => present.next_hop.resolved === 1, 'it is found');
      back = performance.now() - up;
    });
    report(`a dead host, ${held} sent before it was given up, found after ${back.toFixed(0)} ms`, seen);
    own.sysctl('net.ipv4.neigh.up0.mcast_solicit=3', 'net.ipv4.neigh.up0.retrans_time_ms=1000');
    assert.ok(back < HEALED_MS);
    assert.is(total(seen.reasons), seen.sent);
    assert.ok(seen.sent - seen.heard - (seen.reasons.no_route ?? 0) <= held + back + 100);
  });

  test('an MTU that the kernel learns on the way', async () => {
    machines.first.ip(`route add ${CARE_OF}/32 dev up0 mtu lock 1300`);
    own.ip(`route replace ${CARE_OF}/32 via ${ROUTERS[0]}`);
    await until(() => present.next_hop.mtu === 1500, 'the way is a wide one');
    await own.start('datagram', CARE_OF, 9, 1400).next('sent');
    await until(() => present.next_hop.mtu === 1300, 'the narrow place is known');
  });

  test.run();
}
