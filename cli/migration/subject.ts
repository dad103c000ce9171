import { readHomeAddresses } from '../process/home-addresses.js';
import type { InspectOptions } from '../process/inspect.js';
import { fenced } from './refusals.js';
import type { Resident } from './residents.js';
import type { Site } from './site.js';

/**
 * Which process to look at on this node, and how.
 * @param resident set when it lives here for another home
 * @throws {UserError} `FENCED`: it runs elsewhere
 */
export function subjectOf(
  { node, forwarding }: Pick<Site, 'node' | 'forwarding'>,
  pid: number,
  resident: Resident | undefined,
): [pid: number, options: InspectOptions] {
  if (resident?.control.fenced === true) throw fenced(resident.twin, node);
  const ownPids = [process.pid];
  const uplinks = forwarding.datapath.status().map((uplink) => uplink.interface);
  return resident === undefined
    ? [pid, { homeAddresses: readHomeAddresses(node.address, uplinks), ownPids }]
    : [resident.localPid(), { homeAddresses: resident.description.homeAddresses, ownPids, inPod: true }];
}
