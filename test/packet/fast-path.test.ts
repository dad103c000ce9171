/** The fast paths of XDP and tc decide as the general path does. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { type BpfMap, BpfObject, type BpfProgram, runBatch, StructCodec } from '../../addon/lib/index.js';
import {
  Action,
  type BindingStruct,
  DeviceRole,
  Egress,
  type FastBindingStruct,
  Hold,
} from '../../cli/forwarding/abi.gen.js';
import { addressBytes, encodeAddress } from '../../cli/forwarding/address.js';
import { readBindingCounters, readCounters } from '../../cli/forwarding/counters.js';
import { Tables } from '../../cli/forwarding/tables.js';
import { projectFile } from '../../cli/system/project.js';
import { pick, randomFrom } from '../fault/chance.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, OTHER_IFINDEX, skBuff } from './bench.js';
import {
  away,
  DRAINING,
  GUEST,
  GUEST_HOME,
  GUESTS,
  HELD_GUEST,
  HOLDING,
  mutated,
  OWN,
  PARKED,
  REVERSING_GUEST,
  SECOND_HOME,
  SHARED,
  SHARED_GUEST,
  SHUT_GUEST,
  TWICE,
  UNRESOLVED,
  WAITING_GUEST,
} from './fast-path-packets.js';
import { ethernet, ipv4, readEthernet, readIpv4, tcp, udp } from './packets.js';
import { CARE_OF, CORRESPONDENT, frame, HOME, OTHER_NODE, reply, request, STRANGER, tunnelled } from './scene.js';

const BINDINGS = [1, 2, 3, 4, 5, 6, 7, 8, ...GUESTS.map(({ binding: id }) => id)];

const guest: BindingStruct = { ...away, action: Action.deliver, egress: Egress.open, pod_ifindex: OTHER_IFINDEX };

const PROGRAMS = ['hp_xdp', 'hp_ingress', 'hp_egress', 'hp_loopback', 'hp_pod', 'hp_entry'] as const;
type ProgramName = (typeof PROGRAMS)[number];

/** A home node whose programs have the fast path, or have not. */
class Home {
  readonly tables: Tables;
  private readonly copies: BpfMap;
  private readonly copyCodec: StructCodec;
  private readonly programs: Readonly<Record<ProgramName, BpfProgram>>;

  constructor(fast: boolean) {
    const object = BpfObject.open(projectFile('bpf/build/homeproxy.bpf.o'), {
      rodata: { node_address: addressBytes(HOME), fast_path: fast ? 1 : 0 },
      mapSizes: { flows: 1024, ports: 1024, binding_counters: 4096 },
    }).load();
    this.programs = Object.fromEntries(PROGRAMS.map((name) => [name, object.program(name)])) as typeof this.programs;
    this.tables = new Tables(object);
    this.copies = object.map('fast_bindings');
    this.copyCodec = new StructCodec(object.btf, 'fast_binding');
    object.close();
    this.tables.setNodes([CARE_OF, OTHER_NODE]);
    for (const id of BINDINGS) {
      this.tables.parkStates.put(id, { parked: 1n, replayed: 0n });
      this.tables.putBinding(id, away);
    }
    for (const { port, binding: id } of [OWN, TWICE, PARKED, DRAINING, HOLDING, UNRESOLVED]) this.claim(id, port);
    this.claim(TWICE.other, TWICE.port, SECOND_HOME);
    this.tables.claimPort({ protocol: 'tcp', address: HOME, port: SHARED.port }, SHARED.binding, true);
    const local = { address: HOME, port: SHARED.port };
    const remote = { address: CORRESPONDENT, port: SHARED.remotePort };
    this.tables.claimFlows([{ protocol: 'tcp', local, remote }], SHARED.binding);
    this.tables.putBinding(TWICE.other, { ...away, care_of: encodeAddress(OTHER_NODE) });
    this.tables.putBinding(PARKED.binding, { ...away, action: Action.park });
    this.tables.putBinding(DRAINING.binding, { ...away, draining: 1 });
    this.tables.putBinding(HOLDING.binding, { ...away, hold: Hold.new });
    this.tables.putBinding(UNRESOLVED.binding, { ...away, next_hop: { ...away.next_hop, resolved: 0 } });
    this.takeIn();
  }

  private takeIn(): void {
    this.tables.setLocalAddresses([HOME]);
    for (const { port, binding: id } of GUESTS) {
      this.tables.putBinding(id, guest);
      if (id !== SHARED_GUEST.binding) this.claim(id, port, GUEST_HOME);
    }
    this.tables.claimPort(
      { protocol: 'tcp', address: GUEST_HOME, port: SHARED_GUEST.port },
      SHARED_GUEST.binding,
      true,
    );
    const local = { address: GUEST_HOME, port: SHARED_GUEST.port };
    const remote = { address: CORRESPONDENT, port: SHARED.remotePort };
    this.tables.claimFlows([{ protocol: 'tcp', local, remote }], SHARED_GUEST.binding);
    this.tables.putBinding(HELD_GUEST.binding, { ...guest, hold: Hold.datagrams, egress: Egress.hold });
    this.tables.putBinding(SHUT_GUEST.binding, { ...guest, action: Action.drop, egress: Egress.shut });
    this.tables.putBinding(WAITING_GUEST.binding, { ...guest, draining: 1 });
    this.tables.putBinding(REVERSING_GUEST.binding, { ...guest, egress: Egress.tunnel });
    this.hasPodOf(GUEST.binding);
  }

  /** Whose pod the interface belongs to that test runs arrive on. */
  hasPodOf(id: number): void {
    this.tables.devices.put(ARRIVAL_IFINDEX, { binding: id, role: DeviceRole.pod });
  }

  /** A packet that stands for several: the kernel knows `gsoSize` of it. */
  runMerged(data: Buffer, gsoSize: number, program: ProgramName) {
    const { retval, data: out } = this.programs[program].testRun({ data, ctx: skBuff({ gsoSize, gsoSegments: 3 }) });
    return { verdict: retval, out };
  }

  claim(id: number, port: number, address = HOME): void {
    for (const protocol of ['tcp', 'udp'] as const) this.tables.claimPort({ protocol, address, port }, id, false);
  }

  run(packets: readonly Buffer[], program: ProgramName = 'hp_xdp') {
    const lengths = Uint32Array.from(packets, (packet) => packet.length);
    const outputs = Buffer.alloc(lengths.reduce((sum, length) => sum + length + 256, 0));
    const { verdicts, sizes } = runBatch(this.programs[program], { packets: Buffer.concat(packets), lengths, outputs });
    let at = 0;
    return packets.map((_, index) => {
      const size = sizes[index] ?? 0;
      const out = outputs.subarray(at, at + size);
      at += size;
      return { verdict: verdicts[index], out };
    });
  }

  /** The mark that the program leaves on a packet: to the kernel's next station it says where the packet came from. */
  markOf(data: Buffer, program: ProgramName): number {
    return this.programs[program].testRun({ data, ctx: skBuff({}) }).ctx?.readUInt32LE(8) ?? 0;
  }

  /** All that was counted so far, in words. */
  counted(): string {
    const all = readCounters(this.tables)
      .filter(({ packets }) => packets > 0n)
      .map(({ hook, reason, packets, bytes }) => `${hook} ${reason} ${packets} ${bytes}`);
    const own = BINDINGS.flatMap((id) =>
      Object.entries(readBindingCounters(this.tables, id)).map(
        ([reason, { packets, bytes }]) => `${id} ${reason} ${packets} ${bytes}`,
      ),
    );
    return [...all, ...own].join('\n');
  }

  /** Changes the copy of a binding, and returns what it was. */
  changeCopy(id: number, change: (copy: FastBindingStruct) => FastBindingStruct): FastBindingStruct {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(id);
    const present = this.copyCodec.decode(this.copies.get(key) as Buffer) as unknown as FastBindingStruct;
    this.copies.set(key, this.copyCodec.encode(change(present)));
    return present;
  }

  /** Packets that the fast path tunnelled for a binding. */
  fast(id: number): bigint {
    return this.tables.fastPath.tunnelled(id).reduce((sum, value) => sum + value.readBigUInt64LE(), 0n);
  }
}

const test = suite('fast path');
const fast = new Home(true);
const general = new Home(false);
const toOwn = frame(request({ port: OWN.port }));

test('the commonest packet takes it: same verdict, same frame, same counters', () => {
  const [quick] = fast.run([toOwn]);
  const [slow] = general.run([toOwn]);
  assert.equal(quick, slow);
  assert.is(fast.fast(OWN.binding), 1n);
  assert.is(general.fast(OWN.binding), 0n);
  assert.is(fast.counted(), general.counted());
  assert.is(readIpv4(readEthernet(quick?.out ?? Buffer.alloc(0)).payload).destination, CARE_OF);
});

test('a packet that begins a connection does not', () => {
  const begins = frame(request({ port: OWN.port, flags: 'S' }));
  const before = fast.fast(OWN.binding);
  for (const program of ['hp_xdp', 'hp_ingress'] as const) {
    assert.equal(fast.run([begins], program), general.run([begins], program));
  }
  assert.is(fast.fast(OWN.binding), before);
});

for (const program of PROGRAMS) {
  for (const seed of [1, 2]) {
    test(`random and mutated packets come out of ${program} as from the general path (seed ${seed})`, () => {
      const random = randomFrom(seed);
      const packets = Array.from({ length: 20_000 }, () => mutated(random, program));
      for (const home of [fast, general]) home.hasPodOf(pick([GUEST, ...GUESTS], randomFrom(seed)).binding);
      const [quick, slow] = [fast.run(packets, program), general.run(packets, program)];
      packets.forEach((packet, index) => {
        const [left, right] = [quick[index], slow[index]];
        const same = left?.verdict === right?.verdict && right !== undefined && left?.out.equals(right.out);
        if (!same) assert.equal(left, right, `packet ${packet.toString('hex')}`);
      });
      assert.is(fast.counted(), general.counted());
    });
  }
}

for (const program of ['hp_xdp', 'hp_ingress'] as const) {
  test(`it takes what ${program} tunnels`, () => {
    const random = randomFrom(3);
    const packets = Array.from({ length: 5000 }, () => mutated(random, program));
    const ids = [OWN, SHARED, TWICE].map(({ binding: id }) => id);
    const before = ids.map((id) => fast.fast(id));
    assert.equal(fast.run(packets, program), general.run(packets, program));
    ids.forEach((id, index) => void assert.ok(fast.fast(id) > (before[index] ?? 0n) + 3n, `binding ${id}`));
    for (const { binding: id } of [PARKED, DRAINING, HOLDING, UNRESOLVED]) assert.is(fast.fast(id), 0n);
  });
}

for (const { binding: id } of GUESTS) {
  test(`what a pod says comes out as from the general path (binding ${id})`, () => {
    const random = randomFrom(id);
    const packets = Array.from({ length: 3000 }, () => mutated(random, 'hp_pod'));
    for (const home of [fast, general]) home.hasPodOf(id);
    assert.equal(fast.run(packets, 'hp_pod'), general.run(packets, 'hp_pod'));
    assert.is(fast.counted(), general.counted());
  });
}

for (const [protocol, segment] of [
  ['TCP', tcp({ sourcePort: 1000, destinationPort: GUEST.port, flags: 'PA', payload: Buffer.alloc(3000) })],
  ['UDP', udp(1000, GUEST.port, Buffer.alloc(3000))],
] as const) {
  for (const gsoSize of [1000, 1430, 1445, 1455, 1461]) {
    test(`what the kernel has merged is treated alike: ${protocol}, ${gsoSize} bytes each`, () => {
      const arriving = ipv4({ source: CORRESPONDENT, destination: GUEST_HOME }, segment);
      const departing = Buffer.from(ipv4({ source: CORRESPONDENT, destination: HOME }, segment));
      departing.writeUInt16BE(OWN.port, 22);
      const frames = [frame(departing), ethernet({}, tunnelled(arriving, { source: OTHER_NODE, destination: HOME }))];
      for (const each of frames) {
        assert.equal(fast.runMerged(each, gsoSize, 'hp_ingress'), general.runMerged(each, gsoSize, 'hp_ingress'));
      }
      assert.is(fast.counted(), general.counted());
    });
  }
}

for (const [what, packet, mark] of [
  ['a correspondent', reply({ fromPort: GUEST.port, source: GUEST_HOME }), 0],
  ['its host itself', reply({ fromPort: GUEST.port, source: GUEST_HOME, destination: HOME }), 0x68706869],
] as const) {
  test(`what a guest says to ${what} goes the same way`, () => {
    for (const home of [fast, general]) {
      home.hasPodOf(GUEST.binding);
      assert.is(home.markOf(frame(packet), 'hp_pod'), mark);
    }
  });
}

test('a guest hears and speaks by what the fast path alone knows', () => {
  const alone = new Home(true);
  const port = 999;
  // The bit of the filter is another address's, so that nothing but the copy says whose the port is.
  alone.claim(GUEST.binding, port, STRANGER);
  const place = { protocol: 'tcp', port, local: encodeAddress(STRANGER) } as const;
  const heard = ethernet(
    {},
    tunnelled(request({ port, destination: GUEST_HOME }), { source: OTHER_NODE, destination: HOME }),
  );
  const said = frame(reply({ fromPort: port, source: GUEST_HOME }));
  const counts = (): string =>
    alone
      .counted()
      .split('\n')
      .filter((line) => line.startsWith(`${GUEST.binding} `))
      .join();
  const before = counts();
  alone.run([heard], 'hp_ingress');
  alone.run([said], 'hp_egress');
  assert.is(counts(), before);
  alone.tables.fastPath.release(place);
  alone.tables.fastPath.claim({ ...place, local: encodeAddress(GUEST_HOME) }, GUEST.binding, false);
  const [delivered] = alone.run([heard], 'hp_ingress');
  const afterHearing = counts();
  assert.is.not(afterHearing, before);
  assert.is(delivered?.out.length, heard.length - 20);
  alone.run([said], 'hp_egress');
  assert.is.not(counts(), afterHearing);
});

test('a binding that changes is followed at once, and again when it changes back', () => {
  for (let round = 0; round < 600; round++) {
    // More rounds than there are versions.
    const care_of = encodeAddress(round % 2 === 0 ? OTHER_NODE : CARE_OF);
    for (const home of [fast, general]) home.tables.putBinding(OWN.binding, { ...away, care_of });
    const before = fast.fast(OWN.binding);
    assert.equal(fast.run([toOwn]), general.run([toOwn]));
    assert.is(fast.fast(OWN.binding), before + 1n);
  }
  for (const home of [fast, general]) home.tables.putBinding(OWN.binding, { ...away, action: Action.drop });
  assert.equal(fast.run([toOwn]), general.run([toOwn]));
  for (const home of [fast, general]) home.tables.putBinding(OWN.binding, away);
  assert.is(fast.counted(), general.counted());
});

test('new copies have odd versions; an even one, as older builds made, has the other route', () => {
  const before = fast.fast(OWN.binding);
  const { version } = fast.changeCopy(OWN.binding, ({ latest, routes: [empty, route] }) => {
    if (empty === undefined || route === undefined) throw new RangeError('a copy without two routes');
    return { version: 2, latest, routes: [route, { ...empty, ifindex: 0, mtu: 0 }] };
  });
  assert.is(version % 2, 1);
  assert.equal(fast.run([toOwn]), general.run([toOwn]));
  assert.equal(fast.run([toOwn], 'hp_ingress'), general.run([toOwn], 'hp_ingress'));
  assert.is(fast.fast(OWN.binding), before + 2n);
  fast.tables.copyToFastPath();
  assert.is(fast.changeCopy(OWN.binding, (copy) => copy).version % 2, 1);
  assert.equal(fast.run([toOwn]), general.run([toOwn]));
});

test('an invalidated binding takes the general path, and so does one without a port of its own any more', () => {
  const before = fast.fast(OWN.binding);
  fast.tables.fastPath.invalidate(OWN.binding);
  assert.equal(fast.run([toOwn]), general.run([toOwn]));
  assert.is(fast.fast(OWN.binding), before);
  fast.tables.copyToFastPath();
  assert.equal(fast.run([toOwn]), general.run([toOwn]));
  assert.is(fast.fast(OWN.binding), before + 1n);
});

test('what was left behind on a port of a block stays here, also after a restart', () => {
  const port = 40_001;
  const flow = {
    protocol: 'tcp',
    local: { address: HOME, port },
    remote: { address: CORRESPONDENT, port: SHARED.remotePort },
  } as const;
  const packets = [frame(request({ port, fromPort: SHARED.remotePort })), frame(request({ port: port + 1 }))];
  for (const home of [fast, general]) {
    home.tables.claimPort({ protocol: 'tcp', address: HOME, port }, OWN.binding, false);
    home.tables.leftBehind.keep([flow]);
    home.tables.claimBlock({ first: 40_000, last: 40_063 }, [HOME], OWN.binding);
  }
  for (const restart of [false, true]) {
    if (restart) {
      fast.tables.fastPath.claim({ protocol: 'tcp', port, local: encodeAddress(HOME) }, OWN.binding, false); // as an older build did
      fast.tables.copyToFastPath();
    }
    for (const program of ['hp_xdp', 'hp_ingress'] as const) {
      const before = fast.fast(OWN.binding);
      assert.equal(fast.run(packets, program), general.run(packets, program));
      assert.is(fast.fast(OWN.binding), before + 1n);
    }
  }
});

test('a port in the block of another binding stays its own, also where its binding can have no copy', () => {
  const far = { port: 41_001, binding: 20_000 }; // beyond FAST_BINDINGS
  const packets = [far.port, far.port + 1].map((port) => frame(request({ port })));
  for (const home of [fast, general]) {
    home.tables.putBinding(far.binding, { ...away, care_of: encodeAddress(OTHER_NODE) });
    home.claim(far.binding, far.port);
    home.tables.claimBlock({ first: 40_960, last: 41_023 }, [HOME], OWN.binding);
  }
  const place = { protocol: 'tcp', port: far.port, local: encodeAddress(HOME) } as const;
  for (const state of ['claimed', 'restarted', 'restarted on a copy that should not be there']) {
    if (state.includes('copy')) fast.tables.fastPath.claim(place, OWN.binding, false);
    if (state !== 'claimed') fast.tables.copyToFastPath();
    for (const program of ['hp_xdp', 'hp_ingress'] as const) {
      const before = fast.fast(OWN.binding);
      assert.equal(fast.run(packets, program), general.run(packets, program), state);
      assert.is(fast.fast(OWN.binding), before + 1n);
    }
  }
});

test('of a removed binding nothing is left, and its port can be given to another', () => {
  for (const home of [fast, general]) {
    home.tables.removeBinding(OWN.binding);
    home.tables.removeBinding(TWICE.binding);
  }
  const toTwice = frame(request({ port: TWICE.port, destination: SECOND_HOME }));
  assert.equal(fast.run([toOwn, toTwice]), general.run([toOwn, toTwice]));
  assert.is(fast.fast(OWN.binding), 0n);
  for (const home of [fast, general]) home.claim(TWICE.other, OWN.port);
  assert.equal(fast.run([toOwn]), general.run([toOwn]));
  assert.is(fast.fast(TWICE.other), 1n);
});

test.run();
