import ipaddr from 'ipaddr.js';

/** A node and the networks that it is in or near, as `address/prefix`: its own addresses have their networks' prefixes. */
interface Place {
  readonly name: string;
  readonly networks: readonly string[];
}

interface Network {
  readonly name: string;
  readonly bytes: readonly number[];
  readonly prefix: number;
}

/**
 * How many correspondents are near each node. One counts for the nodes with the most specific network that it is in, and a node
 * itself is more specific than any network: whoever talks to a program of a node has it there, and not in the rack.
 * @returns by the names of nodes; those that nobody is near are left out
 */
export function nearness(correspondents: readonly string[], places: readonly Place[]): ReadonlyMap<string, number> {
  const networks = places.flatMap(({ name, networks }) => networks.flatMap((text) => networkOf(name, text)));
  const count = new Map<string, number>();
  for (const correspondent of correspondents) {
    if (!ipaddr.isValid(correspondent)) continue;
    const bytes = ipaddr.parse(correspondent).toByteArray();
    let best = -1;
    let nearest = new Set<string>();
    for (const network of networks) {
      const length = matched(network, bytes);
      if (length > best) nearest = new Set();
      if (length >= 0 && length >= best) nearest.add(network.name);
      best = Math.max(best, length);
    }
    for (const name of nearest) count.set(name, (count.get(name) ?? 0) + 1);
  }
  return count;
}

function networkOf(name: string, text: string): Network[] {
  if (!ipaddr.isValidCIDR(text)) return []; // a host has told it, and may tell anything
  const [address, prefix] = ipaddr.parseCIDR(text);
  return [{ name, bytes: address.toByteArray(), prefix }];
}

/** Bits that make an address one of a network: all of them for the node's own; -1 for others. */
function matched({ bytes, prefix }: Network, address: readonly number[]): number {
  if (bytes.length !== address.length) return -1;
  let same = 0;
  for (let index = 0; index < bytes.length; index++) {
    const difference = (bytes[index] ?? 0) ^ (address[index] ?? 0);
    if (difference === 0) {
      same += 8;
      continue;
    }
    same += Math.clz32(difference) - 24;
    break;
  }
  if (same === 8 * bytes.length) return same;
  return same >= prefix ? prefix : -1;
}
