import { networkInterfaces } from 'node:os';
import ipaddr from 'ipaddr.js';

/** Ranges that no other machine, or none beyond one link, can reach. */
const OWN = new Set(['loopback', 'linkLocal', 'unspecified', 'multicast', 'broadcast']);

/**
 * The addresses of this node that its processes keep when they leave: those on its uplinks, and those on `lo`, which only
 * uplinks lead to. Shortest text each; the node's own first.
 */
export function readHomeAddresses(own: string, uplinks: readonly string[]): string[] {
  const names = new Set(['lo', ...uplinks]);
  const found = Object.entries(networkInterfaces())
    .filter(([name]) => names.has(name.split(':')[0] ?? '')) // "eth0:1": an IPv4 label (ip-address(8))
    .flatMap(([, addresses = []]) => addresses.map(({ address }) => ipaddr.parse(address.split('%')[0] ?? address)))
    .filter((address) => !OWN.has(address.range()))
    .map((address) => address.toString());
  return [...new Set([ipaddr.parse(own).toString(), ...found])];
}
