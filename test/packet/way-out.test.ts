/** What a process says goes as the kernel sent it last (bpf/way_out.h). */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { Action, DeviceRole, Egress, Reason } from '../../cli/forwarding/abi.gen.js';
import { encodeMac } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { NO_WAY } from '../../cli/forwarding/neighbours.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, Bench, skBuff } from './bench.js';
import { departed } from './departed.js';
import { POD_HOST_MAC, POD_MAC, PORT } from './live-addresses.js';
import { joinLan, type Lan, Machine } from './network.js';
import { ipv4, udp } from './packets.js';
import { BINDING, CARE_OF, CORRESPONDENT, frame, furnish, HOME, reply, SERVICE_PORT, STRANGER } from './scene.js';

/** Destination and source, as the kernel would put them on a frame. */
const ADDRESSES = Buffer.from('02aa0000000102bb00000002', 'hex');
const NEIGHBOUR = { id: 8, port: SERVICE_PORT + 1 };
/** A second, and what this machine may need to wake whom it concerns. */
const HEALED_MS = 1500;

const single = suite('the way out');

const said = frame(reply());
const addressed = (packet: Buffer): Buffer => Buffer.concat([ADDRESSES, packet.subarray(ADDRESSES.length)]);

/** @param milliseconds how long a way is used: by default longer than any test takes */
function careOf(milliseconds = 60_000): Bench {
  const way_out_ns = Buffer.alloc(8);
  way_out_ns.writeBigUInt64LE(BigInt(milliseconds) * 1_000_000n);
  const bench = furnish(new Bench(CARE_OF, { rodata: { way_out_ns } })).claim(NEIGHBOUR.id, HOME, NEIGHBOUR.port);
  for (const id of [BINDING, NEIGHBOUR.id]) bench.bind(id, { action: 'deliver' });
  return bench.device(ARRIVAL_IFINDEX, BINDING, DeviceRole.pod);
}

/** Lets hp_egress see a frame that the kernel has addressed, after hp_pod had asked how it would. */
function learn(bench: Bench): void {
  bench.run('hp_pod', said);
  assert.equal(bench.run('hp_egress', addressed(said)).frame, addressed(said));
}

/** @returns the frame as it leaves the pod's program, and its mark */
function speak(bench: Bench, packet = said): { readonly frame: Buffer; readonly mark: number } {
  const { frame: out, reason, verdict } = bench.run('hp_pod', packet);
  assert.equal([verdict, reason], ['redirect', 'sent']);
  const { ctx } = bench.program('hp_pod').testRun({ data: packet, ctx: skBuff({}) });
  return { frame: out, mark: ctx?.readUInt32LE(8) ?? 0 };
}

// Every CPU knows its own ways.
single.before(() => void execFileSync('taskset', ['--cpu-list', '--pid', '0', String(process.pid)]));

single('is the one that the kernel has taken, and nobody judges or marks the packet any more', () => {
  const bench = careOf();
  learn(bench);
  const { frame: out, mark } = speak(bench);
  assert.equal(out, addressed(said));
  assert.is.not(mark, 0);
  bench.bind(BINDING, { action: 'deliver', egress: 'shut' }); // too late for what is on its way
  const left = bench.run('hp_egress', out, { mark });
  assert.equal([left.verdict, left.reason, left.binding.get('at_home')], ['pass', 'at_home', 1]);
  const { ctx } = bench.program('hp_egress').testRun({ data: out, ctx: skBuff({ mark }) });
  assert.is(ctx?.readUInt32LE(8), 0);
  assert.is(bench.run('hp_pod', said).reason, 'guarded');
  bench.close();
});

single('is forgotten after a while, however often it is used', () => {
  const bench = careOf(500);
  learn(bench);
  const end = performance.now() + 10_000;
  let uses = 0;
  for (let out = speak(bench); out.frame.equals(addressed(said)); out = speak(bench)) {
    bench.run('hp_egress', out.frame, { mark: out.mark });
    uses += 1;
    assert.ok(performance.now() < end, 'it is used for ever');
  }
  assert.ok(uses > 0);
  bench.close();
});

single('is not learned from what nobody has asked about', () => {
  const bench = careOf();
  bench.run('hp_egress', addressed(said));
  assert.equal(speak(bench).frame, said);
  bench.close();
});

const variants: readonly [string, Buffer, boolean][] = [
  ['another part of the payload', frame(reply({ payload: Buffer.from('else') })), true],
  ['another port', frame(reply({ port: 1234 })), true],
  ['other bits of ECN', frame(reply({ tos: 2 })), true],
  ['another correspondent', frame(reply({ destination: STRANGER })), false],
  ['another service class (DSCP)', frame(reply({ tos: 0xb8 })), false],
  [
    'another protocol',
    frame(ipv4({ source: HOME, destination: CORRESPONDENT }, udp(SERVICE_PORT, 9, Buffer.alloc(64)))),
    false,
  ],
];
const some = careOf();
for (const [what, packet, same] of variants) {
  single(`is ${same ? 'the same' : 'not the same'} for ${what}`, () => {
    learn(some);
    assert.equal(speak(some, packet).frame, same ? addressed(packet) : packet);
  });
}

single('is shared by processes of one home, which are counted apart', () => {
  const bench = careOf();
  learn(bench);
  bench.device(ARRIVAL_IFINDEX, NEIGHBOUR.id, DeviceRole.pod);
  const packet = frame(reply({ fromPort: NEIGHBOUR.port }));
  const { frame: out, mark } = speak(bench, packet);
  assert.equal(out, addressed(packet));
  const before = atHome(bench, NEIGHBOUR.id);
  bench.run('hp_egress', out, { mark });
  assert.is(atHome(bench, NEIGHBOUR.id), before + 1);
  bench.close();
});

function atHome(bench: Bench, id: number): number {
  const { packets } = bench.countedForBindings().find((each) => each.id === id && each.reason === Reason.at_home) ?? {};
  return packets ?? 0;
}

single.run();

const live = suite('what a guest says, while routes and neighbours change');
const own = Machine.own();
let machines: Record<'correspondent' | 'pod' | 'router', Machine>;
let lan: Lan;
let datapath: Datapath;
const ROUTER = '10.0.0.11';
const HEARER_PORT = 9000; // nobody's here
const ID = 1;

live.before(async () => {
  const [correspondent, pod, router] = [await Machine.create(), await Machine.create(), await Machine.create()];
  machines = { correspondent, pod, router };
  lan = await joinLan({ [CORRESPONDENT]: correspondent, [CARE_OF]: own, [ROUTER]: router });
  router.sysctl('net.ipv4.ip_forward=1', 'net.ipv4.conf.all.send_redirects=0', 'net.ipv4.conf.up0.send_redirects=0');
  own.ip(
    `link add pod0 address ${POD_HOST_MAC} type veth peer name eth0 address ${POD_MAC} netns ${pod.pid}`,
    'link set pod0 addrgenmode none up',
  );
  pod.ip(
    `address add ${HOME}/32 dev eth0`,
    'link set eth0 addrgenmode none up',
    `neighbour add 169.254.77.1 lladdr ${POD_HOST_MAC} nud permanent dev eth0`,
    `route add default via 169.254.77.1 dev eth0 onlink`,
  );
  datapath = await Datapath.open({
    objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
    pins: join(bpffs, 'care-of'),
    run: join(folder, 'run'),
    nodeAddress: CARE_OF,
    uplinks: [{ interface: 'up0', attach: 'tc' }],
  });
  const [uplink, link] = [await readLink('up0'), await readLink('pod0')];
  datapath.tables.putBinding(ID, {
    ...departed(uplink.ifindex, '0.0.0.0', NO_WAY),
    action: Action.deliver,
    egress: Egress.open,
    pod_ifindex: link.ifindex,
    pod_mac: encodeMac(POD_MAC),
    host_mac: encodeMac(POD_HOST_MAC),
  });
  datapath.tables.claimPort({ protocol: 'udp', address: HOME, port: PORT }, ID, false);
  datapath.addDevice(link.ifindex, ID, 'pod');
});

live.after(async () => {
  await datapath.detach();
  datapath.close();
  lan.close();
  for (const machine of Object.values(machines)) machine.close();
});

interface Speech {
  readonly said: number;
  readonly heard: number;
  readonly longestGap: number;
}

/** Numbered datagrams of the guest, before, while and after something `happens`. They must be heard again. */
async function speech(happens: (hearing: () => Promise<void>) => Promise<void>): Promise<Speech> {
  const program = fileURLToPath(new URL('./beat-main.js', import.meta.url));
  const counted = (): number => Number(datapath.bindingCounters(ID).sent?.packets ?? 0n);
  const before = counted();
  const hearer = machines.correspondent.startProgram(program, 'hear', CORRESPONDENT, HEARER_PORT);
  await hearer.next('ready');
  const speaker = machines.pod.startProgram(program, 'send', CORRESPONDENT, HEARER_PORT, PORT);
  try {
    const hearing = async (): Promise<void> => {
      for (const from = counted() - before; ; ) {
        if (Number((await hearer.next('hundred')).last) >= from + 100) return;
      }
    };
    await hearing();
    await happens(hearing);
    await hearing();
    speaker.finish();
    const packets = Number((await speaker.next('sent')).packets);
    hearer.finish();
    const heard = Number((await hearer.next('heard')).packets);
    assert.is(counted() - before, packets);
    return { said: packets, heard, longestGap: Math.max(0, ...hearer.all('gap').map(({ ms }) => Number(ms))) };
  } finally {
    speaker.close();
    hearer.close();
  }
}

live('another route: not one packet is lost', async () => {
  const forwarded = machines.router.counter('IpForwDatagrams');
  const { said: packets, heard } = await speech(async (hearing) => {
    own.ip(`route replace ${CORRESPONDENT}/32 via ${ROUTER}`);
    await hearing();
    own.ip(`route del ${CORRESPONDENT}/32`);
  });
  assert.is(heard, packets);
  assert.ok(machines.router.counter('IpForwDatagrams') > forwarded + 50, 'the other route was taken');
});

live('a correspondent that the kernel learns has another address on the link', async () => {
  const {
    said: packets,
    heard,
    longestGap,
  } = await speech(async () => {
    machines.correspondent.ip('link set up0 address 02:00:00:00:00:79');
    own.ip(`neighbour replace ${CORRESPONDENT} lladdr 02:00:00:00:00:79 dev up0 nud reachable`);
  });
  console.log(`  ${packets - heard} of ${packets} lost, longest gap ${longestGap.toFixed(0)} ms`);
  assert.ok(longestGap < HEALED_MS);
});

live.run();
