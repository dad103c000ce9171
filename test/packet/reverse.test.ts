/** What a departed process says where foreign sources are dropped: into a tunnel at its care-of host, and out of it at home. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { suite } from '../suite.js';
import { type ArrivalRow, drop, pass, testArrivals } from './arrival-table.js';
import { ARRIVAL_IFINDEX, type Bench, type BindingFields, type ProgramName, type ReasonName } from './bench.js';
import { Ecn, type Ipv4Fields } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  careOfBench,
  frame,
  HOME,
  homeBench,
  icmpError,
  OTHER_NODE,
  onward,
  reply,
  request,
  STRANGER,
  tunnelled,
} from './scene.js';

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const reversed = (inner: Buffer, outer: Partial<Ipv4Fields> = {}): Buffer =>
  tunnelled(inner, { source: CARE_OF, destination: HOME, ...outer });
const aboutUdp = icmpError(request(), { source: HOME, destination: CORRESPONDENT });
const sentOn = { xdp: 'pass', tc: 'redirect', xdpReason: 'slow_path', reason: 'reversed' } as const;
const refused = { ...pass, reason: 'tunnel_no_binding' } as const;

const rows: readonly ArrivalRow[] = [
  {
    description: 'is taken out of the tunnel and sent on',
    at: 'home',
    binding: away,
    input: frame(reversed(reply())),
    output: frame(reply()),
    ...sentOn,
  },
  {
    description: 'also while the process is about to leave that host',
    at: 'home',
    binding: { ...away, action: 'park' },
    input: frame(reversed(reply())),
    output: frame(reply()),
    ...sentOn,
  },
  {
    description: 'is told of congestion in the tunnel',
    at: 'home',
    binding: away,
    input: frame(reversed(reply({ tos: Ecn.ect0 }), { tos: Ecn.ce })),
    output: frame(reply({ tos: Ecn.ce })),
    ...sentOn,
  },
  {
    description: 'is dropped where it cannot be told of it',
    at: 'home',
    binding: away,
    input: frame(reversed(reply(), { tos: Ecn.ce })),
    ...drop,
    reason: 'congested',
  },
  {
    description: 'is sent on if it is an ICMP error about what the process heard',
    at: 'home',
    binding: away,
    input: frame(reversed(aboutUdp)),
    output: frame(aboutUdp),
    ...sentOn,
  },
  ...(
    [
      ['from another node', away, reversed(reply(), { source: OTHER_NODE })],
      ['when the process is at home', { action: 'pass', careOf: CARE_OF }, reversed(reply())],
      ['from a fenced copy', { action: 'drop', egress: 'shut', careOf: CARE_OF }, reversed(reply())],
      ['in the name of somebody else', away, reversed(reply({ fromPort: 80 }))],
      ['with the address of another machine', away, reversed(reply({ source: '10.0.0.50' }))],
    ] as const
  ).map(([description, binding, packet]): ArrivalRow => {
    return { description: `is not believed ${description}`, at: 'home', binding, input: frame(packet), ...refused };
  }),
  {
    description: 'is not believed from a stranger',
    at: 'home',
    binding: away,
    input: frame(reversed(reply(), { source: STRANGER })),
    ...pass,
    reason: 'tunnel_unknown_node',
  },
];
testArrivals('what comes back through a reverse tunnel', rows);

const MARK_REVERSED = 0x68707276;
const test = suite('a reverse tunnel');
const benches: Bench[] = [];

function careOf(binding: Partial<BindingFields> = {}): Bench {
  const bench = careOfBench().bind(BINDING, { action: 'deliver', egress: 'tunnel', careOf: HOME, ...binding });
  benches.push(bench.device(ARRIVAL_IFINDEX, BINDING, DeviceRole.pod).setParkState(BINDING, 9, 4));
  return bench;
}

function expectOf(bench: Bench, program: ProgramName, input: Buffer, verdict: string, reason: ReasonName): Buffer {
  const outcome = bench.run(program, input);
  assert.equal([outcome.verdict, outcome.reason], [verdict, reason]);
  return outcome.frame;
}

test('begins at the pod: outer source is the care-of address, outer destination the home', () => {
  assert.equal(expectOf(careOf(), 'hp_pod', frame(reply()), 'redirect', 'reversed'), onward(reversed(reply())));
});

test('takes what the process said while it was held', () => {
  const said = expectOf(careOf(), 'hp_replay', frame(reply()), 'redirect', 'reversed');
  assert.equal(said, onward(reversed(reply())));
});

test('without a way home counts what it drops', () => {
  expectOf(careOf({ nextHopIfindex: 0, resolved: false }), 'hp_pod', frame(reply()), 'drop', 'no_route');
});

test('that has become narrower tells the process', () => {
  const large = reply({ payload: Buffer.alloc(1400) });
  const answer = expectOf(careOf({ mtu: 1400 }), 'hp_pod', frame(large), 'redirect', 'too_big');
  assert.equal(
    [...answer.subarray(26, 34)],
    [...large.subarray(16, 20), ...large.subarray(12, 16)],
    'back to its source',
  );
  assert.is(answer.readUInt16BE(14 + 20 + 6), 1400 - 20);
});

test('takes nothing into it that its home could not judge', () => {
  const version = frame(reply());
  version.writeUInt16BE(0x0806, 12);
  expectOf(careOf(), 'hp_pod', version, 'drop', 'not_parsed');
});

test("brings later fragments too, after the first one's ports were seen", () => {
  const bench = homeBench().bind(BINDING, away).setParkState(BINDING, 0, 0);
  benches.push(bench);
  const later = frame(reversed(reply({ id: 9, df: false, fragmentOffset: 64 })));
  expectOf(bench, 'hp_ingress', later, 'pass', 'fragment_unknown');
  expectOf(bench, 'hp_ingress', frame(reversed(reply({ id: 9, df: false, mf: true }))), 'redirect', 'reversed');
  expectOf(bench, 'hp_ingress', later, 'redirect', 'reversed');
});

test('is the one thing that the guard at home lets speak for the process', () => {
  const bench = homeBench().bind(BINDING, away);
  benches.push(bench);
  expectOf(bench, 'hp_egress', frame(reply()), 'drop', 'guarded');
  const { verdict, reason, mark } = bench.run('hp_egress', frame(reply()), { mark: MARK_REVERSED });
  assert.equal([verdict, reason], ['pass', 'reversed']);
  assert.is(mark, MARK_REVERSED, 'while one way of attaching takes over from the other, a second guard asks as well');
});

test.after(() => {
  for (const bench of benches) bench.close();
});
test.run();
