/**
 * Packets that do not fit after encapsulation, and super-packets (tc). Test runs have no GSO type, with which alone the kernel
 * changes a super-packet's size: that one is tunnelled whole is seen on live links.
 */
import '../addon/private-namespaces.js';
import { availableParallelism } from 'node:os';
import * as assert from 'uvu/assert';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type Bench, type BindingFields } from './bench.js';
import { ethernet, type Ipv4Fields, icmp, ipv4, MAC, Protocol, readEthernet, readIpv4, tcp } from './packets.js';
import { ICMP6, readIpv6 } from './packets6.js';
import {
  BINDING,
  CARE_OF,
  CLIENT_PORT,
  CORRESPONDENT,
  CORRESPONDENT6,
  careOfBench,
  frame,
  HOME,
  HOME6,
  homeBench,
  OTHER_NODE,
  reply,
  request,
  request6,
  SERVICE_PORT,
  STRANGER,
  tunnelled,
} from './scene.js';

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF, mtu: 1500 };
const HEADERS = 40;
/** A packet of so many bytes. */
const sized = (length: number, options: { df?: boolean } = {}): Buffer =>
  request({ payload: Buffer.alloc(length - HEADERS, 0x61), ...options });
const MARK_ANSWER = 0x6870696d;

const test = suite('too big');

test('1480 bytes just fit into a tunnel of 1500', () => {
  const bench = homeBench().bind(BINDING, away);
  for (const program of ['hp_xdp', 'hp_ingress'] as const) {
    const { reason, frame: out } = bench.run(program, frame(sized(1480)));
    assert.is(reason, 'tunnelled', program);
    assert.is(out.length, 14 + 1500);
  }
  bench.close();
});

test('XDP leaves what does not fit to tc', () => {
  const bench = homeBench().bind(BINDING, away);
  const input = frame(sized(1481));
  const { verdict, reason, frame: out } = bench.run('hp_xdp', input);
  assert.equal([verdict, reason], ['pass', 'slow_path']);
  assert.equal(out, input);
  bench.close();
});

test('tc answers with "fragmentation needed" and the MTU that fits (RFC 1191), quoting the packet', () => {
  const bench = homeBench().bind(BINDING, away);
  const packet = sized(1481);
  const { verdict, reason, frame: out } = bench.run('hp_ingress', frame(packet));
  assert.equal([verdict, reason], ['redirect', 'too_big']);
  const { source, destination, payload } = readEthernet(out);
  assert.equal([source, destination], [MAC.home, MAC.correspondent]);
  const answer = readIpv4(payload); // checks both checksums
  assert.equal([answer.source, answer.destination, answer.protocol], [HOME, CORRESPONDENT, Protocol.icmp]);
  assert.equal([...answer.payload.subarray(0, 2)], [3, 4]);
  assert.is(answer.payload.readUInt16BE(6), 1480);
  assert.equal(answer.payload.subarray(8), packet.subarray(0, 576 - 28)); // RFC 1812, 4.3.2.3
  bench.close();
});

test('the answer has a right checksum whatever it quotes', () => {
  const bench = homeBench().bind(BINDING, away);
  for (let sequence = 0; sequence < 60; sequence++) {
    const segment = tcp({
      sourcePort: 40_000 + sequence,
      destinationPort: 6379,
      sequence: (sequence * 0x04c1_1db7) >>> 0,
      payload: Buffer.alloc(1460),
    });
    const { frame: out } = bench.run(
      'hp_ingress',
      frame(ipv4({ source: CORRESPONDENT, destination: HOME, id: sequence * 1009 }, segment)),
    );
    readIpv4(readEthernet(out).payload);
  }
  bench.close();
});

test('the guard lets our own answer out, though it quotes a flow of a departed process', () => {
  const bench = homeBench().bind(BINDING, away);
  const { frame: answer } = bench.run('hp_ingress', frame(sized(1481)));
  assert.is(bench.run('hp_egress', answer).reason, 'guarded', 'as anybody else would have sent it');
  const { verdict, reason } = bench.run('hp_egress', answer, { mark: MARK_ANSWER });
  assert.equal([verdict, reason], ['pass', 'too_big']);
  bench.close();
});

test('what came tunnelled and does not fit onward is answered as well', () => {
  const bench = careOfBench().bind(BINDING, { ...away, mtu: 1400 });
  const packet = sized(1480);
  const { verdict, reason, frame: out } = bench.run('hp_ingress', frame(tunnelled(packet)));
  assert.equal([verdict, reason], ['redirect', 'too_big']);
  const answer = readIpv4(readEthernet(out).payload);
  assert.equal([answer.source, answer.destination], [HOME, CORRESPONDENT]);
  assert.is(answer.payload.readUInt16BE(6), 1380);
  assert.equal(answer.payload.subarray(8), packet.subarray(0, 548));
  bench.close();
});

test('IPv6 is answered with "packet too big", quoting as much as fits into 1280 bytes (RFC 4443, 3.2)', () => {
  const bench = homeBench().claim(BINDING, HOME6, SERVICE_PORT).bind(BINDING, away);
  const packet = request6({ payload: Buffer.alloc(1440, 0x61) });
  const { verdict, reason, frame: out } = bench.run('hp_ingress', frame(packet));
  assert.equal([verdict, reason], ['redirect', 'too_big']);
  const answer = readIpv6(readEthernet(out).payload); // checks the checksum
  assert.equal([answer.source, answer.destination, answer.protocol], [HOME6, CORRESPONDENT6, ICMP6]);
  assert.equal([...answer.payload.subarray(0, 2)], [2, 0]);
  assert.is(answer.payload.readUInt32BE(4), 1480);
  assert.equal(answer.payload.subarray(8), packet.subarray(0, 1280 - 48));
  bench.close();
});

const path = suite('a router on the way to the care-of host');
const ROUTER = '192.0.2.1';
/** Its word about one of our tunnel packets, of which it quotes so many bytes after the outer header. */
const complaint = (mtu: number, inner: Buffer, quoted: number, outer: Partial<Ipv4Fields> = {}): Buffer => {
  const about = tunnelled(inner, outer).subarray(0, 20 + quoted);
  return frame(ipv4({ source: ROUTER, destination: HOME }, icmp(3, 4, mtu, about)));
};

path('is heeded and relayed when it quotes the inner header, and the next packet is answered at once', () => {
  const bench = homeBench().bind(BINDING, away);
  assert.is(bench.run('hp_xdp', complaint(1400, sized(1480), 28)).reason, 'slow_path');
  const { verdict, reason, frame: out } = bench.run('hp_ingress', complaint(1400, sized(1480), 28));
  assert.equal([verdict, reason], ['redirect', 'too_big_relayed']);
  const answer = readIpv4(readEthernet(out).payload);
  assert.equal([answer.source, answer.destination, answer.protocol], [HOME, CORRESPONDENT, Protocol.icmp]);
  assert.equal([...answer.payload.subarray(0, 2)], [3, 4]);
  assert.is(answer.payload.readUInt16BE(6), 1380);
  assert.equal(answer.payload.subarray(8), sized(1480).subarray(0, 28));
  assert.is(bench.run('hp_xdp', frame(sized(1381))).reason, 'slow_path');
  const next = bench.run('hp_ingress', frame(sized(1381)));
  assert.is(next.reason, 'too_big');
  assert.is(readIpv4(readEthernet(next.frame).payload).payload.readUInt16BE(6), 1380);
  assert.is(bench.run('hp_xdp', frame(sized(1380))).reason, 'tunnelled');
  bench.close();
});

path('is heeded when it quotes 8 bytes only, never upward, and never below 576', () => {
  const bench = homeBench().bind(BINDING, away);
  const { verdict, reason } = bench.run('hp_ingress', complaint(1300, sized(1480), 8));
  assert.equal([verdict, reason], ['pass', 'path_mtu']);
  assert.is(bench.run('hp_ingress', frame(sized(1281))).reason, 'too_big');
  bench.run('hp_ingress', complaint(1400, sized(1480), 8));
  assert.is(bench.run('hp_ingress', frame(sized(1281))).reason, 'too_big');
  bench.run('hp_ingress', complaint(68, sized(1480), 8));
  assert.is(bench.run('hp_ingress', frame(sized(556))).reason, 'tunnelled');
  assert.is(bench.run('hp_ingress', frame(sized(557))).reason, 'too_big');
  bench.close();
});

path(
  'is not believed about an address that no binding uses, a packet of another, or one that would have fitted',
  () => {
    const bench = homeBench().bind(BINDING, away);
    for (const lie of [
      complaint(1300, sized(1480), 8, { destination: OTHER_NODE }),
      complaint(1300, sized(1480), 28, { destination: STRANGER }),
      complaint(1300, sized(1480), 28, { source: OTHER_NODE }),
      complaint(1500, sized(1480), 28),
    ]) {
      const { verdict, reason, frame: out } = bench.run('hp_ingress', lie);
      assert.equal([verdict, reason], ['pass', 'not_ours']);
      assert.equal(out, lie);
    }
    assert.is(bench.run('hp_ingress', frame(sized(1480))).reason, 'tunnelled');
    bench.close();
  },
);

const clamp = suite('the MSS that a SYN offers');
const NO_MAC = '00:00:00:00:00:00';
const FROM_CORRESPONDENT = { source: CORRESPONDENT, destination: HOME };
const FROM_PROCESS = { source: HOME, destination: CORRESPONDENT };
const FROM_HOME = { source: HOME, destination: HOME };

/** A SYN with these TCP options. */
function syn(ends: Ipv4Fields, options: readonly number[], flags = 'S'): Buffer {
  const ports =
    ends === FROM_PROCESS
      ? { sourcePort: SERVICE_PORT, destinationPort: CLIENT_PORT }
      : { sourcePort: CLIENT_PORT, destinationPort: SERVICE_PORT };
  const segment = tcp({ ...ports, flags });
  const bytes = Buffer.concat([segment.bytes, Buffer.from(options)]);
  bytes[12] = (bytes.length / 4) << 4;
  return ipv4(ends, { ...segment, bytes });
}

const overLo = (packet: Buffer): Buffer => ethernet({ source: NO_MAC, destination: NO_MAC, type: 0x0800 }, packet);
const inTunnel = (frame: Buffer): Buffer => readIpv4(readEthernet(frame).payload).payload;
const homeOf = (binding: BindingFields): Bench =>
  homeBench().bind(BINDING, binding).local(HOME).device(ARRIVAL_IFINDEX, BINDING, DeviceRole.park);
const behindReverseTunnel = (): Bench =>
  careOfBench()
    .bind(BINDING, { action: 'deliver', egress: 'tunnel', careOf: HOME, mtu: 1500 })
    .device(ARRIVAL_IFINDEX, BINDING, DeviceRole.pod);

/** Where a SYN passes that offers what comes through a tunnel; `out`: the packet in what comes out. */
const offers = [
  {
    who: 'of a process that speaks through a reverse tunnel, at its host',
    program: 'hp_pod',
    bench: behindReverseTunnel,
    ends: FROM_PROCESS,
    into: frame,
    out: inTunnel,
    reason: 'reversed',
  },
  {
    who: 'of a process that speaks through a reverse tunnel, at home',
    program: 'hp_ingress',
    bench: () => homeOf(away),
    ends: FROM_PROCESS,
    into: (packet: Buffer) => frame(tunnelled(packet, { source: CARE_OF, destination: HOME })),
    out: (frame: Buffer) => readEthernet(frame).payload,
    reason: 'reversed',
  },
  {
    who: 'of the home node itself',
    program: 'hp_loopback',
    bench: () => homeOf(away),
    ends: FROM_HOME,
    into: overLo,
    out: inTunnel,
    reason: 'tunnelled',
  },
  {
    who: 'of the home node itself that was parked',
    program: 'hp_replay',
    bench: () => homeOf(away),
    ends: FROM_HOME,
    into: overLo,
    out: inTunnel,
    reason: 'tunnelled',
  },
] as const;

for (const { who, program, bench: make, ends, into, out, reason } of offers) {
  clamp(`${who}: is made to fit into the tunnel, and nothing else is changed`, () => {
    const bench = make();
    for (const [before, after, flags] of [
      [[2, 4, 5, 180], [2, 4, 5, 160], 'S'], // 1460 -> 1440
      [[2, 4, 5, 180], [2, 4, 5, 160], 'SA'],
      [[1, 2, 4, 5, 180, 1, 1, 1], [1, 2, 4, 5, 160, 1, 1, 1], 'S'], // at an odd offset
      [[3, 3, 7, 1, 2, 4, 255, 255], [3, 3, 7, 1, 2, 4, 5, 160], 'S'],
      [[2, 4, 2, 24], [2, 4, 2, 24], 'S'], // 536: never raised
      [[1, 1, 1, 0], [1, 1, 1, 0], 'S'],
      [[2, 4, 5, 180], [2, 4, 5, 180], 'A'], // no SYN
      [[8, 0, 5, 180], [8, 0, 5, 180], 'S'], // malformed
      [[2, 3, 5, 180], [2, 3, 5, 180], 'S'],
    ] as const) {
      const { reason: counted, frame: sent } = bench.run(program, into(syn(ends, before, flags)));
      assert.is(counted, reason);
      readIpv4(out(sent)); // checks TCP's checksum
      assert.equal(out(sent), syn(ends, after, flags), JSON.stringify(before));
    }
    bench.close();
  });

  clamp(`${who}: is left alone where the options end in the middle of it: the rest is data`, () => {
    const bench = make();
    for (const options of [
      [1, 2, 4, 7],
      [1, 1, 2, 4],
    ]) {
      const packet = syn(ends, [...options, 255, 255, 255, 255]);
      packet[20 + 12] = 6 << 4;
      const { reason: counted, frame: sent } = bench.run(program, into(packet));
      assert.is(counted, reason);
      assert.equal(out(sent), packet, JSON.stringify(options));
    }
    bench.close();
  });
}

for (const program of ['hp_xdp', 'hp_ingress', 'hp_replay'] as const) {
  clamp(`of a correspondent: stays, since what the process answers goes past the tunnel (${program})`, () => {
    const bench = homeOf(away);
    for (const flags of ['S', 'SA']) {
      const packet = syn(FROM_CORRESPONDENT, [2, 4, 35, 0], flags);
      const { reason, frame: sent } = bench.run(program, frame(packet));
      assert.is(reason, 'tunnelled');
      assert.equal(inTunnel(sent), packet);
    }
    bench.close();
  });
}

test('answers are limited: 100 in a second on one CPU, then the packets are dropped and counted', () => {
  const bench = homeBench().bind(BINDING, away);
  const start = performance.now();
  let answered = 0;
  let outcome = bench.run('hp_ingress', frame(sized(1481)));
  for (; outcome.reason === 'too_big'; answered++) outcome = bench.run('hp_ingress', frame(sized(1481)));
  const seconds = Math.ceil((performance.now() - start) / 1000) + 1; // a second of the bucket may begin in the middle
  assert.ok(answered >= 100 && answered <= 100 * availableParallelism() * seconds, `${answered} answers`);
  assert.equal([outcome.verdict, outcome.reason], ['drop', 'too_big_unanswered']);
  bench.close();
});

const superPackets = suite('super-packets');

/** Test runs take no frame beyond a page: small segments, and MTUs to match. */
const SEGMENT = 900;
const segmentsOf = (count: number, more = 0): Buffer => frame(sized(HEADERS + count * SEGMENT + more));

superPackets('one of segments that do not fit is answered', () => {
  const bench = homeBench().bind(BINDING, { ...away, mtu: HEADERS + SEGMENT - 1 });
  const { reason } = bench.run('hp_ingress', segmentsOf(3), { gsoSize: SEGMENT, gsoSegments: 3 });
  assert.is(reason, 'too_big');
  bench.close();
});

superPackets('parked, it takes as many places as the TAP makes frames of it', () => {
  const bench = homeBench().bind(BINDING, { action: 'park' }).setParkState(BINDING, 0, 0);
  bench.run('hp_ingress', segmentsOf(3, 1), { gsoSize: SEGMENT, gsoSegments: 4 });
  assert.is(bench.parkState(BINDING).parked, 4);
  bench.run('hp_ingress', segmentsOf(2), { gsoSize: SEGMENT, gsoSegments: 2 });
  assert.is(bench.parkState(BINDING).parked, 6);
  bench.run('hp_ingress', segmentsOf(1));
  assert.is(bench.parkState(BINDING).parked, 7);
  bench.close();
});

superPackets('held, it takes as many places though its header does not say its length (BIG TCP)', () => {
  const bench = homeBench().bind(BINDING, { action: 'pass', egress: 'hold' }).setParkState(BINDING, 0, 0);
  const payload = Buffer.alloc(3 * SEGMENT, 0x61);
  const packet = frame(reply({ payload, totalLength: 0 }));
  bench.run('hp_egress', packet, { gsoSize: SEGMENT, gsoSegments: 3 });
  assert.is(bench.parkState(BINDING).parked, 3);
  bench.close();
});

test.run();
path.run();
clamp.run();
superPackets.run();
