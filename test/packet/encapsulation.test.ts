/** Every kind of tunnel with packets of both families, through XDP and through tc. */
import '../addon/private-namespaces.js';
import { type ArrivalRow, back, drop, pass, redirect, testArrivals } from './arrival-table.js';
import type { BindingFields } from './bench.js';
import { Ecn, ipv4, udp } from './packets.js';
import { Extension, ipv6, options } from './packets6.js';
import { CARE_OF, CARE_OF6, frame, HOME, HOME6, intoPod, onward, request, request6, tunnelSegment } from './scene.js';
import { addressOf, entropyOf, inTunnel, type Kind, kinds, type OuterFields } from './tunnels.js';

const inners = [
  { name: 'IPv4', packet: (tos = 0) => request({ tos }) },
  { name: 'IPv6', packet: (tos = 0) => request6({ trafficClass: tos }) },
] as const;
type Inner = (typeof inners)[number];

const here: BindingFields = { action: 'deliver' };
const away = (kind: Kind, to: 'careOf' | 'otherNode' = 'careOf'): BindingFields => ({
  action: 'tunnel',
  egress: 'shut',
  careOf: addressOf(kind, to),
  encapsulation: kind.encapsulation,
});
/** The tunnelled packet with the port and the flow label that the program chose. */
const chosen =
  (kind: Kind, packet: Buffer, fields: OuterFields = {}) =>
  (actual: Buffer): Buffer =>
    onward(inTunnel(kind, packet, { ...fields, ...entropyOf(kind, actual) }));

const DSCP = 0xb8;

function rowsOf(kind: Kind, inner: Inner): ArrivalRow[] {
  const name = `${inner.name} in ${kind.name}`;
  const tunnelled = (fields: OuterFields = {}, tos = 0): Buffer => frame(inTunnel(kind, inner.packet(tos), fields));
  const arrives = { at: 'care-of', binding: here } as const;
  return [
    {
      description: `${name}: tunnels to the care-of address, with DSCP and ECN`,
      at: 'home',
      binding: away(kind),
      input: frame(inner.packet(DSCP | Ecn.ect0)),
      output: chosen(kind, inner.packet(DSCP | Ecn.ect0)),
      ...back,
      reason: 'tunnelled',
    },
    {
      description: `${name}: leaves a next hop that is not resolved to tc, which asks the kernel`,
      at: 'home',
      binding: { ...away(kind), resolved: false },
      input: frame(inner.packet()),
      xdp: 'pass',
      tc: 'redirect',
      reason: 'tunnelled',
      xdpReason: 'slow_path',
      viaKernel: true,
    },
    {
      description: `${name}: takes it out and into the pod`,
      ...arrives,
      input: tunnelled({}, DSCP),
      output: intoPod(inner.packet(DSCP)),
      ...redirect,
      reason: 'delivered',
    },
    {
      description: `${name}: takes it out before it parks it`,
      ...arrives,
      binding: { action: 'park', egress: 'shut' },
      input: tunnelled(),
      output: frame(inner.packet()),
      ...redirect,
      reason: 'parked',
    },
    {
      description: `${name}: takes it out for a process that is at home`,
      ...arrives,
      binding: { action: 'pass' },
      input: tunnelled(),
      output: frame(inner.packet()),
      ...pass,
      reason: 'at_home',
    },
    {
      description: `${name}: drops it for a fenced copy`,
      ...arrives,
      binding: { action: 'drop', egress: 'shut' },
      input: tunnelled(),
      ...drop,
      reason: 'fenced',
    },
    {
      description: `${name}: carries congestion inward (RFC 6040, 4.2), and leaves DSCP alone`,
      ...arrives,
      input: tunnelled({ tos: Ecn.ce }, DSCP | Ecn.ect0),
      output: intoPod(inner.packet(DSCP | Ecn.ce)),
      ...redirect,
      reason: 'delivered',
    },
    {
      description: `${name}: drops what met congestion and cannot carry the news`,
      ...arrives,
      input: tunnelled({ tos: Ecn.ce }),
      ...drop,
      reason: 'congested',
    },
    {
      description: `${name}: refuses it from a node that is not registered`,
      ...arrives,
      input: tunnelled({ from: 'stranger' }),
      ...pass,
      reason: 'tunnel_unknown_node',
    },
    {
      description: `${name}: ends a packet that two nodes would send to each other for ever`,
      ...arrives,
      binding: away(kind, 'otherNode'),
      input: tunnelled({ ttl: 1 }),
      ...drop,
      reason: 'looped',
    },
    {
      description: `${name}: passes a tunnel to another address`,
      ...arrives,
      input: tunnelled({ to: 'nobody' }),
      ...pass,
      reason: 'not_ours',
    },
    {
      description: `${name}: refuses a tunnel with something behind the packet`,
      ...arrives,
      input: frame(inTunnel(kind, Buffer.concat([inner.packet(), Buffer.alloc(3)]))),
      ...pass,
      reason: 'malformed',
    },
    ...kinds.map((next): ArrivalRow => {
      return {
        description: `${name}: goes on in ${next.name}, one hop nearer to its end, with the congestion that it met`,
        ...arrives,
        binding: away(next, 'otherNode'),
        input: tunnelled({ ttl: 60, tos: Ecn.ce }, Ecn.ect0),
        output: chosen(next, inner.packet(Ecn.ect0), { from: 'careOf', to: 'otherNode', ttl: 59, tos: Ecn.ce }),
        ...back,
        reason: 'tunnelled',
      };
    }),
  ];
}

const inUdp = kinds.filter(({ encapsulation }) => encapsulation === 'udp');
const arrives = { at: 'care-of', binding: here } as const;

testArrivals('tunnels', [
  ...kinds.flatMap((kind) => inners.flatMap((inner) => rowsOf(kind, inner))),
  ...kinds.map((kind): ArrivalRow => {
    return {
      description: `${kind.name}: refuses a packet that nobody here is bound to`,
      ...arrives,
      input: frame(inTunnel(kind, request({ port: 81 }))),
      ...pass,
      reason: 'tunnel_no_binding',
    };
  }),
  ...inUdp.flatMap((kind): ArrivalRow[] => [
    {
      description: `${kind.name}: passes a datagram to another port`,
      ...arrives,
      input: frame(inTunnel(kind, request(), { port: 6081 })),
      ...pass,
      reason: 'not_ours',
    },
    {
      description: `${kind.name}: refuses a checksum, which our nodes do not send`,
      ...arrives,
      input: frame(inTunnel(kind, request(), { udpChecksum: 0x1234 })),
      ...pass,
      reason: 'malformed',
    },
    {
      description: `${kind.name}: refuses what is neither IPv4 nor IPv6 (variant 0 of GUE)`,
      ...arrives,
      input: frame(inTunnel(kind, Buffer.concat([Buffer.from([0]), request().subarray(1)]))),
      ...pass,
      reason: 'malformed',
    },
    {
      description: `${kind.name}: refuses a datagram without anything in it`,
      ...arrives,
      input: frame(inTunnel(kind, Buffer.alloc(0))),
      ...pass,
      reason: 'malformed',
    },
  ]),
  {
    description: 'refuses an outer IPv4 header with options',
    ...arrives,
    input: frame(
      ipv4({ source: HOME, destination: CARE_OF, options: Buffer.from([148, 4, 0, 0]) }, tunnelSegment(request())),
    ),
    ...pass,
    reason: 'malformed',
  },
  {
    description: 'refuses an outer IPv6 header with extension headers',
    ...arrives,
    input: frame(
      ipv6(
        { source: HOME6, destination: CARE_OF6, extensions: [options(Extension.destination)] },
        tunnelSegment(request()),
      ),
    ),
    ...pass,
    reason: 'malformed',
  },
  {
    description: 'refuses IPv6 in a tunnel that says IPv4',
    ...arrives,
    input: frame(ipv4({ source: HOME, destination: CARE_OF }, { protocol: 4, bytes: request6() })),
    ...pass,
    reason: 'malformed',
  },
  {
    description: 'refuses IPv4 in a tunnel that says IPv6',
    ...arrives,
    input: frame(ipv6({ source: HOME6, destination: CARE_OF6 }, { protocol: 41, bytes: request() })),
    ...pass,
    reason: 'malformed',
  },
  {
    description: 'takes the port of tunnels for a service of its own on another address',
    at: 'home',
    binding: { action: 'deliver' },
    prepare: (bench) => bench.claim(7, '10.0.0.60', 6080, { protocol: 17 }),
    input: frame(ipv4({ source: '10.0.0.1', destination: '10.0.0.60' }, udp(50_000, 6080))),
    output: intoPod(ipv4({ source: '10.0.0.1', destination: '10.0.0.60' }, udp(50_000, 6080))),
    ...redirect,
    reason: 'delivered',
  },
]);
