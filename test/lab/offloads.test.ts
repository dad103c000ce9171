import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { BpfMap } from '../../addon/lib/index.js';
import type { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { suite } from '../suite.js';
import { Capture, macOf } from './capture.js';
import { bareLab, downAll, homeproxy } from './lab-fixture.js';
import { NodeCommand } from './node-command.js';
import type { Frame } from './pcap.js';
import { Scenario } from './scenario.js';
import { SocketAgent } from './socket-agent.js';

const PORT = 9000;
const BYTES = 20_000_000;
const FULL_FRAME = 1514;

const links = suite('the links of a lab');
links.after(downAll);

/** Bytes per frame that home received while the client sent it a bulk of data. */
async function meanFrame(lab: Lab): Promise<number> {
  const home = lab.node('home');
  const receive = `let n=0; require('net').createServer((s) => s.on('data', (d) => { n += d.length })
    .on('end', () => { console.log('got', n); process.exit() })).listen(${PORT}, () => console.log('listening'))`;
  const send = `require('net').connect(${PORT}, '${home.address}').end(Buffer.alloc(${BYTES}))`;
  const server = new NodeCommand(home, [process.execPath, '-e', receive]);
  await server.printed(/listening/);
  const before = await received(lab);
  await lab.node('client').run([process.execPath, '-e', send]);
  assert.match((await server.ended).stdout, `got ${BYTES}`);
  const after = await received(lab);
  return (after.bytes - before.bytes) / (after.packets - before.packets);
}

async function received(lab: Lab): Promise<{ bytes: number; packets: number }> {
  const { stdout } = await lab.node('home').run(['ip', '-j', '-s', 'link', 'show', 'dev', 'eth0']);
  const [link] = JSON.parse(stdout) as { stats64: { rx: { bytes: number; packets: number } } }[];
  if (link === undefined) throw new Error('home has no eth0');
  return link.stats64.rx;
}

links('carry whole super-packets with offloads', async () => {
  const mean = await meanFrame(await bareLab('offloads', { hosts: 1, offloads: true }));
  assert.ok(mean > 2 * FULL_FRAME, `${mean} bytes per frame`);
});

links('carry nothing longer than their MTU without: native XDP would forward what no device has finished', async () => {
  const mean = await meanFrame(await bareLab('no-offloads', { hosts: 1 }));
  assert.ok(mean <= FULL_FRAME, `${mean} bytes per frame`);
});

links('are refused with offloads under native XDP', async () => {
  const { status, stdout } = await homeproxy(['lab', 'up', '--offloads', '--lab', 'test-never-built', '--json']);
  assert.is(status, 2);
  assert.is(JSON.parse(stdout).error.code, 'LAB_OFFLOADS');
});

const guests = suite('super-packets for a process that is away');
guests.after(downAll);

const PORTS = { control: 7300, bulk: 7301 };
/** In fewer frames than tcpdump has room for, see capture.ts. */
const SENT_BYTES = 1_500_000;
const TUNNEL = 4; // IP in IP
/** Counted where a super-packet was taken for one that is too long, or could not be changed. */
const IN_VAIN = ['too_big', 'too_big_unanswered', 'split', 'no_room', 'malformed'];

interface Wire {
  /** Bytes of each frame with data: from the client to home, */
  readonly arrived: readonly number[];
  /** and from there to the host. */
  readonly tunnelled: readonly number[];
}

guests(
  'go whole into the tunnel and out of it, and leave in segments that the link carries, unclamped as they are',
  async () => {
    const scenario = await Scenario.start('offloads-guest', { attach: 'tc', offloads: true });
    const { home, client } = scenario;
    const host = scenario.lab.node('host1');
    const server = await SocketAgent.serve(home, client, PORTS.control);
    const sender = SocketAgent.start(client);
    await server.do('listen', 'bulk', '0.0.0.0', PORTS.bulk);
    await sender.do('connect', 'bulk', home.address, PORTS.bulk); // before the departure: with the MSS of the whole link
    await server.do('accept', 'bulk', 'bulk');
    await scenario.migrate(server.pid, 'host1');
    // What home sends has to be finished by its kernel, as where the network card knows nothing of tunnels.
    await home.run(['ethtool', '-K', 'eth0', 'tx', 'off', 'tso', 'off', 'gso', 'off']);
    const before = {
      home: await inVain(scenario, 'home'),
      host1: await inVain(scenario, 'host1'),
      fast: fastPackets(home),
    };
    const capture = await Capture.start(home);
    await server.do('begin_sink', 'bulk');
    const done = Promise.all([sender.do('send_stream', 'bulk', SENT_BYTES), server.do('end', 'sink bulk')]);
    await Promise.race([done, sleep(10_000, undefined, { ref: false })]); // what no link carries does not come at all
    const frames = await capture.stop();
    const { arrived, tunnelled } = wireOf(frames, await macOf(client), await macOf(home), await macOf(host));
    assert.is(Math.max(...tunnelled), FULL_FRAME, 'the longest frame in the tunnel');
    assert.equal(await done, [SENT_BYTES, [SENT_BYTES, true]]);
    const whole = arrived.filter((bytes) => bytes > FULL_FRAME).length;
    assert.ok(
      whole > 10 && tunnelled.length > 3 * arrived.length,
      `${arrived.length} became ${tunnelled.length} frames`,
    );
    const fast = fastPackets(home) - before.fast;
    assert.ok(fast >= whole, `${fast} packets by the fast path, ${whole} of several segments`);
    assert.equal(await inVain(scenario, 'home'), before.home);
    assert.equal(await inVain(scenario, 'host1'), before.host1);
  },
);

function wireOf(frames: readonly Frame[], client: string, home: string, host: string): Wire {
  const isBetween = ({ bytes }: Frame, from: string, to: string): boolean =>
    bytes.length > 200 && bytes.subarray(0, 12).equals(Buffer.from(`${to}${from}`.replaceAll(':', ''), 'hex'));
  const lengths = (some: readonly Frame[]): number[] => some.map(({ bytes }) => bytes.length);
  return {
    arrived: lengths(frames.filter((frame) => isBetween(frame, client, home))),
    tunnelled: lengths(frames.filter((frame) => isBetween(frame, home, host) && frame.bytes[23] === TUNNEL)),
  };
}

async function inVain(scenario: Scenario, node: string): Promise<string[]> {
  const { counters } = await scenario.status(node);
  return counters.filter(({ reason }) => IN_VAIN.includes(reason)).map((row) => Object.values(row).join(' '));
}

/** What a node's fast paths tunnelled: nothing else tells it from the general path. */
function fastPackets(node: LabNode): number {
  const map = BpfMap.openPinned(node.path('/sys/fs/bpf/homeproxy/maps/fast_counters'));
  let packets = 0;
  for (const [, perCpu] of map.entriesPerCpu()) for (const value of perCpu) packets += Number(value.readBigUInt64LE());
  map.close();
  return packets;
}

links.run();
guests.run();
