import { ethernet, type Ipv4Fields, icmp, ipv4, udp } from '../packet/packets.js';
import { type Ipv6Fields, ipv6 } from '../packet/packets6.js';
import {
  CARE_OF,
  CARE_OF6,
  CLIENT_PORT,
  frame,
  HOME,
  HOME6,
  icmpError,
  OTHER_NODE,
  reply,
  request,
  request6,
  SERVICE_PORT,
  tunnelled,
} from '../packet/scene.js';
import { LISTENING_PORTS, SHARED_PORT } from './cast.js';
import type { Seed } from './corpus.js';

/** No addresses, as on `lo`. */
const NO_MAC = '00:00:00:00:00:00';
/** Of bpf/homeward.h. */
const HOMEWARD = '02:68:6f:6d:65:00';
const LOOPBACK = '127.0.0.1';
const LOOPBACK6 = '::1';

const typeOf = (packet: Buffer): number => ((packet[0] ?? 0) >> 4 === 6 ? 0x86dd : 0x0800);
const at = (mac: string, packet: Buffer): Buffer =>
  ethernet({ source: mac, destination: mac, type: typeOf(packet) }, packet);

/** What processes of one node say to each other, by its own addresses or by loopback's. */
function said(): [string, Buffer][] {
  const sized = (bytes: number): Buffer => Buffer.alloc(bytes, 0x61);
  const rows: [string, Buffer][] = [];
  for (const address of [HOME, LOOPBACK, CARE_OF]) {
    const ends: Ipv4Fields = { source: address, destination: address };
    const datagram = ipv4({ ...ends, df: false }, udp(CLIENT_PORT, SERVICE_PORT, sized(1800)));
    rows.push(
      [`request at ${address}`, request(ends)],
      [`SYN at ${address}`, request({ ...ends, flags: 'S', payload: Buffer.alloc(0) })],
      [`full request at ${address}`, request({ ...ends, payload: sized(2900) })],
      [`request to nobody of ours at ${address}`, request({ ...ends, port: 80 })],
      [`request to a shared port at ${address}`, request({ ...ends, port: SHARED_PORT })],
      [`reply at ${address}`, reply(ends)],
      [`reset at ${address}`, reply({ ...ends, flags: 'R', payload: Buffer.alloc(0) })],
      [`datagram at ${address}`, ipv4(ends, udp(CLIENT_PORT, SERVICE_PORT))],
      [`large datagram at ${address}`, datagram],
      [`first fragment at ${address}`, ipv4({ ...ends, df: false, mf: true, id: 80 }, udp(CLIENT_PORT, SERVICE_PORT))],
      [
        `later fragment at ${address}`,
        ipv4({ ...ends, df: false, id: 80, fragmentOffset: 2 }, { protocol: 17, bytes: sized(40) }),
      ],
      [`error at ${address}`, icmpError(reply(ends), ends)],
      [`ping at ${address}`, ipv4(ends, icmp(8, 0, 0x10001, sized(56)))],
    );
    for (const port of Object.values(LISTENING_PORTS)) {
      rows.push(
        [`request to ${port} at ${address}`, request({ ...ends, port })],
        [`datagram to ${port} at ${address}`, ipv4(ends, udp(CLIENT_PORT, port))],
      );
    }
  }
  for (const address of [HOME6, LOOPBACK6, CARE_OF6]) {
    const ends: Ipv6Fields = { source: address, destination: address };
    rows.push(
      [`request at ${address}`, request6(ends)],
      [`full request at ${address}`, request6({ ...ends, payload: sized(2900) })],
      [`reply at ${address}`, request6({ ...ends, port: CLIENT_PORT, fromPort: SERVICE_PORT })],
      [`datagram at ${address}`, ipv6(ends, udp(CLIENT_PORT, SERVICE_PORT, sized(30)))],
    );
    for (const port of Object.values(LISTENING_PORTS)) {
      rows.push(
        [`request to ${port} at ${address}`, request6({ ...ends, port })],
        [`datagram to ${port} at ${address}`, ipv6(ends, udp(CLIENT_PORT, port, sized(30)))],
      );
    }
  }
  return rows;
}

/**
 * Packets whose correspondents are on a node itself, wherever the datapath meets them: on `lo`, in a tunnel between home and
 * care-of host, at both ends of a pod's link. @returns the seeds, always in the same order
 */
export function ownNodeCorpus(): Seed[] {
  const ways: readonly (readonly [string, (packet: Buffer) => Buffer])[] = [
    ['over lo', (packet) => at(NO_MAC, packet)],
    ['homeward', (packet) => at(HOMEWARD, packet)],
    ['into a pod', frame],
    ['tunnelled from home', (packet) => frame(tunnelled(packet, { source: HOME, destination: CARE_OF }))],
    ['tunnelled to home', (packet) => frame(tunnelled(packet, { source: CARE_OF, destination: HOME }))],
    ['tunnelled from another node', (packet) => frame(tunnelled(packet, { source: OTHER_NODE, destination: CARE_OF }))],
  ];
  const packets = said();
  return ways.flatMap(([way, wrap]) =>
    packets.map(([name, packet]) => ({ name: `${name}, ${way}`, frame: wrap(packet) })),
  );
}
