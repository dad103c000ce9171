/** Arrivals of IPv6 and of tagged frames, through XDP and through tc. */
import '../addon/private-namespaces.js';
import { type ArrivalRow, back, drop, pass, redirect, testArrivals } from './arrival-table.js';
import type { BindingFields, ReasonName } from './bench.js';
import { Ecn, ethernet, Protocol, tagged, udp } from './packets.js';
import {
  authentication,
  Extension,
  type ExtensionHeader,
  fragment,
  icmp6,
  ipv6,
  noNextHeader,
  options,
  routing,
} from './packets6.js';
import {
  BINDING,
  CARE_OF,
  CLIENT_PORT,
  CORRESPONDENT6,
  frame,
  HOME6,
  intoPod,
  OTHER_NODE,
  onward,
  request,
  request6,
  SERVICE_PORT,
  STRANGER,
  tunnelled,
} from './scene.js';

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const here: BindingFields = { action: 'deliver' };
const parked: BindingFields = { action: 'park', egress: 'shut' };

const to = { source: CORRESPONDENT6, destination: HOME6 };
const plain = request6();
const withFirst = (byte: number, packet: Buffer): Buffer => Buffer.concat([Buffer.from([byte]), packet.subarray(1)]);

const passed: readonly (readonly [string, Buffer, ReasonName])[] = [
  ['another port of the home address', request6({ port: 80 }), 'not_ours'],
  ['the same port of another address', request6({ destination: '2001:db8::50' }), 'not_ours'],
  ['an address that differs in its first bits', request6({ destination: '3001:db8::2' }), 'not_ours'],
  ['UDP to a bound TCP port', ipv6(to, udp(9, SERVICE_PORT)), 'not_ours'],
  ['a ping', ipv6(to, icmp6(128, 0, 1, Buffer.from('ping'))), 'not_ours'],
  ['a packet without a next header', ipv6(to, noNextHeader), 'not_ours'],
  ['a later fragment', request6({ extensions: [fragment(9, 64, true)] }), 'fragment_unknown'],
  ['the last fragment', request6({ extensions: [fragment(9, 128, false)] }), 'fragment_unknown'],
  ['a packet on its way to the next segment', request6({ extensions: [routing(4, 1)] }), 'not_parsed'],
  [
    'more extension headers than it reads',
    request6({ extensions: Array.from({ length: 7 }, () => options(Extension.destination)) }),
    'not_parsed',
  ],
  ['a version that is not 6', withFirst(0x45, plain), 'malformed'],
  ['a TCP header that is cut off', plain.subarray(0, 52), 'malformed'],
  ['a payload length beyond the frame', request6({ payloadLength: 1400 }), 'malformed'],
  ['a payload length below the headers', request6({ payloadLength: 10 }), 'malformed'],
  ['a jumbogram', request6({ payloadLength: 0, extensions: [options(Extension.hopByHop)] }), 'malformed'],
  [
    'an extension header that goes beyond the packet',
    Buffer.concat([request6({ extensions: [options(Extension.destination)] }).subarray(0, 41), Buffer.alloc(40, 250)]),
    'malformed',
  ],
];

const extended: readonly (readonly [string, readonly ExtensionHeader[]])[] = [
  ['no extension header', []],
  ['hop-by-hop options', [options(Extension.hopByHop)]],
  ['destination options', [options(Extension.destination, 24)]],
  ['a routing header at its end', [routing(4, 0)]],
  ['an atomic fragment (RFC 6946)', [fragment(77, 0, false)]],
  ['an authentication header', [authentication()]],
  [
    'six extension headers',
    [
      options(Extension.hopByHop),
      options(Extension.destination, 16),
      routing(2, 0),
      fragment(1, 0, false),
      authentication(),
      options(Extension.destination),
    ],
  ],
];

const datagram = ipv6(to, udp(4000, 5353));
const tag8021q = 0x8100;
const tag8021ad = 0x88a8;
const PRIORITY = 5 << 13;
const tags: readonly (readonly [string, readonly (readonly [number, number])[]])[] = [
  ['the tag of a VLAN', [[tag8021q, 100]]],
  ['the tag of a VLAN and a priority', [[tag8021q, PRIORITY | 5]]],
  ["a provider's tag", [[tag8021ad, 100]]],
  [
    "a customer's tag in a provider's",
    [
      [tag8021ad, 200],
      [tag8021q, 100],
    ],
  ],
  [
    'a VLAN behind a priority tag',
    [
      [tag8021q, PRIORITY],
      [tag8021q, 100],
    ],
  ],
  [
    'three tags',
    [
      [tag8021q, 0],
      [tag8021q, 0],
      [tag8021q, 0],
    ],
  ],
];

testArrivals('IPv6', [
  ...passed.map(([description, packet, reason]): ArrivalRow => {
    const input = ethernet({ type: 0x86dd }, packet);
    return { description: `passes ${description}`, at: 'home', binding: away, input, ...pass, reason };
  }),
  ...extended.flatMap(([description, extensions]): ArrivalRow[] => [
    {
      description: `tunnels a packet with ${description}, which stays inside`,
      at: 'home',
      binding: away,
      input: frame(request6({ extensions })),
      output: onward(tunnelled(request6({ extensions }))),
      ...back,
      reason: 'tunnelled',
    },
    {
      description: `takes a packet with ${description} out of the tunnel`,
      at: 'care-of',
      binding: here,
      input: frame(tunnelled(request6({ extensions }))),
      output: intoPod(request6({ extensions })),
      ...redirect,
      reason: 'delivered',
    },
  ]),
  {
    description: 'tunnels UDP of a bound UDP port',
    at: 'home',
    binding: away,
    prepare: (bench) => bench.claim(BINDING, HOME6, 5353, { protocol: Protocol.udp }),
    input: frame(datagram),
    output: onward(tunnelled(datagram)),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'tunnels by the exact flow where the port is shared',
    at: 'home',
    binding: away,
    prepare: (bench) =>
      bench.claim(BINDING, HOME6, 5000, { shared: true }).flow(BINDING, [HOME6, 5000], [CORRESPONDENT6, CLIENT_PORT]),
    input: frame(request6({ port: 5000 })),
    output: onward(tunnelled(request6({ port: 5000 }))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'passes the flow of another correspondent on a shared port',
    at: 'home',
    binding: away,
    prepare: (bench) =>
      bench.claim(BINDING, HOME6, 5000, { shared: true }).flow(BINDING, [HOME6, 5000], [CORRESPONDENT6, CLIENT_PORT]),
    input: frame(request6({ port: 5000, source: '2001:db8::5' })),
    ...pass,
    reason: 'not_ours',
  },
  {
    description: 'holds a SYN back while accept queues run dry',
    at: 'home',
    binding: { action: 'pass', hold: 'new' },
    input: frame(request6({ flags: 'S' })),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'copies the traffic class to the outer TOS',
    at: 'home',
    binding: away,
    input: frame(request6({ trafficClass: 0xb8 | Ecn.ect0, flowLabel: 0xabcde })),
    output: onward(tunnelled(request6({ trafficClass: 0xb8 | Ecn.ect0, flowLabel: 0xabcde }))),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'carries congestion of the tunnel to the traffic class, and leaves the flow label alone',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request6({ trafficClass: Ecn.ect0, flowLabel: 0xabcde }), { tos: Ecn.ce })),
    output: intoPod(request6({ trafficClass: Ecn.ce, flowLabel: 0xabcde })),
    ...redirect,
    reason: 'delivered',
  },
  {
    description: 'drops what met congestion but cannot carry the news',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request6(), { tos: Ecn.ce })),
    ...drop,
    reason: 'congested',
  },
  {
    description: 'takes a packet out of the tunnel before it parks it',
    at: 'care-of',
    binding: parked,
    input: frame(tunnelled(request6())),
    output: frame(request6()),
    ...redirect,
    reason: 'parked',
  },
  {
    description: 'takes a packet out of the tunnel for a process that is at home',
    at: 'care-of',
    binding: { action: 'pass' },
    input: frame(tunnelled(request6())),
    output: frame(request6()),
    ...pass,
    reason: 'at_home',
  },
  {
    description: 'sends a tunnelled packet on to the next host',
    at: 'care-of',
    binding: { ...away, careOf: OTHER_NODE },
    input: frame(tunnelled(request6(), { ttl: 60 })),
    output: onward(tunnelled(request6(), { source: CARE_OF, destination: OTHER_NODE, ttl: 59 })),
    ...back,
    reason: 'tunnelled',
  },
  {
    description: 'refuses a tunnel of a node that is not registered',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request6(), { source: STRANGER })),
    ...pass,
    reason: 'tunnel_unknown_node',
  },
  {
    description: 'refuses a tunnelled packet that nobody here is bound to',
    at: 'care-of',
    binding: here,
    input: frame(tunnelled(request6({ port: 81 }))),
    ...pass,
    reason: 'tunnel_no_binding',
  },
]);

/*
 * A tagged frame is of another network, which has an interface of its own (eth0.100) where the frame arrives once more, without
 * its tag. On this interface it passes, though it looks like ours: it may be another network's 10.0.0.2.
 */
testArrivals('VLAN', [
  ...tags.map(([description, list]): ArrivalRow => {
    const input = tagged(list, request());
    return { description: `passes ${description}`, at: 'home', binding: away, input, ...pass, reason: 'tagged' };
  }),
  {
    description: 'passes the tag of a VLAN before IPv6',
    at: 'home',
    binding: away,
    input: tagged([[tag8021q, 100]], request6(), 0x86dd),
    ...pass,
    reason: 'tagged',
  },
  {
    description: 'passes the tag of a VLAN before a tunnel',
    at: 'care-of',
    binding: here,
    input: tagged([[tag8021q, 100]], tunnelled(request())),
    ...pass,
    reason: 'tagged',
  },
  {
    // No test run gives tc a tag as the kernel does, beside the frame: in the frame it has no business there.
    description: 'leaves a priority tag, which is of the own network, to tc',
    at: 'home',
    binding: away,
    input: tagged([[tag8021q, PRIORITY]], request()),
    ...pass,
    reason: 'tagged',
    xdpReason: 'slow_path',
  },
]);
