import {
  ethernet,
  type Ipv4Fields,
  icmp,
  ipip,
  ipv4,
  Protocol,
  type Segment,
  tagged,
  tcp,
  udp,
} from '../packet/packets.js';
import {
  authentication,
  Extension,
  type ExtensionHeader,
  fragment,
  icmp6,
  ip6ip,
  ipv6,
  noNextHeader,
  options,
  routing,
} from '../packet/packets6.js';
import {
  CARE_OF,
  CARE_OF6,
  CLIENT_PORT,
  CORRESPONDENT,
  CORRESPONDENT6,
  frame,
  HOME,
  HOME6,
  OTHER_NODE,
  OTHER_NODE6,
  reply,
  request,
  request6,
  SERVICE_PORT,
  STRANGER,
  STRANGER6,
  tunnelled,
} from '../packet/scene.js';
import { type CastFlow, COPIED, SHARED_PORT, STALE_PORT, TUNNEL_PORT, UNCOPIED_PORT } from './cast.js';

/** Valid packets of all kinds that the datapath may meet, as frames: what the mutations begin with. */
export interface Seed {
  readonly name: string;
  readonly frame: Buffer;
}

const toHome = { source: CORRESPONDENT, destination: HOME };
const fromHome = { source: HOME, destination: CORRESPONDENT };
const hopByHop = (length = 8): ExtensionHeader => options(Extension.hopByHop, length);
const forDestination = (length = 8): ExtensionHeader => options(Extension.destination, length);
const toHome6 = { source: CORRESPONDENT6, destination: HOME6 };
const fromHome6 = { source: HOME6, destination: CORRESPONDENT6 };

/** Options of a SYN: MSS 1460, SACK permitted, timestamps, NOP, window scale. */
const SYN_OPTIONS = Buffer.from('020405b40402080a00112233000000000103 0307'.replaceAll(' ', ''), 'hex');

/** A segment with TCP options. */
function tcpWithOptions(sourcePort: number, destinationPort: number, flags: string, options: Buffer, payload = 0) {
  const plain = tcp({
    sourcePort,
    destinationPort,
    flags,
    payload: Buffer.concat([options, Buffer.alloc(payload, 0x61)]),
  });
  plain.bytes[12] = (5 + options.length / 4) << 4;
  return plain;
}

const ipOptions = (words: number): Buffer => Buffer.alloc(4 * words, 1);
const sized = (bytes: number): Buffer => Buffer.alloc(bytes, 0x61);

/** A packet of a connection that is claimed for itself. */
function toExactFlow({ protocol, local, remote }: CastFlow): [string, Buffer] {
  const [source, destination] = [remote[0], local[0]];
  const name = `packet of ${source}:${remote[1]} to ${destination}:${local[1]}`;
  if (protocol === Protocol.udp) return [`${name}, UDP`, ipv4({ source, destination }, udp(remote[1], local[1]))];
  return [name, request({ source, destination, fromPort: remote[1], port: local[1] })];
}

function transports(): [string, Buffer][] {
  const port = { sourcePort: CLIENT_PORT, destinationPort: SERVICE_PORT };
  const rows: [string, Buffer][] = [
    ['request', request()],
    ['empty request', request({ payload: Buffer.alloc(0) })],
    ['full request', request({ payload: sized(1460) })],
    ['request that just fits', request({ payload: sized(1440) })],
    ['full request without DF', request({ payload: sized(1460), df: false })],
    ['jumbo request', request({ payload: sized(2900) })],
    ['request with ECN', request({ tos: 0xba })],
    ['request with IP options', request({ options: ipOptions(3) })],
    ['request with all IP options', request({ options: ipOptions(10), payload: sized(200) })],
    ['request to a stranger', request({ destination: STRANGER })],
    ['request to another port', request({ port: 80 })],
    ['request to a shared port', request({ port: SHARED_PORT })],
    ['request to a shared port without a copy', request({ port: SHARED_PORT, fromPort: UNCOPIED_PORT })],
    ['request to a shared port of another flow', request({ port: SHARED_PORT, fromPort: 1234 })],
    ...COPIED.map(toExactFlow),
    ['request to a stale port', request({ port: STALE_PORT })],
    ['reset', request({ flags: 'R', payload: Buffer.alloc(0) })],
    ['SYN', ipv4(toHome, tcpWithOptions(CLIENT_PORT, SERVICE_PORT, 'S', SYN_OPTIONS))],
    [
      'SYN with a large MSS',
      ipv4(toHome, tcpWithOptions(CLIENT_PORT, SERVICE_PORT, 'S', Buffer.from('020423 2c'.replace(' ', ''), 'hex'))),
    ],
    [
      'SYN with MSS in the middle',
      ipv4(toHome, tcpWithOptions(CLIENT_PORT, SERVICE_PORT, 'S', Buffer.from('0101020405b40000', 'hex'))),
    ],
    [
      'SYN with MSS at an odd place',
      ipv4(toHome, tcpWithOptions(CLIENT_PORT, SERVICE_PORT, 'S', Buffer.from('01020405b4000000', 'hex'))),
    ],
    ['SYN with data', ipv4(toHome, tcpWithOptions(CLIENT_PORT, SERVICE_PORT, 'S', SYN_OPTIONS, 100))],
    ['SYN ACK out', ipv4(fromHome, tcpWithOptions(SERVICE_PORT, CLIENT_PORT, 'SA', SYN_OPTIONS))],
    ['reply', reply()],
    ['full reply', reply({ payload: sized(1460) })],
    ['reply of a stale port', reply({ fromPort: STALE_PORT })],
    ['datagram', ipv4(toHome, udp(CLIENT_PORT, SERVICE_PORT))],
    ['datagram to a shared port', ipv4(toHome, udp(CLIENT_PORT, SHARED_PORT))],
    ['empty datagram', ipv4(toHome, udp(CLIENT_PORT, SERVICE_PORT, Buffer.alloc(0)))],
    ['full datagram', ipv4({ ...toHome, df: false }, udp(CLIENT_PORT, SERVICE_PORT, sized(1472)))],
    ['datagram out', ipv4(fromHome, udp(SERVICE_PORT, CLIENT_PORT))],
    ['first fragment', ipv4({ ...toHome, df: false, mf: true, id: 77 }, udp(CLIENT_PORT, SERVICE_PORT, sized(800)))],
    [
      'later fragment',
      ipv4({ ...toHome, df: false, id: 77, fragmentOffset: 101 }, { protocol: 17, bytes: sized(640) }),
    ],
    ['first fragment of TCP', ipv4({ ...toHome, df: false, mf: true, id: 78 }, tcp({ ...port, payload: sized(400) }))],
    ['fragment out', ipv4({ ...fromHome, df: false, mf: true, id: 79 }, udp(SERVICE_PORT, CLIENT_PORT, sized(400)))],
    [
      'later fragment out',
      ipv4({ ...fromHome, df: false, id: 79, fragmentOffset: 51 }, { protocol: 17, bytes: sized(64) }),
    ],
    ['ping', ipv4(toHome, icmp(8, 0, 0x10001, sized(56)))],
    ['SCTP', ipv4(toHome, { protocol: 132, bytes: sized(40) })],
    ['GRE', ipv4(toHome, { protocol: 47, bytes: sized(40) })],
  ];
  return rows;
}

function transports6(): [string, Buffer][] {
  const segment = tcp({ sourcePort: CLIENT_PORT, destinationPort: SERVICE_PORT, flags: 'PA', payload: sized(30) });
  const syn = tcpWithOptions(CLIENT_PORT, SERVICE_PORT, 'S', SYN_OPTIONS);
  const full = tcp({ sourcePort: CLIENT_PORT, destinationPort: SERVICE_PORT, payload: sized(1440) });
  const datagram = udp(CLIENT_PORT, SERVICE_PORT, sized(30));
  return [
    ['IPv6 request', request6()],
    ['IPv6 request with ECN', ipv6({ ...toHome6, trafficClass: 0xb9 }, segment)],
    ['IPv6 full request', ipv6(toHome6, full)],
    ['IPv6 SYN', ipv6(toHome6, syn)],
    ['IPv6 datagram', ipv6(toHome6, datagram)],
    ['IPv6 to a stranger', ipv6({ ...toHome6, destination: STRANGER6 }, segment)],
    ['IPv6 with hop-by-hop options', ipv6({ ...toHome6, extensions: [hopByHop()] }, segment)],
    [
      'IPv6 with many headers',
      ipv6({ ...toHome6, extensions: [hopByHop(16), forDestination(), routing(2, 0), forDestination(24)] }, segment),
    ],
    ['IPv6 with routing to go', ipv6({ ...toHome6, extensions: [routing(2, 1)] }, segment)],
    ['IPv6 with authentication', ipv6({ ...toHome6, extensions: [authentication()] }, segment)],
    [
      'IPv6 with nine headers',
      ipv6({ ...toHome6, extensions: Array.from({ length: 9 }, () => forDestination()) }, segment),
    ],
    ['IPv6 first fragment', ipv6({ ...toHome6, extensions: [fragment(99, 0, true)] }, datagram)],
    [
      'IPv6 later fragment',
      ipv6({ ...toHome6, extensions: [fragment(99, 5, false)] }, { protocol: 17, bytes: sized(64) }),
    ],
    ['IPv6 atomic fragment', ipv6({ ...toHome6, extensions: [fragment(98, 0, false)] }, segment)],
    ['IPv6 reply', ipv6(fromHome6, tcp({ sourcePort: SERVICE_PORT, destinationPort: CLIENT_PORT, payload: sized(9) }))],
    ['IPv6 SYN ACK out', ipv6(fromHome6, tcpWithOptions(SERVICE_PORT, CLIENT_PORT, 'SA', SYN_OPTIONS))],
    ['neighbour solicitation', ipv6(toHome6, icmp6(135, 0, 0, sized(16)))],
    ['IPv6 ping', ipv6(toHome6, icmp6(128, 0, 0x10001, sized(56)))],
    ['no next header', ipv6(toHome6, noNextHeader)],
  ];
}

/** ICMP errors about what a bound process sent (they are for it), and about what it got (somebody here speaks for it). */
function errors(): [string, Buffer][] {
  const router = { source: '10.0.0.254', destination: HOME };
  const here: Ipv4Fields = { source: HOME, destination: CORRESPONDENT };
  const quote = (packet: Buffer, transport = 8): Buffer => packet.subarray(0, ((packet[0] ?? 0) & 15) * 4 + transport);
  const reply6 = ipv6(fromHome6, udp(SERVICE_PORT, CLIENT_PORT, sized(60)));
  const datagram6 = ipv6(toHome6, udp(CLIENT_PORT, SERVICE_PORT, sized(60)));
  const outer = ipv4({ source: HOME, destination: CARE_OF, ttl: 64 }, ipip(request()));
  return [
    ['needs fragmentation', ipv4(router, icmp(3, 4, 1400, quote(reply({ payload: sized(1460) }))))],
    ['needs fragmentation, long quote', ipv4(router, icmp(3, 4, 1400, quote(reply({ payload: sized(1460) }), 500)))],
    ['time exceeded', ipv4(router, icmp(11, 0, 0, quote(reply())))],
    ['unreachable, with options quoted', ipv4(router, icmp(3, 1, 0, quote(reply({ options: ipOptions(4) }))))],
    ['error in a packet with options', ipv4({ ...router, options: ipOptions(2) }, icmp(3, 1, 0, quote(reply())))],
    ['error about a stranger', ipv4(router, icmp(3, 1, 0, quote(request({ destination: STRANGER }))))],
    ['error about an error', ipv4(router, icmp(3, 1, 0, quote(ipv4(here, icmp(3, 1, 0, quote(request()))))))],
    ['port unreachable out', ipv4(here, icmp(3, 3, 0, quote(ipv4(toHome, udp(CLIENT_PORT, SERVICE_PORT)))))],
    [
      'error about the outer packet',
      ipv4({ source: '10.0.0.254', destination: HOME }, icmp(3, 4, 1300, quote(outer, 8))),
    ],
    [
      'error about the outer packet, long',
      ipv4({ source: '10.0.0.254', destination: HOME }, icmp(3, 4, 1300, quote(outer, 40))),
    ],
    ...news(),
    ['IPv6 too big', ipv6(toHome6, icmp6(2, 0, 1300, reply6))],
    ['IPv6 port unreachable out', ipv6(fromHome6, icmp6(1, 4, 0, datagram6))],
  ];
}

/** Routers' words about tunnel packets of this node, of every kind, that did not fit. */
function news(): [string, Buffer][] {
  const rows: [string, Buffer][] = [];
  const [full, full6] = [request({ payload: sized(1460) }), request6({ payload: sized(1440) })];
  const ways = [
    [HOME, CARE_OF, HOME6, CARE_OF6],
    [CARE_OF, OTHER_NODE, CARE_OF6, OTHER_NODE6],
  ] as const;
  for (const [node, careOf, node6, careOf6] of ways) {
    for (const [kind, packet] of [
      ['IPv4', full],
      ['IPv6', full6],
    ] as const) {
      const segments = [kind === 'IPv4' ? ipip(packet) : ip6ip(packet), udp(50_000, TUNNEL_PORT, packet)];
      for (const segment of segments) {
        const name = `${kind} in ${segment.protocol} from ${node}`;
        const outer = ipv4({ source: node, destination: careOf, ttl: 60 }, segment);
        const outer6 = ipv6({ source: node6, destination: careOf6 }, segment);
        rows.push(
          [
            `too big: ${name}`,
            ipv4({ source: '10.0.0.254', destination: node }, icmp(3, 4, 1400, outer.subarray(0, 548))),
          ],
          [
            `too big over IPv6: ${name}`,
            ipv6({ source: STRANGER6, destination: node6 }, icmp6(2, 0, 1400, outer6.subarray(0, 1232))),
          ],
        );
      }
    }
  }
  return rows;
}

/** What other nodes, and strangers, put into a tunnel. */
function tunnels(packets: readonly [string, Buffer][], packets6: readonly [string, Buffer][]): [string, Buffer][] {
  const rows: [string, Buffer][] = [];
  const routes: readonly [string, Ipv4Fields][] = [
    ['from home', { source: HOME, destination: CARE_OF, ttl: 64 }],
    ['to home', { source: CARE_OF, destination: HOME, ttl: 64 }],
    ['at its last hop', { source: OTHER_NODE, destination: CARE_OF, ttl: 1 }],
    ['that met congestion', { source: OTHER_NODE, destination: CARE_OF, ttl: 64, tos: 3 }],
    ['from a stranger', { source: STRANGER, destination: CARE_OF, ttl: 64 }],
    ['with options', { source: OTHER_NODE, destination: CARE_OF, ttl: 64, options: ipOptions(1) }],
    ['in pieces', { source: OTHER_NODE, destination: CARE_OF, ttl: 64, df: false, mf: true }],
  ];
  routes.forEach(([route, outer], index) => {
    for (const [at, [name, packet]] of packets.entries()) {
      if (index > 1 && at % 4 !== index % 4) continue;
      rows.push([`${name}, tunnelled ${route}`, ipv4(outer, ipip(packet))]);
      if (index < 2) rows.push([`${name}, in UDP ${route}`, ipv4(outer, inUdp(packet, 50_000 + at, TUNNEL_PORT))]);
    }
    for (const [at, [name, packet]] of packets6.entries()) {
      if (index > 1 && at % 4 !== index % 4) continue;
      rows.push([`${name}, tunnelled ${route}`, ipv4(outer, ip6ip(packet))]);
      if (index < 2) rows.push([`${name}, in UDP ${route}`, ipv4(outer, inUdp(packet, 51_000 + at, TUNNEL_PORT))]);
    }
  });
  return rows;
}

function odd(): [string, Buffer][] {
  const arp = Buffer.from('0001080006040001020000000001 0a000001 000000000000 0a000002'.replaceAll(' ', ''), 'hex');
  const [plain, plain6] = [request(), request6()];
  const [customer, provider, type6] = [0x8100, 0x88a8, 0x86dd];
  return [
    ['ARP', ethernet({ type: 0x0806 }, arp)],
    ['padded to 60 bytes', Buffer.concat([frame(request({ payload: Buffer.alloc(0) })), Buffer.alloc(6)])],
    ['with a priority tag', tagged([[customer, 0xe000]], plain)],
    ['of a VLAN', tagged([[customer, 0x6064]], plain)],
    [
      'of a VLAN in a VLAN',
      tagged(
        [
          [provider, 200],
          [customer, 100],
        ],
        plain,
      ),
    ],
    [
      'of a priority in a VLAN',
      tagged(
        [
          [provider, 200],
          [customer, 0xe000],
        ],
        plain,
      ),
    ],
    [
      'with two priority tags',
      tagged(
        [
          [provider, 0xe000],
          [customer, 0],
        ],
        plain,
      ),
    ],
    [
      'with three tags',
      tagged(
        [
          [customer, 0],
          [customer, 0],
          [customer, 0],
        ],
        plain,
      ),
    ],
    ['IPv6 with a priority tag', tagged([[customer, 0xe000]], plain6, type6)],
    ['IPv6 of a VLAN', tagged([[customer, 5]], plain6, type6)],
    ['tunnelled with a priority tag', tagged([[customer, 0]], tunnelled(request()))],
    ['LLDP', ethernet({ type: 0x88cc }, sized(46))],
    ['802.3 length', ethernet({ type: 46 }, sized(46))],
    ['header alone', ethernet({}, Buffer.alloc(0))],
  ];
}

/** The same over IPv6. */
function tunnels6(packets: readonly [string, Buffer][]): [string, Buffer][] {
  const routes: readonly [string, string, string][] = [
    ['from home', HOME6, CARE_OF6],
    ['to home', CARE_OF6, HOME6],
    ['from another node', OTHER_NODE6, CARE_OF6],
  ];
  return routes.flatMap(([route, source, destination], index) =>
    packets.flatMap(([name, packet], at): [string, Buffer][] => {
      if (at % 3 !== index) return [];
      const six = (packet[0] ?? 0) >> 4 === 6;
      return [
        [`${name}, tunnelled over IPv6 ${route}`, ipv6({ source, destination }, six ? ip6ip(packet) : ipip(packet))],
        [`${name}, in UDP over IPv6 ${route}`, ipv6({ source, destination }, inUdp(packet, 52_000 + at, TUNNEL_PORT))],
      ];
    }),
  );
}

/** A whole packet behind a UDP header without a checksum. */
function inUdp(packet: Buffer, sourcePort: number, destinationPort: number): Segment {
  return { protocol: 17, bytes: udp(sourcePort, destinationPort, packet).bytes };
}

/** @returns the seeds, always in the same order */
export function corpus(): Seed[] {
  const [packets, packets6] = [transports(), transports6()];
  const about = errors();
  const ip = [...packets, ...packets6, ...about, ...tunnels([...packets, ...about.slice(0, 8)], packets6)];
  ip.push(...tunnels6([...packets, ...packets6]));
  return [
    ...ip.map(([name, packet]) => ({ name, frame: frame(packet) })),
    ...odd().map(([name, bytes]) => ({ name, frame: bytes })),
  ];
}
