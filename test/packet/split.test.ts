/** IPv4 packets without DF that do not fit: they go through the tunnel in pieces. A TAP shows those that go ahead of the last. */
import '../addon/private-namespaces.js';
import { execFileSync } from 'node:child_process';
import { closeSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { openTap, readFrame } from '../../addon/lib/index.js';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type BindingFields } from './bench.js';
import { type Ipv4Fields, ipv4, MAC, Protocol, readEthernet, readIpv4, udp } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  careOfBench,
  frame,
  HOME,
  homeBench,
  OTHER_NODE,
  tunnelled,
} from './scene.js';

const PORT = 5353;
const toHome: Ipv4Fields = { source: CORRESPONDENT, destination: HOME, df: false };
const tap = openTap('pieces');
execFileSync('ip', ['link', 'set', 'pieces', 'arp', 'off', 'addrgenmode', 'none', 'mtu', '9000']);
execFileSync('ip', ['link', 'set', 'pieces', 'up']);
const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF, nextHopIfindex: tap.ifindex };
const bytes = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, index) => (index * 7) & 0xff));
const datagram = (length: number, fields: Partial<Ipv4Fields> = {}): Buffer =>
  ipv4({ ...toHome, ...fields }, udp(4000, PORT, bytes(length - 28)));

function framesSent(): Buffer[] {
  const frames: Buffer[] = [];
  const buffer = Buffer.alloc(16_384);
  for (;;) {
    const length = readFrame(tap.fd, buffer);
    if (length < 0) return frames;
    frames.push(Buffer.from(buffer.subarray(0, length)));
  }
}

interface Piece {
  readonly offset: number;
  readonly more: boolean;
  readonly payload: Buffer;
  readonly header: Buffer;
}

/** The inner packets of tunnel frames; every header's checksum is looked at. */
function piecesOf(frames: readonly Buffer[], mtu: number): Piece[] {
  return frames.map((each) => {
    const { source, destination, payload } = readEthernet(each);
    assert.equal([source, destination], [MAC.home, MAC.careOf]);
    const outer = readIpv4(payload);
    assert.equal([outer.destination, outer.protocol, outer.df], [CARE_OF, Protocol.ipip, true]);
    assert.ok(outer.totalLength <= mtu && outer.totalLength === payload.length, `${outer.totalLength} bytes`);
    const inner = readIpv4(outer.payload);
    const flags = outer.payload.readUInt16BE(6);
    assert.is(inner.df, false);
    return {
      offset: (flags & 0x1fff) * 8,
      more: (flags & 0x2000) !== 0,
      payload: inner.payload,
      header: Buffer.concat([
        outer.payload.subarray(0, 2),
        outer.payload.subarray(4, 6),
        outer.payload.subarray(8, 10),
      ]),
    };
  });
}

/** Puts pieces together as a receiver does. */
function joined(pieces: readonly Piece[], start = 0): Buffer {
  let at = start;
  for (const piece of pieces) {
    assert.is(piece.offset, at, 'in order, without a gap');
    assert.equal(piece.header, pieces[0]?.header, 'the same TOS, id, TTL and protocol');
    at += piece.payload.length;
  }
  return Buffer.concat(pieces.map(({ payload }) => payload));
}

const home = homeBench().claim(BINDING, HOME, PORT, { protocol: Protocol.udp }).allow(CARE_OF, OTHER_NODE);
const test = suite('splitting');
test.after(() => {
  home.close();
  closeSync(tap.fd);
});

for (const [length, mtu, count] of [
  [1481, 1500, 2],
  [1500, 1500, 2],
  [1500, 1000, 2],
  [1500, 576, 3],
  [3000, 1500, 3],
] as const) {
  test(`a datagram of ${length} bytes goes through a path of ${mtu} in ${count} pieces`, () => {
    home.bind(BINDING, { ...away, mtu });
    const packet = datagram(length);
    const { verdict, reason, frame: last } = home.run('hp_ingress', frame(packet));
    assert.equal([verdict, reason], ['redirect', 'split']);
    const pieces = piecesOf([...framesSent(), last], mtu);
    assert.is(pieces.length, count);
    assert.equal(
      pieces.map(({ more }) => more),
      pieces.map((_, index) => index < count - 1),
    );
    assert.equal(joined(pieces), packet.subarray(20));
  });
}

test('what fits is not touched', () => {
  home.bind(BINDING, { ...away, mtu: 1500 });
  const { reason } = home.run('hp_ingress', frame(datagram(1480)));
  assert.is(reason, 'tunnelled');
  assert.is(framesSent().length, 0);
});

test('the full-sized fragments of a datagram of 8 kB become smaller ones of the same datagram', () => {
  home.bind(BINDING, { ...away, mtu: 1500 });
  const whole = udp(4000, PORT, bytes(8192)).bytes;
  const frames: Buffer[] = [];
  for (let at = 0; at < whole.length; at += 1480) {
    const piece = { protocol: Protocol.udp, bytes: whole.subarray(at, at + 1480) };
    const fragment = ipv4({ ...toHome, fragmentOffset: at / 8, mf: at + 1480 < whole.length }, piece);
    const { reason, frame: last } = home.run('hp_ingress', frame(fragment));
    assert.is(reason, fragment.length > 1480 ? 'split' : 'tunnelled');
    frames.push(...framesSent(), last);
  }
  const pieces = piecesOf(frames, 1500);
  assert.is(pieces.length, 11);
  assert.equal(
    pieces.map(({ more }) => more),
    pieces.map((_, index) => index < 10),
  );
  assert.equal(joined(pieces), whole);
});

test('a checksum that was left to the network card is computed first: no card does it over pieces', () => {
  home.bind(BINDING, { ...away, mtu: 1500 });
  const packet = datagram(1500);
  const right = packet.readUInt16BE(26);
  const pseudo = Buffer.concat([packet.subarray(12, 20), Buffer.from([0, 17]), packet.subarray(24, 26)]);
  let sum = 0;
  for (let at = 0; at < pseudo.length; at += 2) sum += pseudo.readUInt16BE(at);
  packet.writeUInt16BE((sum & 0xffff) + (sum >> 16), 26);
  const { frame: last } = home.run('hp_ingress', frame(packet));
  assert.is(joined(piecesOf([...framesSent(), last], 1500)).readUInt16BE(6), right);
});

test('a wrong checksum stays wrong, and none stays none', () => {
  home.bind(BINDING, { ...away, mtu: 1500 });
  for (const checksum of [0x1234, 0]) {
    const packet = datagram(1500);
    packet.writeUInt16BE(checksum, 26);
    const { frame: last } = home.run('hp_ingress', frame(packet));
    assert.is(joined(piecesOf([...framesSent(), last], 1500)).readUInt16BE(6), checksum);
  }
});

test('without a resolved next hop the pieces are marked, and hp_egress asks the kernel for it', () => {
  const MARK_PIECE = 0x68706670;
  home.bind(BINDING, { ...away, mtu: 1500, resolved: false });
  const { verdict, reason } = home.run('hp_ingress', frame(datagram(1500)));
  assert.equal([verdict, reason], ['redirect', 'split']);
  const [piece = Buffer.alloc(0)] = framesSent();
  const sent = home.run('hp_egress', piece, { mark: MARK_PIECE });
  assert.equal([sent.verdict, sent.reason], ['redirect', 'split']);
});

test('what came tunnelled is split on its way onward, and its outer TTL counts on', () => {
  const bench = careOfBench().claim(BINDING, HOME, PORT, { protocol: Protocol.udp });
  bench.bind(BINDING, { ...away, mtu: 1400, careOf: OTHER_NODE });
  const packet = datagram(1480);
  const { reason, frame: last } = bench.run('hp_ingress', frame(tunnelled(packet, { ttl: 9 })));
  assert.is(reason, 'split');
  const inners = [...framesSent(), last].map((each) => {
    const outer = readIpv4(readEthernet(each).payload);
    assert.equal([outer.source, outer.destination, outer.ttl], [CARE_OF, OTHER_NODE, 8]);
    return readIpv4(outer.payload).payload;
  });
  assert.equal(Buffer.concat(inners), packet.subarray(20));
  bench.close();
});

test('parked ones are split at the replay', () => {
  home
    .bind(BINDING, { ...away, mtu: 1500, draining: true })
    .setParkState(BINDING, 1, 0)
    .device(ARRIVAL_IFINDEX, BINDING, DeviceRole.park);
  const packet = datagram(1500);
  const { reason, frame: last } = home.run('hp_replay', frame(packet));
  assert.is(reason, 'split');
  assert.equal(joined(piecesOf([...framesSent(), last], 1500)), packet.subarray(20));
});

test('one with IP options is dropped and counted', () => {
  home.bind(BINDING, { ...away, mtu: 1500 });
  const { verdict, reason } = home.run('hp_ingress', frame(datagram(1500, { options: Buffer.alloc(4, 1) })));
  assert.equal([verdict, reason], ['drop', 'too_big_unanswered']);
  assert.is(framesSent().length, 0);
});

test("a fragment behind the end of every datagram is dropped and counted: the offsets of its pieces would be another one's", () => {
  home.bind(BINDING, { ...away, mtu: 1500 });
  home.run('hp_ingress', frame(datagram(1500, { mf: true, id: 9 })));
  framesSent();
  for (const [fragmentOffset, expected] of [
    [(65_535 - 1480 - 7) / 8, 'split'],
    [0x1fff, 'too_big_unanswered'],
  ] as const) {
    const later = ipv4({ ...toHome, id: 9, fragmentOffset }, { protocol: Protocol.udp, bytes: bytes(1480) });
    assert.is(home.run('hp_ingress', frame(later)).reason, expected);
    assert.is(framesSent().length, expected === 'split' ? 1 : 0);
  }
});

test.run();
