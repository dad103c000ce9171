import { isIPv6 } from 'node:net';
import { POD_PROGRAMS, type PodPrograms, podProgram } from '../forwarding/pod-programs.js';
import type { Setting } from './kernel-settings.js';
import type { PodOptions, PodRecord } from './pod.js';

/** What differs between the families. The next hops are link-local, never on any wire (RFC 3927, RFC 4291 2.5.6). */
const FAMILIES = [
  { six: false, gateway: '169.254.77.1', whole: 32, options: '', headers: 40 }, // IPv4 and TCP (RFC 6691)
  { six: true, gateway: 'fe80::77:1', whole: 128, options: ' nodad', headers: 60 },
] as const;

/**
 * The lines for `ip -batch` that make a pod's own side of its link: the home addresses, and a route of each of their families to
 * the host, whose MAC is a permanent neighbour entry.
 */
export function insideNetwork(
  { hostMac }: Pick<PodRecord, 'hostMac'>,
  {
    homeAddresses,
    mtu,
    tunnelOverhead,
    loopbackMtu,
  }: Pick<PodOptions, 'homeAddresses' | 'mtu' | 'tunnelOverhead' | 'loopbackMtu'>,
): string[] {
  const families = FAMILIES.map((family) => ({
    ...family,
    addresses: homeAddresses.filter((address) => isIPv6(address) === family.six),
  })).filter(({ addresses }) => addresses.length > 0);
  return [
    loopbackMtu === undefined ? 'link set lo up' : `link set lo mtu ${loopbackMtu} up`,
    // arp off: no neighbour is ever asked for, and the kernel reports no multicast groups (addrconf_join_solict)
    'link set eth0 addrgenmode none arp off',
    ...families.flatMap(({ addresses, whole, options }) =>
      addresses.map((address) => `address add ${address}/${whole} dev eth0${options}`),
    ),
    'link set eth0 up',
    ...families.flatMap(({ gateway, addresses: [source], headers }) => [
      `neighbour add ${gateway} lladdr ${hostMac} nud permanent dev eth0`,
      `route add default via ${gateway} dev eth0 onlink src ${source} advmss ${mtu - tunnelOverhead - headers}`,
    ]),
  ];
}

/** The pod's own kernel settings. */
export function networkSettings({ ports }: Pick<PodOptions, 'ports'>): Setting[] {
  return [
    // What its home node says to it has one of the pod's own addresses as source, or loopback's.
    ['ipv4/conf/all/accept_local', '1'],
    ['ipv4/conf/lo/route_localnet', '1'],
    ...['all', 'eth0', 'lo'].map((device): Setting => [`ipv4/conf/${device}/rp_filter`, '0']),
    ...(ports === undefined ? [] : [['ipv4/ip_local_port_range', `${ports.first} ${ports.last}`] as const]),
  ];
}

/**
 * The lines for `tc -batch` that attach those of our programs (bpf/inside.h) that are filters. That of `lo` always is: the class
 * of its filter tells it the link, and nothing of the kind is in tcx.
 */
export function insideFilters({ pins, classifier }: PodPrograms, link: number): string[] {
  return [
    'qdisc add dev lo clsact',
    `filter add dev lo egress bpf direct-action object-pinned ${podProgram(pins, POD_PROGRAMS.lo)} classid 0:${link.toString(16)}`,
    ...(classifier === 'tcx'
      ? []
      : [
          'qdisc add dev eth0 clsact',
          `filter add dev eth0 ingress bpf direct-action object-pinned ${podProgram(pins, POD_PROGRAMS.link)}`,
        ]),
  ];
}
