import { networkInterfaces } from 'node:os';
import ipaddr from 'ipaddr.js';
import { UserError } from '../errors.js';
import type { ProcessDescription } from '../process/description.js';
import type { NodeName, PrepareDestinationRequest } from './messages.js';

type Places = Pick<ProcessDescription, 'ports' | 'flows'>;

/**
 * Another node's word decides whose packets a guest gets here: it must fit what this node knows itself. A guest has the
 * addresses of its home, none of this machine or of a third node, and ports at its own addresses only.
 * @throws {UserError} `NODES_DIFFER`, `NOT_ITS_ADDRESS` (exit 4)
 */
export function requireCredible(
  nodes: readonly NodeName[],
  { home, source, description }: Pick<PrepareDestinationRequest, 'home' | 'source' | 'description'>,
): void {
  for (const node of [home, source]) requireKnown(nodes, node);
  const others = nodes.filter(({ name }) => name !== home.name);
  const foreign = new Map(others.map(({ name, address }) => [canonical(address), name]));
  for (const address of Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? [])) {
    foreign.set(canonical(address.address), 'this machine');
  }
  for (const address of description.homeAddresses) {
    const owner = foreign.get(canonical(address)) ?? (isLoopback(address) ? 'every machine' : undefined);
    if (owner !== undefined) throw notIts(home.name, address, `an address of ${owner}`);
  }
  requireOwnPlaces(home.name, description.homeAddresses, description);
}

/**
 * The same for ports and connections that it has got meanwhile.
 * @throws {UserError} `NOT_ITS_ADDRESS` (exit 4)
 */
export function requireOwnPlaces(home: string, own: readonly string[], { ports, flows }: Places): void {
  const known = new Set(own.map(canonical));
  for (const address of [...ports.map((port) => port.address), ...flows.map(({ local }) => local.address)]) {
    if (!known.has(canonical(address)) && !isLoopback(address))
      throw notIts(home, address, 'none of its home addresses');
  }
}

function requireKnown(nodes: readonly NodeName[], { name, address }: NodeName): void {
  const known = nodes.find((node) => node.name === name);
  if (known?.address === address) return;
  throw new UserError({
    code: 'NODES_DIFFER',
    message:
      known === undefined
        ? `the other node speaks of a node "${name}" that this one does not have in its configuration`
        : `the other node says that ${name} has the address ${address}, and the configuration here says ${known.address}`,
    remedy: 'write the same `nodes` into the configuration of every node, and restart the daemons',
    exitStatus: 4,
  });
}

function notIts(home: string, address: string, what: string): UserError {
  return new UserError({
    code: 'NOT_ITS_ADDRESS',
    message: `a process of ${home} cannot have ${address} here: it is ${what}`,
    remedy: 'look at the addresses of both machines: each must be on one of them only',
    exitStatus: 4,
  });
}

/** One text for each address: the datapath knows IPv4 and IPv4-mapped ones as the same. */
function canonical(address: string): string {
  return ipaddr.process(address).toString();
}

/** A loopback address means that of the process's home, and the tables know it as that: nobody else's can be claimed. */
function isLoopback(address: string): boolean {
  return ipaddr.process(address).range() === 'loopback';
}
