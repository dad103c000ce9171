import { isIPv6 } from 'node:net';
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
  { homeAddresses, mtu, tunnelOverhead }: Pick<PodOptions, 'homeAddresses' | 'mtu' | 'tunnelOverhead'>,
): string[] {
  const families = FAMILIES.map((family) => ({
    ...family,
    addresses: homeAddresses.filter((address) => isIPv6(address) === family.six),
  })).filter(({ addresses }) => addresses.length > 0);
  return [
    'link set lo up',
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

/** The pod's own kernel settings: pairs of a file below /proc/sys/net and what to write into it. */
export function networkSettings({ ports }: Pick<PodOptions, 'ports'>): string[] {
  return ports === undefined ? [] : ['ipv4/ip_local_port_range', `${ports.first} ${ports.last}`];
}
