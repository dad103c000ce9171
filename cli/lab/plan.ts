import { UserError } from '../errors.js';

export type NodeRole = 'client' | 'home' | 'host';
export type LabAttach = 'auto' | 'xdp' | 'xdp-generic' | 'tc';

export const DEFAULT_LAB = 'lab';
export const DEFAULT_HOSTS = 2;
export const MAX_HOSTS = 64;
export const PREFIX_LENGTH = 24;
/** The interface that every node has into the lab's switch. */
export const NODE_INTERFACE = 'eth0';

export interface PlannedNode {
  readonly name: string;
  readonly role: NodeRole;
  readonly address: string;
}

/** The nodes of a lab with `hosts` care-of hosts: client 10.77.0.1, home 10.77.0.2, hostN 10.77.0.(2+N). */
export function planNodes(hosts: number): PlannedNode[] {
  const nodes: PlannedNode[] = [
    { name: 'client', role: 'client', address: '10.77.0.1' },
    { name: 'home', role: 'home', address: '10.77.0.2' },
  ];
  for (let number = 1; number <= hosts; number++) {
    nodes.push({ name: `host${number}`, role: 'host', address: `10.77.0.${2 + number}` });
  }
  return nodes;
}

/**
 * A lab's name becomes part of paths and of cgroup names.
 * @throws {UserError} `LAB_NAME`, exit 2
 */
export function checkLabName(name: string): string {
  if (/^[a-z0-9][a-z0-9-]{0,31}$/.test(name)) return name;
  throw new UserError({
    code: 'LAB_NAME',
    message: `"${name}" cannot be the name of a lab: small letters, digits and hyphens, at most 32`,
    exitStatus: 2,
  });
}
