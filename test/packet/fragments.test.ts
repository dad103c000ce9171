/** Fragments: only the first one has ports, and the others go where it went. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type BindingFields, type ProgramName } from './bench.js';
import { type Ipv4Fields, ipv4, Protocol, udp } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  careOfBench,
  frame,
  HOME,
  homeBench,
  intoPod,
  onward,
  tunnelled,
} from './scene.js';

const PORT = 5353;
const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const here: BindingFields = { action: 'deliver' };
const toHome: Ipv4Fields = { source: CORRESPONDENT, destination: HOME, df: false };
const fromHome: Ipv4Fields = { source: HOME, destination: CORRESPONDENT, df: false };

/** A datagram in three pieces of at most 16 bytes. */
function fragments(fields: Ipv4Fields, port = PORT): Buffer[] {
  const whole = udp(port, port, Buffer.from('a datagram that is cut in 3')).bytes;
  return [0, 16, 32].map((at) => {
    const piece = { protocol: Protocol.udp, bytes: whole.subarray(at, at + 16) };
    return ipv4({ ...fields, fragmentOffset: at / 8, mf: at < 32 }, piece);
  });
}

const udpHome = (binding: BindingFields) =>
  homeBench().claim(BINDING, HOME, PORT, { protocol: Protocol.udp }).bind(BINDING, binding);
const udpCareOf = () => careOfBench().claim(BINDING, HOME, PORT, { protocol: Protocol.udp }).bind(BINDING, here);

const test = suite('fragments');

test('tc tunnels the first and those that follow it', () => {
  const bench = udpHome(away);
  for (const fragment of fragments(toHome)) {
    const { verdict, reason, frame: out } = bench.run('hp_ingress', frame(fragment));
    assert.equal([verdict, reason], ['redirect', 'tunnelled']);
    assert.equal(out, onward(tunnelled(fragment)));
  }
  bench.close();
});

test('XDP leaves them all to tc, where those that are too big are split: none overtakes another', () => {
  const bench = udpHome(away);
  for (const fragment of fragments(toHome)) {
    const { verdict, reason, frame: out } = bench.run('hp_xdp', frame(fragment));
    assert.equal([verdict, reason], ['pass', 'slow_path']);
    assert.equal(out, frame(fragment));
  }
  bench.close();
});

for (const program of ['hp_xdp', 'hp_ingress'] as const) {
  test(`${program} delivers them into the pod`, () => {
    const bench = udpCareOf();
    for (const fragment of fragments(toHome)) {
      const { verdict, reason, frame: out } = bench.run(program, frame(tunnelled(fragment)));
      assert.equal([verdict, reason], ['redirect', 'delivered']);
      assert.equal(out, intoPod(fragment));
    }
    bench.close();
  });

  test(`${program} parks them for a frozen process`, () => {
    const bench = udpHome({ action: 'park' }).setParkState(BINDING, 0, 0);
    for (const fragment of fragments(toHome)) assert.is(bench.run(program, frame(fragment)).reason, 'parked');
    assert.is(bench.parkState(BINDING).parked, 3);
    bench.close();
  });

  test(`${program} passes those that come before their first one, or whose first one is not ours, and counts them`, () => {
    const bench = udpHome(away);
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = fragments(toHome);
    const early = bench.run(program, frame(second));
    assert.equal([early.verdict, early.reason, early.frame], ['pass', 'fragment_unknown', frame(second)]);
    assert.not.equal(bench.run(program, frame(first)).verdict, 'drop');
    assert.is(bench.run(program, frame(second)).reason === 'fragment_unknown', false);
    const [foreignFirst = first, foreignSecond = second] = fragments({ ...toHome, id: 99 }, 80);
    assert.is(bench.run(program, frame(foreignFirst)).reason, 'not_ours');
    assert.is(bench.run(program, frame(foreignSecond)).reason, 'fragment_unknown');
    bench.close();
  });

  test(`${program} tells datagrams apart by source, destination, id and protocol`, () => {
    const bench = udpHome({ action: 'park' }).setParkState(BINDING, 0, 0);
    const [first = Buffer.alloc(0)] = fragments(toHome);
    bench.run(program, frame(first));
    const later = { fragmentOffset: 2, mf: false };
    const piece = { protocol: Protocol.udp, bytes: Buffer.alloc(16) };
    for (const change of [{ source: '10.0.0.77' }, { destination: '10.0.0.78' }, { id: 0x4321 }]) {
      const other = ipv4({ ...toHome, ...later, ...change }, piece);
      assert.is(bench.run(program, frame(other)).reason, 'fragment_unknown', JSON.stringify(change));
    }
    const tcpPiece = ipv4({ ...toHome, ...later }, { ...piece, protocol: Protocol.tcp });
    assert.is(bench.run(program, frame(tcpPiece)).reason, 'fragment_unknown');
    assert.is(bench.run(program, frame(ipv4({ ...toHome, ...later }, piece))).reason, 'parked');
    bench.close();
  });
}

test('the guard drops all that the kernel says in pieces for a departed process', () => {
  const bench = udpHome(away);
  for (const fragment of fragments(fromHome)) {
    const { verdict, reason } = bench.run('hp_egress', frame(fragment));
    assert.equal([verdict, reason], ['drop', 'guarded']);
  }
  for (const fragment of fragments({ ...fromHome, id: 7 }, 80)) {
    assert.is(bench.run('hp_egress', frame(fragment)).verdict, 'pass');
  }
  bench.close();
});

test('what was heard in pieces says nothing about what is said under the same id', () => {
  const bench = udpHome({ action: 'pass', egress: 'shut' });
  const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = fragments({ ...toHome, source: HOME });
  bench.run('hp_ingress', frame(first));
  const { verdict, reason } = bench.run('hp_egress', frame(second));
  assert.equal(
    [verdict, reason],
    ['pass', 'at_home'],
    'it is a piece of what this address was told, not of what it says',
  );
  bench.close();
});

test('those that were parked are replayed to where the process is, in order', () => {
  for (const [binding, expected] of [
    [away, (packet: Buffer) => onward(tunnelled(packet))],
    [here, intoPod],
  ] as const) {
    const bench = udpHome({ ...binding, draining: true })
      .setParkState(BINDING, 3, 0)
      .device(ARRIVAL_IFINDEX, BINDING, DeviceRole.park);
    for (const fragment of fragments(toHome)) {
      const { verdict, frame: out } = bench.run('hp_replay' satisfies ProgramName, frame(fragment));
      assert.is(verdict, 'redirect');
      assert.equal(out, expected(fragment));
    }
    bench.close();
  }
});

test.run();
