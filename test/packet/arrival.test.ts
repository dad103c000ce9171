/** Packets that arrive on an uplink, through XDP and through tc: the same table for both. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { type ArrivalRow, back, drop, pass, redirect, testArrivals } from './arrival-table.js';
import type { BindingFields, ReasonName } from './bench.js';
import { BRIDGE_IFINDEX, OTHER_IFINDEX } from './bench.js';
import { Ecn, ethernet, icmp, ipv4, MAC, Protocol, udp } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CLIENT_PORT,
  CORRESPONDENT,
  frame,
  HOME,
  homeBench,
  intoPod,
  OTHER_NODE,
  onward,
  request,
  SERVICE_PORT,
  STRANGER,
  tunnelled,
} from './scene.js';

const home: BindingFields = { action: 'pass' };
const parked: BindingFields = { action: 'park', egress: 'shut' };
const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const here: BindingFields = { action: 'deliver' };
const fenced: BindingFields = { action: 'drop', egress: 'shut' };

const plain = request();
const options = { options: Buffer.from([148, 4, 0, 0]) }; // router alert (RFC 2113)
const datagram = ipv4({ source: CORRESPONDENT, destination: HOME }, udp(4000, 5353));
const passed: readonly (readonly [string, Buffer, ReasonName])[] = [
  ['another port of the home address', request({ port: 80 }), 'not_ours'],
  ['the same port of another address', request({ destination: '10.0.0.50' }), 'not_ours'],
  ['UDP to a bound TCP port', ipv4({ source: CORRESPONDENT, destination: HOME }, udp(9, SERVICE_PORT)), 'not_ours'],
  ['a ping', ipv4({ source: CORRESPONDENT, destination: HOME }, icmp(8, 0, 1, Buffer.from('ping'))), 'not_ours'],
  ['a first fragment for another port', request({ port: 80, mf: true, df: false }), 'not_ours'],
  ['a later fragment', request({ fragmentOffset: 64, df: false }), 'fragment_unknown'],
  ['a version that is not 4', Buffer.concat([Buffer.from([0x65]), plain.subarray(1)]), 'malformed'],
  ['a header length below 5', Buffer.concat([Buffer.from([0x44]), plain.subarray(1)]), 'malformed'],
  ['a header length beyond the packet', Buffer.concat([Buffer.from([0x4f]), plain.subarray(1, 60)]), 'malformed'],
  ['a TCP header that is cut off', plain.subarray(0, 32), 'malformed'],
  ['a total length beyond the frame', request({ totalLength: 1400 }), 'malformed'],
  ['a total length below the headers', request({ totalLength: 30 }), 'malformed'],
];

const rows: readonly ArrivalRow[] = [
  ...passed.map(([description, packet, reason]): ArrivalRow => {
    return { description: `passes ${description}`, at: 'home', binding: away, input: frame(packet), ...pass, reason };
  }),
  {
    description: 'passes ARP',
    at: 'home',
    binding: away,
    input: ethernet({ type: 0x0806 }, Buffer.alloc(46)),
    ...pass,
    reason: 'not_parsed',
  },
  {
    description: 'passes to a process that is at home',
    at: 'home',
    binding: home,
    input: frame(request()),
    ...pass,
    reason: 'at_home',
  },
  {
    description: 'parks for a frozen process',
    at: 'home',
    binding: parked,
    input: frame(request()),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'drops for a frozen process that has no queue',
    at: 'home',
    binding: { ...parked, parkIfindex: 0 },
    input: frame(request()),
    ...drop,
    reason: 'park_no_queue',
  },
  {
    description: 'drops for a fenced process',
    at: 'home',
    binding: fenced,
    input: frame(request()),
    ...drop,
    reason: 'fenced',
  },
  {
    description: 'holds a SYN back while accept queues run dry',
    at: 'home',
    binding: { ...home, hold: 'new' },
    input: frame(request({ flags: 'S' })),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'lets an established connection on while SYNs are held back',
    at: 'home',
    binding: { ...home, hold: 'new' },
    input: frame(request()),
    ...pass,
    reason: 'at_home',
  },
  {
    description: 'holds a SYN back while only connections that had begun go on',
    at: 'home',
    binding: { ...away, hold: 'datagrams' },
    input: frame(request({ flags: 'S' })),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'holds a datagram back while only connections that had begun go on',
    at: 'home',
    binding: { ...away, hold: 'datagrams' },
    prepare: (bench) => bench.claim(BINDING, HOME, 5353, { protocol: Protocol.udp }),
    input: frame(datagram),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'lets a connection that had begun on while all else is held back',
    at: 'home',
    binding: { ...away, hold: 'datagrams' },
    input: frame(request()),
    output: onward(tunnelled(request())),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels to the care-of address, out of the interface that it came in by',
    at: 'home',
    binding: away,
    input: frame(request()),
    output: onward(tunnelled(request())),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels out of another interface',
    at: 'home',
    binding: { ...away, nextHopIfindex: OTHER_IFINDEX },
    input: frame(request()),
    output: onward(tunnelled(request())),
    ...redirect,
    reason: 'tunnelled',
  },
  {
    description: 'leaves an interface that takes no frames from XDP to tc',
    at: 'home',
    binding: { ...away, nextHopIfindex: BRIDGE_IFINDEX },
    input: frame(request()),
    output: onward(tunnelled(request())),
    xdp: 'pass',
    tc: 'redirect',
    reason: 'tunnelled',
    xdpReason: 'slow_path',
  },
  {
    description: 'tunnels a packet with IP options, which stay inside',
    at: 'home',
    binding: away,
    input: frame(request(options)),
    output: onward(tunnelled(request(options))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'copies DSCP and ECN to the outer header',
    at: 'home',
    binding: away,
    input: frame(request({ tos: 0xb8 | Ecn.ect0 })),
    output: onward(tunnelled(request({ tos: 0xb8 | Ecn.ect0 }))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels a short frame without taking its padding for data',
    at: 'home',
    binding: away,
    input: Buffer.concat([frame(request({ payload: Buffer.alloc(0) })), Buffer.alloc(6)]),
    output: Buffer.concat([onward(tunnelled(request({ payload: Buffer.alloc(0) }))), Buffer.alloc(6)]),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels by the exact flow where the port is shared',
    at: 'home',
    binding: away,
    prepare: (bench) =>
      bench.claim(BINDING, HOME, 5000, { shared: true }).flow(BINDING, [HOME, 5000], [CORRESPONDENT, CLIENT_PORT]),
    input: frame(request({ port: 5000 })),
    output: onward(tunnelled(request({ port: 5000 }))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels UDP of a bound UDP port',
    at: 'home',
    binding: away,
    prepare: (bench) => bench.claim(BINDING, HOME, 5353, { protocol: Protocol.udp }),
    input: frame(datagram),
    output: onward(tunnelled(datagram)),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'passes other flows of a shared port',
    at: 'home',
    binding: away,
    prepare: (bench) => bench.claim(BINDING, HOME, 5000, { shared: true }),
    input: frame(request({ port: 5000, fromPort: 40_001 })),
    ...pass,
    reason: 'not_ours',
  },
  {
    description: 'parks behind parked packets while draining',
    at: 'home',
    binding: { ...away, draining: true },
    prepare: (bench) => bench.setParkState(BINDING, 5, 3),
    input: frame(request()),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'parks behind the last parked packet until that one is surely on its way',
    at: 'home',
    binding: { ...away, draining: true },
    prepare: (bench) => bench.setParkState(BINDING, 5, 5, 4),
    input: frame(request()),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'goes on at once when the queue has been drained',
    at: 'home',
    binding: { ...away, draining: true },
    prepare: (bench) => bench.setParkState(BINDING, 5, 5),
    input: frame(request()),
    output: onward(tunnelled(request())),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'leaves a process that came home and is draining to tc, which can tell a replayed packet',
    at: 'home',
    binding: { ...home, draining: true },
    prepare: (bench) => bench.setParkState(BINDING, 5, 3),
    input: frame(request()),
    xdp: 'pass',
    tc: 'redirect',
    reason: 'parked',
    xdpReason: 'slow_path',
  },
  {
    description: 'takes a packet out of the tunnel and into the pod',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request())),
    output: intoPod(request()),
    ...redirect,
    reason: 'delivered',
  },
  {
    description: 'delivers what comes without a tunnel as well',
    at: 'care-of',
    binding: here,
    input: frame(request()),
    output: intoPod(request()),
    ...redirect,
    reason: 'delivered',
  },
  {
    description: 'takes a packet out of the tunnel before it parks it',
    at: 'care-of',
    binding: parked,
    input: frame(tunnelled(request())),
    output: frame(request()),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'takes a packet out of the tunnel for a process that is at home again',
    at: 'care-of',
    binding: home,
    input: frame(tunnelled(request())),
    output: frame(request()),
    ...pass,
    reason: 'at_home',
  },
  {
    description: 'sends a tunnelled packet on to the next host, one hop nearer to its end',
    at: 'care-of',
    binding: { ...away, careOf: OTHER_NODE },
    input: frame(tunnelled(request(), { ttl: 60 })),
    output: onward(tunnelled(request(), { source: CARE_OF, destination: OTHER_NODE, ttl: 59 })),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'ends a packet that two nodes would send to each other for ever',
    at: 'care-of',
    binding: { ...away, careOf: OTHER_NODE },
    input: frame(tunnelled(request(), { ttl: 1 })),
    ...drop,
    reason: 'looped',
  },
  {
    description: 'drops a tunnelled packet for a fenced copy',
    at: 'care-of',
    binding: fenced,
    input: frame(tunnelled(request())),
    ...drop,
    reason: 'fenced',
  },
  {
    description: 'refuses a tunnel of a node that is not registered',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request(), { source: STRANGER })),
    ...pass,
    reason: 'tunnel_unknown_node',
  },
  {
    description: 'refuses a tunnelled packet that nobody here is bound to',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request({ port: 81 }))),
    ...pass,
    reason: 'tunnel_no_binding',
  },
  {
    description: 'passes a tunnel to another address',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request(), { destination: '10.0.0.50' })),
    ...pass,
    reason: 'not_ours',
  },
  {
    description: 'refuses a tunnelled packet that claims to be longer than its tunnel',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request({ totalLength: 1000 }))),
    ...pass,
    reason: 'malformed',
  },
  {
    description: 'does not look into a tunnel within a tunnel',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(tunnelled(request()))),
    ...pass,
    reason: 'tunnel_no_binding',
  },
  {
    description: 'carries congestion that the tunnel met to the inner packet (RFC 6040, 4.2)',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request({ tos: Ecn.ect0 }), { tos: Ecn.ce })),
    output: intoPod(request({ tos: Ecn.ce })),
    ...redirect,
    reason: 'delivered',
  },
  {
    description: 'drops what met congestion but cannot carry the news (RFC 6040, 4.2)',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request(), { tos: Ecn.ce })),
    ...drop,
    reason: 'congested',
  },
  {
    description: 'keeps congestion that was met before the second tunnel',
    at: 'care-of',
    binding: { ...away, careOf: OTHER_NODE },
    input: frame(tunnelled(request({ tos: Ecn.ect0 }), { tos: Ecn.ce, ttl: 60 })),
    output: onward(
      tunnelled(request({ tos: Ecn.ect0 }), { source: CARE_OF, destination: OTHER_NODE, tos: Ecn.ce, ttl: 59 }),
    ),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'leaves a next hop that is not resolved to tc, which asks the kernel',
    at: 'home',
    binding: { ...away, resolved: false },
    input: frame(request()),
    xdp: 'pass',
    tc: 'redirect',
    reason: 'tunnelled',
    xdpReason: 'slow_path',
    viaKernel: true,
  },
];

testArrivals('IPv4', rows);

const order = suite('what XDP passes is never changed');
order('a slow-path packet reaches tc as it came', () => {
  const bench = homeBench().bind(BINDING, { ...away, resolved: false });
  const input = ethernet({ destination: MAC.home }, request());
  assert.equal(bench.run('hp_xdp', input).frame, input);
  bench.close();
});
order('nothing is counted for a binding that a packet does not belong to', () => {
  const bench = homeBench().bind(BINDING, away);
  assert.is(bench.run('hp_xdp', frame(request({ port: 80 }))).binding.size, 0);
  assert.equal([...bench.run('hp_xdp', frame(request())).binding], [['tunnelled', 1]]);
  bench.close();
});
order('XDP passes an IP header that is cut off', () => {
  const bench = homeBench().bind(BINDING, away); // the kernel takes no such packet for a test run of tc
  const { verdict, reason } = bench.run('hp_xdp', frame(request().subarray(0, 12)));
  assert.equal([verdict, reason], ['pass', 'malformed']);
  bench.close();
});
order.run();
