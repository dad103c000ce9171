/** What this node and its pods say: the guard at egress, a pod's veth, and frames replayed from a twin's TAP. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type BindingFields, type ProgramName, type ReasonName, type Verdict } from './bench.js';
import { ethernet, type Ipv4Fields, icmp, ipv4 } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  frame,
  furnish,
  HOME,
  homeBench,
  icmpError,
  intoPod,
  onward,
  reply,
  request,
  tunnelled,
} from './scene.js';

interface Row {
  readonly description: string;
  readonly binding: BindingFields;
  readonly input: Buffer;
  /** Default: as it came. */
  readonly output?: Buffer;
  readonly expect: readonly [Verdict, ReasonName];
}

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const home: BindingFields = { action: 'pass', egress: 'open' };
const held: BindingFields = { action: 'park', egress: 'hold' };
const here: BindingFields = { action: 'deliver', egress: 'open' };
const ROUTER_ALERT = Buffer.from([148, 4, 0, 0]); // RFC 2113; the fast path leaves packets with options alone
const toCorrespondent: Ipv4Fields = { source: HOME, destination: CORRESPONDENT };

/** By its own length it ends in its TCP header; behind it lies what looks like the rest of a SYN, with an MSS above any MTU. */
const cutSyn = reply({ flags: 'S', payload: Buffer.from([2, 4, 255, 255]), totalLength: 24 });
cutSyn[20 + 12] = 6 << 4;

const rows: Partial<Record<ProgramName, readonly Row[]>> = {
  hp_egress: [
    {
      description: 'drops a RST in the name of a departed process',
      binding: away,
      input: frame(reply({ flags: 'RA', payload: Buffer.alloc(0) })),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'drops a FIN of the old copy',
      binding: away,
      input: frame(reply({ flags: 'FA', payload: Buffer.alloc(0) })),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'drops data of the old copy',
      binding: away,
      input: frame(reply()),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'drops "port unreachable" about a flow of a departed process, if only 8 bytes are quoted',
      binding: away,
      input: frame(icmpError(request(), toCorrespondent)),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'drops it as well when all is quoted',
      binding: away,
      input: frame(icmpError(request(), toCorrespondent, 28)),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'passes an ICMP error about a flow that is not bound',
      binding: away,
      input: frame(icmpError(request({ port: 80 }), toCorrespondent)),
      expect: ['pass', 'not_ours'],
    },
    {
      description: 'passes the answer to a ping',
      binding: away,
      input: frame(ipv4(toCorrespondent, icmp(0, 0, 1, Buffer.from('pong')))),
      expect: ['pass', 'not_ours'],
    },
    {
      description: 'passes other services of the home address',
      binding: away,
      input: frame(reply({ fromPort: 80 })),
      expect: ['pass', 'not_ours'],
    },
    {
      description: 'passes what comes from the same port of another address, and counts it for no binding',
      binding: away,
      input: frame(reply({ source: '10.0.0.50', options: ROUTER_ALERT })),
      expect: ['pass', 'not_ours'],
    },
    {
      description: 'passes the tunnelled packets that this node sends itself',
      binding: away,
      input: frame(tunnelled(request())),
      expect: ['pass', 'not_ours'],
    },
    {
      description: 'passes what a process at home says',
      binding: home,
      input: frame(reply()),
      expect: ['pass', 'at_home'],
    },
    {
      description: 'parks what a copy says before its commit',
      binding: held,
      input: frame(reply()),
      expect: ['redirect', 'held'],
    },
    {
      description: 'passes ARP',
      binding: away,
      input: ethernet({ type: 0x0806 }, Buffer.alloc(46)),
      expect: ['pass', 'not_parsed'],
    },
    {
      description: 'passes what it cannot read',
      binding: away,
      input: frame(reply().subarray(0, 30)),
      expect: ['pass', 'malformed'],
    },
  ],
  hp_pod: [
    {
      description: 'sends straight to the correspondent, unchanged',
      binding: here,
      input: frame(reply()),
      expect: ['redirect', 'sent'],
    },
    {
      description: 'does not take padding for the MSS of a SYN',
      binding: here,
      input: frame(cutSyn),
      expect: ['redirect', 'sent'],
    },
    {
      description: 'parks before the commit',
      binding: held,
      input: frame(reply()),
      expect: ['redirect', 'held'],
    },
    {
      description: 'drops when the copy may not speak',
      binding: { action: 'drop', egress: 'shut' },
      input: frame(reply()),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'drops what is not IPv4: a pod has permanent neighbours',
      binding: here,
      input: ethernet({ type: 0x0806 }, Buffer.alloc(46)),
      expect: ['drop', 'not_parsed'],
    },
  ],
  hp_replay: [
    {
      description: 'tunnels, though the binding is draining',
      binding: { ...away, draining: true },
      input: frame(request()),
      output: onward(tunnelled(request())),
      expect: ['redirect', 'tunnelled'],
    },
    {
      description: 'drops what is shorter than its header says: no tunnel shall carry a lie',
      binding: away,
      input: frame(request()).subarray(0, -1),
      expect: ['drop', 'malformed'],
    },
    {
      description: 'delivers into the pod',
      binding: { ...here, draining: true },
      input: frame(request()),
      output: intoPod(request()),
      expect: ['redirect', 'delivered'],
    },
    {
      description: 'gives the local stack what arrived for a process at home',
      binding: { ...home, draining: true },
      input: frame(request()),
      expect: ['redirect', 'replayed_home'],
    },
    {
      description: 'sends what the process itself said while it was held',
      binding: { ...here, draining: true },
      input: frame(reply()),
      expect: ['redirect', 'sent'],
    },
    {
      description: 'drops what a fenced copy said while it was held',
      binding: { action: 'drop', egress: 'shut' },
      input: frame(reply()),
      expect: ['drop', 'guarded'],
    },
    {
      description: 'drops what arrived for a fenced copy',
      binding: { action: 'drop', egress: 'shut' },
      input: frame(request()),
      expect: ['drop', 'fenced'],
    },
  ],
};

const shared = homeBench(); // a load takes seconds on a busy machine
for (const [program, table] of Object.entries(rows) as [ProgramName, readonly Row[]][]) {
  const test = suite(program);
  for (const row of table) {
    test(row.description, () => {
      const bench = furnish(shared.clear())
        .bind(BINDING, row.binding)
        .setParkState(BINDING, 9, 4)
        .device(ARRIVAL_IFINDEX, BINDING, program === 'hp_pod' ? DeviceRole.pod : DeviceRole.park);
      const outcome = bench.run(program, row.input);
      assert.equal([outcome.verdict, outcome.reason], row.expect);
      if (outcome.verdict !== 'drop') assert.equal(outcome.frame, row.output ?? row.input);
      const { parked, replayed } = bench.parkState(BINDING);
      assert.equal([parked, replayed], [outcome.reason === 'held' ? 10 : 9, program === 'hp_replay' ? 5 : 4]);
    });
  }
  test.run();
}

const strangers = suite('devices of no binding');
for (const program of ['hp_pod', 'hp_replay'] as const) {
  strangers(`${program} drops all that comes from them`, () => {
    const bench = homeBench().bind(BINDING, here);
    const { verdict, reason } = bench.run(program, frame(reply()));
    assert.equal([verdict, reason], ['drop', 'fenced']);
    bench.close();
  });
}
strangers.run();

const replayed = suite('a frame replayed to a process at home');
replayed('is marked, and hp_ingress lets the marked frame through though the queue still holds others', () => {
  const MARK_REPLAYED = 0x6870726c;
  const bench = homeBench()
    .bind(BINDING, { ...home, draining: true })
    .setParkState(BINDING, 5, 3);
  assert.is(bench.run('hp_ingress', frame(request())).reason, 'parked');
  const { verdict, reason } = bench.run('hp_ingress', frame(request()), { mark: MARK_REPLAYED });
  assert.equal([verdict, reason], ['pass', 'replayed_home']);
  bench.close();
});
replayed.run();

process.on('exit', () => shared.close());
