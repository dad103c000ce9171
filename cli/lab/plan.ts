import { UserError } from '../errors.js';

export type NodeRole = 'client' | 'home' | 'host';
export type LabAttach = 'auto' | 'xdp' | 'xdp-generic' | 'tc';

export const DEFAULT_LAB = 'lab';
export const DEFAULT_HOSTS = 2;
export const MAX_HOSTS = 64;
export const PREFIX_LENGTH = 24;
export const PREFIX_LENGTH_6 = 64;
/** The interface that every node has into the lab's switch. */
export const NODE_INTERFACE = 'eth0';

export interface PlannedNode {
  readonly name: string;
  readonly role: NodeRole;
  readonly address: string;
  /** Its IPv6 address on the same link (a unique local one, RFC 4193). */
  readonly address6: string;
  /** How far its clocks since boot are ahead of the machine's, in seconds: no two machines were started at once. */
  readonly uptimeOffset: number;
}

const DAY = 86_400;

/**
 * The nodes of a lab with `hosts` care-of hosts: client 10.77.0.1 and fd77::1, home .2, hostN .(2+N).
 * @param machineUptime in seconds: no clock can be set further back. Hosts with odd numbers have been up for over a year
 * longer than home, those with even numbers for half the time of this machine.
 */
export function planNodes(hosts: number, machineUptime: number): PlannedNode[] {
  const node = (name: string, role: NodeRole, number: number, uptimeOffset: number): PlannedNode => ({
    name,
    role,
    address: `10.77.0.${number}`,
    address6: `fd77::${number.toString(16)}`,
    uptimeOffset,
  });
  const careOf = Array.from({ length: hosts }, (_, index) => {
    const offset = index % 2 === 0 ? (400 + index) * DAY : -Math.floor(machineUptime / 2);
    return node(`host${index + 1}`, 'host', 3 + index, offset);
  });
  return [node('client', 'client', 1, 0), node('home', 'home', 2, DAY), ...careOf];
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
