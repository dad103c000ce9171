/**
 * Packets that do not fit after encapsulation, and super-packets (tc). Test runs have no GSO type, with which alone the kernel
 * changes a super-packet's size: that one is tunnelled whole is seen on live links.
 */
import '../addon/private-namespaces.js';
import { availableParallelism } from 'node:os';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { BindingFields } from './bench.js';
import { ipv4, MAC, Protocol, readEthernet, readIpv4, tcp } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  careOfBench,
  frame,
  HOME,
  homeBench,
  reply,
  request,
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
  assert.equal(answer.payload.subarray(8), packet.subarray(0, 28));
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

test('a packet without DF is dropped and counted: its sender would not heed an answer', () => {
  const bench = homeBench().bind(BINDING, away);
  const { verdict, reason } = bench.run('hp_ingress', frame(sized(1481, { df: false })));
  assert.equal([verdict, reason], ['drop', 'too_big_unanswered']);
  bench.close();
});

test('what came tunnelled and does not fit onward is dropped and counted', () => {
  const bench = careOfBench().bind(BINDING, { ...away, mtu: 1400 });
  const { verdict, reason } = bench.run('hp_ingress', frame(tunnelled(sized(1480))));
  assert.equal([verdict, reason], ['drop', 'too_big_unanswered']);
  bench.close();
});

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
superPackets.run();
