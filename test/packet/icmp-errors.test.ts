/** ICMP errors: they belong to the process whose packet they quote. Through XDP and tc alike. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type BindingFields, type ReasonName, type Verdict } from './bench.js';
import { type Ipv4Fields, icmp, ipv4, udp } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  careOfBench,
  frame,
  HOME,
  homeBench,
  intoPod,
  OTHER_NODE,
  onward,
  reply,
  request,
  SERVICE_PORT,
  tunnelled,
} from './scene.js';

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const parked: BindingFields = { action: 'park', egress: 'shut' };
const here: BindingFields = { action: 'deliver' };
const home: BindingFields = { action: 'pass' };
const ROUTER = '192.0.2.1';
const fromRouter: Ipv4Fields = { source: ROUTER, destination: HOME };

/** The header and so many bytes of what follows. */
function quote(packet: Buffer, bytes = 8): Buffer {
  return packet.subarray(0, ((packet[0] ?? 0) & 15) * 4 + bytes);
}

const errors: readonly (readonly [string, Buffer])[] = [
  ['port unreachable', ipv4(fromRouter, icmp(3, 3, 0, quote(reply())))],
  ['fragmentation needed', ipv4(fromRouter, icmp(3, 4, 1400, quote(reply())))],
  ['time exceeded', ipv4(fromRouter, icmp(11, 0, 0, quote(reply())))],
  ['parameter problem', ipv4(fromRouter, icmp(12, 0, 0, quote(reply())))],
  ['one that quotes all of the packet', ipv4(fromRouter, icmp(3, 1, 0, reply()))],
  [
    'one that quotes a packet with IP options',
    ipv4(fromRouter, icmp(3, 1, 0, quote(reply({ options: Buffer.alloc(40, 1) })))),
  ],
  ['one with IP options itself', ipv4({ ...fromRouter, options: Buffer.alloc(40, 1) }, icmp(3, 1, 0, quote(reply())))],
  ['one that quotes a first fragment', ipv4(fromRouter, icmp(3, 4, 1400, quote(reply({ df: false, mf: true }))))],
];

const others: readonly (readonly [string, Buffer])[] = [
  ['a ping', ipv4(fromRouter, icmp(8, 0, 1, Buffer.from('ping')))],
  ['the answer to a ping', ipv4(fromRouter, icmp(0, 0, 1, Buffer.from('pong')))],
  ['a ping whose data look like a packet of the process', ipv4(fromRouter, icmp(8, 0, 1, quote(reply())))],
  ['a redirect', ipv4(fromRouter, icmp(5, 1, 0, quote(reply())))],
  ['an error about another port', ipv4(fromRouter, icmp(3, 3, 0, quote(reply({ fromPort: 80 }))))],
  ['an error about another protocol', ipv4(fromRouter, icmp(3, 3, 0, quote(request())))],
  [
    'an error about a datagram from a port that is bound for TCP',
    ipv4(fromRouter, icmp(3, 3, 0, ipv4({ source: HOME, destination: CORRESPONDENT }, udp(SERVICE_PORT, 53)))),
  ],
  [
    'an error that came to another address than it quotes as the sender',
    ipv4({ source: ROUTER, destination: '10.0.0.50' }, icmp(3, 3, 0, quote(reply()))),
  ],
  ['an error that quotes no ports', ipv4(fromRouter, icmp(3, 3, 0, quote(reply(), 2)))],
  ['an error that quotes nothing', ipv4(fromRouter, icmp(3, 3, 0, Buffer.alloc(0)))],
  [
    'an error that quotes nothing, before padding that looks like a packet of the process',
    ipv4({ ...fromRouter, totalLength: 28 }, icmp(3, 3, 0, quote(reply()))),
  ],
  [
    'an ICMP packet of no bytes, before padding that looks like an error',
    ipv4({ ...fromRouter, totalLength: 20 }, icmp(3, 3, 0, quote(reply()))),
  ],
  ['an error about a later fragment', ipv4(fromRouter, icmp(3, 1, 0, quote(reply({ df: false, fragmentOffset: 9 }))))],
  ['an error about an error', ipv4(fromRouter, icmp(3, 3, 0, ipv4(fromRouter, icmp(3, 3, 0, quote(reply())))))],
];

/** Loading the programs takes longer than all these runs. */
const atHome = homeBench().bind(BINDING, away);
const atCareOf = careOfBench().bind(BINDING, here);

for (const program of ['hp_xdp', 'hp_ingress'] as const) {
  const test = suite(program);
  const back: Verdict = program === 'hp_xdp' ? 'tx' : 'redirect';

  for (const [description, error] of errors) {
    test(`${description}, about a packet of a departed process, goes through the tunnel`, () => {
      const { verdict, reason, frame: out, binding } = atHome.run(program, frame(error));
      assert.equal([verdict, reason], [back, 'tunnelled']);
      assert.equal(out, onward(tunnelled(error)));
      assert.equal([...binding], [['tunnelled', 1]]);
    });

    test(`${description} is delivered into the pod`, () => {
      const { verdict, reason, frame: out } = atCareOf.run(program, frame(tunnelled(error)));
      assert.equal([verdict, reason], ['redirect', 'delivered']);
      assert.equal(out, intoPod(error));
    });
  }

  for (const [description, packet] of others) {
    test(`${description} is passed untouched`, () => {
      const { verdict, reason, frame: out } = atHome.run(program, frame(packet));
      assert.equal([verdict, reason], ['pass', 'not_ours']);
      assert.equal(out, frame(packet));
    });
  }

  for (const [binding, verdict, reason] of [
    [parked, 'redirect', 'parked'],
    [home, 'pass', 'at_home'],
    [{ action: 'drop', egress: 'shut' }, 'drop', 'fenced'],
  ] as [BindingFields, Verdict, ReasonName][]) {
    test(`an error about a packet of the process: ${reason}, as its other packets`, () => {
      const bench = homeBench().bind(BINDING, binding).setParkState(BINDING, 0, 0);
      const outcome = bench.run(program, frame(errors[0]?.[1] ?? Buffer.alloc(0)));
      assert.equal([outcome.verdict, outcome.reason], [verdict, reason]);
      bench.close();
    });
  }

  test('on a shared port only the errors about its own flows', () => {
    const bench = homeBench().bind(BINDING, away).bind(8, home);
    bench.claim(BINDING, HOME, 7000, { shared: true }).flow(BINDING, [HOME, 7000], [CORRESPONDENT, 40_000]);
    const about = (port: number) => ipv4(fromRouter, icmp(3, 1, 0, quote(reply({ fromPort: 7000, port }))));
    assert.is(bench.run(program, frame(about(40_000))).reason, 'tunnelled');
    assert.is(bench.run(program, frame(about(40_001))).reason, 'not_ours');
    bench.close();
  });

  test('an error that came tunnelled, about a packet of nobody here, is passed as it came', () => {
    const stray = frame(tunnelled(ipv4(fromRouter, icmp(3, 3, 0, quote(reply({ fromPort: 80 }))))));
    const { verdict, reason, frame: out } = atCareOf.run(program, stray);
    assert.equal([verdict, reason], ['pass', 'tunnel_no_binding']);
    assert.equal(out, stray);
  });

  test.run();
}

const replay = suite('hp_replay');
replay('an error that was parked goes where the process is', () => {
  const error = errors[0]?.[1] ?? Buffer.alloc(0);
  for (const [binding, expected] of [
    [away, onward(tunnelled(error))],
    [here, intoPod(error)],
  ] as const) {
    const bench = homeBench()
      .allow(OTHER_NODE)
      .bind(BINDING, { ...binding, draining: true })
      .setParkState(BINDING, 1, 0)
      .device(ARRIVAL_IFINDEX, BINDING, DeviceRole.park);
    const { verdict, frame: out } = bench.run('hp_replay', frame(error));
    assert.is(verdict, 'redirect');
    assert.equal(out, expected);
    bench.close();
  }
});
replay.run();
