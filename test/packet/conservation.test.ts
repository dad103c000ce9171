// limit: 240 s
/**
 * No packet disappears without a counter. Packets of every kind enter a real interface with the programs attached; each way
 * out is a TAP whose frames are counted; what is passed is counted by somebody else's filter behind ours. What was sent is what
 * was passed, what came out, and what was dropped for a reason.
 */

import { execFileSync } from 'node:child_process';
import { closeSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { BpfObject, openTap, readFrame, tcAttach, writeFrame } from '../../addon/lib/index.js';
import { Action, type BindingStruct, Egress } from '../../cli/forwarding/abi.gen.js';
import { encodeAddress, encodeMac } from '../../cli/forwarding/address.js';
import { Datapath } from '../../cli/forwarding/datapath.js';
import { tunnelFields } from '../../cli/forwarding/encapsulation.js';
import { NO_WAY } from '../../cli/forwarding/neighbours.js';
import { ParkQueue } from '../../cli/forwarding/park-queue.js';
import { readLink } from '../../cli/system/ip.js';
import { projectFile } from '../../cli/system/project.js';
import { bpffs, folder } from '../addon/private-namespaces.js';
import { corpus } from '../fuzz/corpus.js';
import { suite } from '../suite.js';
import { Machine } from './network.js';
import { tagged } from './packets.js';
import { CARE_OF, HOME, HOME6, OTHER_NODE, request, SERVICE_PORT, tunnelled } from './scene.js';

const ID = 1;
const UPLINK_MAC = '02:00:00:00:00:02';
const MAC_BYTES = 6;
/** So often each seed is sent. */
const ROUNDS = 3;

/** After these a packet goes on through the kernel; the others, but `OUT`, are drops. */
const PASSED = [
  ...['not_ours', 'not_parsed', 'at_home', 'tunnel_unknown_node', 'tunnel_no_binding', 'malformed', 'tagged'],
  ...['fragment_unknown', 'slow_path', 'path_mtu'],
];
/** And these come out of an interface. */
const OUT = ['tunnelled', 'delivered', 'parked', 'too_big', 'split', 'too_big_relayed', 'reversed', 'sent'];

type State = readonly [
  name: string,
  action: keyof typeof Action,
  expected: string,
  change: (present: BindingStruct) => Partial<BindingStruct>,
];
const same = (): Partial<BindingStruct> => ({});
const STATES: readonly State[] = [
  ['pass', 'pass', 'at_home', same],
  ['park', 'park', 'parked', same],
  ['park without a queue', 'park', 'park_no_queue', () => ({ park_ifindex: 0 })],
  ['tunnel', 'tunnel', 'tunnelled', same],
  ['tunnel in UDP', 'tunnel', 'tunnelled', () => tunnelFields({ to: CARE_OF, encapsulation: 'udp' })],
  ['tunnel on a narrow way', 'tunnel', 'split', ({ next_hop }) => ({ next_hop: { ...next_hop, mtu: 600 } })],
  ['tunnel nowhere', 'tunnel', 'no_route', () => ({ next_hop: NO_WAY })],
  ['deliver', 'deliver', 'delivered', same],
  ['drop', 'drop', 'fenced', same],
];

const own = Machine.own();
const frames = corpus()
  .map(({ frame }) => Buffer.concat([encodeMac(UPLINK_MAC), frame.subarray(MAC_BYTES)]))
  .filter((frame) => frame.length <= 1514);

interface Tap {
  readonly fd: number;
  readonly ifindex: number;
}

const taps: Tap[] = [];

function makeTap(name: string, ...settings: readonly string[]): Tap {
  const tap = openTap(name);
  taps.push(tap);
  own.ip(
    `link set dev ${name} addrgenmode none arp off ${['mtu 1500', ...settings].join(' ')}`,
    `link set dev ${name} up`,
  );
  return tap;
}

const uplink = makeTap('up0', `address ${UPLINK_MAC}`);
const onward = makeTap('out0');
/** A pod's link is a pair of veth: packets are put in at one end, or go on at the other at once (bpf_redirect_peer). */
const inside = await Machine.create();
own.ip(`link add pod0 type veth peer name eth0 netns ${inside.pid}`, 'link set pod0 addrgenmode none arp off up');
inside.ip('link set eth0 addrgenmode none arp off up');
inside.run('ethtool', '-K', 'eth0', 'gro', 'on');
const pod = { ifindex: (await readLink('pod0')).ifindex };
own.ip(`address add ${HOME}/24 dev up0`, `address add ${HOME6}/64 dev up0 nodad`);

const buffer = Buffer.alloc(65_536);

/** Somebody else's filter, which passes everything. */
const ONLOOKER = `
  unsigned long seen;
  __attribute__((section("tc"))) int onlooker(void *context) { __sync_fetch_and_add(&seen, 1); return -1; }
  char terms[] __attribute__((section("license"))) = "GPL";
`;
const BEHIND_OURS = 0xc000;

/** Counts what our programs pass at the ingress of the uplink. */
class Onlooker {
  private readonly object: BpfObject;
  private readonly counter: ReturnType<BpfObject['map']>;

  constructor() {
    const [source, object] = [join(folder, 'onlooker.bpf.c'), join(folder, 'onlooker.o')];
    writeFileSync(source, ONLOOKER);
    execFileSync('clang', ['-target', 'bpf', '-O2', '-g', '-c', source, '-o', object]);
    this.object = BpfObject.open(object).load();
    const program = this.object.program('onlooker');
    tcAttach({ ifindex: uplink.ifindex, direction: 'ingress', priority: BEHIND_OURS, handle: 1, program });
    program.close();
    this.counter = this.object.map('onlooker.bss');
  }

  get seen(): number {
    return Number(this.counter.get(Buffer.alloc(4))?.readBigUInt64LE() ?? 0n);
  }

  close(): void {
    own.run('tc', 'filter', 'del', 'dev', 'up0', 'ingress', 'pref', String(BEHIND_OURS));
    this.counter.close();
    this.object.close();
  }
}

/** How many frames have come to the pod's end of its link. */
function received(): number {
  const devices = readFileSync(`/proc/${inside.pid}/net/dev`, 'utf8');
  return Number(/eth0: *\d+ +(\d+)/.exec(devices)?.[1]);
}

/** How many frames have come out since the last time. */
function drain({ fd }: Tap): number {
  let frames = 0;
  while (readFrame(fd, buffer) >= 0) frames++;
  return frames;
}

type Counted = ReadonlyMap<string, number>;

function count(datapath: Datapath): Counted {
  return new Map(datapath.counters().map(({ hook, reason, packets }) => [`${hook} ${reason}`, Number(packets)]));
}

/** What a hook counted between two times, by reason. */
function between(before: Counted, after: Counted, hook: string): Map<string, number> {
  const result = new Map<string, number>();
  for (const [name, packets] of after) {
    const [ofHook, reason = ''] = name.split(' ');
    const more = packets - (before.get(name) ?? 0);
    if (ofHook === hook && more !== 0) result.set(reason, more);
  }
  return result;
}

function sum(reasons: ReadonlyMap<string, number>, chosen: (reason: string) => boolean = () => true): number {
  let packets = 0;
  for (const [reason, count] of reasons) if (chosen(reason)) packets += count;
  return packets;
}

const isPassed = (reason: string): boolean => PASSED.includes(reason);

for (const attach of ['tc', 'xdp', 'xdp-generic'] as const) {
  const test = suite(`every packet is accounted for (${attach})`);
  let datapath: Datapath;
  let queue: ParkQueue;
  let present: BindingStruct;
  let onlooker: Onlooker;

  test.before(async () => {
    datapath = await Datapath.open({
      objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
      pins: join(bpffs, attach),
      run: join(folder, attach),
      nodeAddress: HOME,
      uplinks: [{ interface: 'up0', attach }],
    });
    queue = await ParkQueue.create(datapath, ID, 8000);
    onlooker = new Onlooker();
    datapath.tables.setNodes([CARE_OF, OTHER_NODE]);
    for (const address of [HOME, HOME6]) {
      for (const protocol of ['tcp', 'udp'] as const) {
        datapath.tables.claimPort({ protocol, address, port: SERVICE_PORT }, ID, false);
      }
    }
    present = {
      epoch: 1,
      action: Action.pass,
      egress: Egress.open,
      draining: 0,
      hold: 0,
      park_ifindex: queue.ifindex,
      uplink_ifindex: uplink.ifindex,
      pod_ifindex: pod.ifindex,
      pod_mac: encodeMac('02:00:00:00:0f:01'),
      host_mac: encodeMac('02:00:00:00:0f:02'),
      ...tunnelFields({ to: CARE_OF, encapsulation: 'ip' }),
      node: encodeAddress(HOME),
      home: encodeAddress(HOME),
      next_hop: {
        ifindex: onward.ifindex,
        mtu: 1500,
        resolved: 1,
        source: encodeMac(UPLINK_MAC),
        destination: encodeMac('02:00:00:00:00:03'),
      },
    };
  });

  test.after(async () => {
    queue.close();
    onlooker.close();
    await datapath.detach();
    datapath.close();
  });

  for (const [state, action, expected, change] of STATES) {
    test(`${state}: sent is passed, out of an interface, or dropped and counted`, async () => {
      const egress = action === 'pass' || action === 'deliver' ? Egress.open : Egress.shut;
      datapath.tables.putBinding(ID, { ...present, action: Action[action], egress, ...change(present) });
      for (const tap of [uplink, onward]) drain(tap);
      const [before, pending, entered, seen] = [count(datapath), queue.pending, received(), onlooker.seen];
      const out = { uplink: 0, onward: 0 };
      let sent = 0;
      for (let round = 0; round < ROUNDS; round++) {
        for (const frame of frames) {
          assert.is(writeFrame(uplink.fd, frame), frame.length);
          sent++;
          out.uplink += drain(uplink);
          out.onward += drain(onward);
        }
      }
      const after = count(datapath);
      const [xdp, tc] = [between(before, after, 'xdp'), between(before, after, 'ingress')];
      const first = attach === 'tc' ? tc : xdp;
      assert.is(sum(first), sent, 'the first program counts all that was sent');
      if (attach !== 'tc') assert.is(sum(tc), sum(xdp, isPassed), 'tc counts what XDP passed');
      assert.is(onlooker.seen - seen, sum(tc, isPassed), 'passed is what somebody behind us sees');
      const of = (reason: string): number => (xdp.get(reason) ?? 0) + (tc.get(reason) ?? 0);
      const [tunnelled, split] = [of('tunnelled'), of('split')];
      if (split === 0) assert.is(out.onward, tunnelled, 'tunnelled is what came out towards the care-of host');
      else assert.ok(out.onward >= tunnelled + 2 * split, 'a packet that was split came out in pieces');
      // what is put into a veth is polled there, perhaps a moment later
      for (const end = Date.now() + 2000; received() - entered < of('delivered') && Date.now() < end; ) await sleep(1);
      assert.is(received() - entered, of('delivered'), 'delivered is what came out into the pod');
      assert.is(queue.pending - pending, of('parked'), 'parked is what waits in the queue');
      const left = between(before, after, 'egress');
      assert.is(
        out.uplink,
        sum(left, (reason) => isPassed(reason) || OUT.includes(reason)),
        'and what left was counted',
      );
      const dropped = sum(tc, (reason) => !isPassed(reason) && !OUT.includes(reason));
      if (action !== 'drop') assert.is(of('fenced'), 0);
      else assert.ok(of('fenced') > 0 && dropped + sum(xdp, (reason) => reason === 'fenced') > 0);
      assert.ok(of(expected) > 0, `some were counted as ${expected}`);
    });
  }

  test('a tag without a network goes, and the packet through the tunnel', () => {
    datapath.tables.putBinding(ID, { ...present, action: Action.tunnel, egress: Egress.shut });
    drain(onward);
    const packet = request();
    for (const tags of [[0xe000], [0], [0xe000, 0], [0xe064], [0xe000, 0x64]]) {
      const frame = tagged(
        tags.map((tag) => [0x8100, tag] as const),
        packet,
      );
      encodeMac(UPLINK_MAC).forEach((byte, index) => void frame.writeUInt8(byte, index));
      writeFrame(uplink.fd, frame);
      const length = readFrame(onward.fd, buffer);
      if (tags.length > 1 || tags[0] === 0xe064) assert.is(length, -1, `tags ${tags} say that it is another network's`);
      else assert.equal(buffer.subarray(14, length), tunnelled(packet), `tag ${tags}`);
    }
  });

  test('what was parked comes out again, frame for frame, and nothing is lost', async () => {
    const pending = queue.pending;
    assert.ok(pending > 0);
    datapath.tables.putBinding(ID, { ...present, action: Action.tunnel, egress: Egress.shut, draining: 1 });
    drain(onward);
    const before = count(datapath);
    let out = 0;
    const reading = setInterval(() => {
      out += drain(onward);
    }, 1);
    const { replayed, lost } = await queue.replay();
    clearInterval(reading);
    out += drain(onward);
    assert.equal({ replayed, lost }, { replayed: pending, lost: 0 });
    const replays = between(before, count(datapath), 'replay');
    assert.is(sum(replays), replayed);
    if (!replays.has('split')) assert.is(out, replays.get('tunnelled'));
  });

  if (attach === 'xdp-generic') {
    test.after(() => {
      for (const { fd } of taps) closeSync(fd);
      inside.close();
    });
  }
  test.run();
}
