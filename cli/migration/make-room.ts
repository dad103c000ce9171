import { carriedFolder } from '../files/carried-folder.js';
import { wipeTree } from '../files/wipe.js';
import { tunnelOverhead } from '../forwarding/encapsulation.js';
import { createPod, destroyPod, type PodOptions } from '../pod/pod.js';
import type { ProcessDescription } from '../process/description.js';
import { BindingControl } from './binding-control.js';
import type { NodeName, PrepareDestinationRequest } from './messages.js';
import type { Resident } from './residents.js';
import type { Site } from './site.js';

/** Makes what a process needs to live on this node for another home: a binding that holds its packets, and a pod. */
export async function makeRoom(
  site: Site,
  { migration, twin, home, description, epoch, block, carry }: PrepareDestinationRequest,
): Promise<Resident> {
  const { forwarding, residents } = site;
  const control = await BindingControl.create(forwarding, { description, epoch, state: 'held', block });
  const queue = control.openQueue(); // beside the pod: both wait for other programs
  const way = control.resolve(home); // ahead of the first packet
  for (const beside of [queue, way]) beside.catch(() => undefined); // heard when there is a pod
  try {
    const pod = await createPod({
      name: `hpp${control.id}`,
      homeAddresses: description.homeAddresses,
      ports: block,
      ...(carry === true ? { root: carriedFolder(site, twin) } : {}),
      taken: numbersOf(description),
      onLink: (link) => control.attachPod(link), // beside it, too: tcx takes 10 ms (tcx_entry_sync)
      programs: forwarding.datapath.podPrograms,
      ...limitsOf(site, home),
    });
    try {
      await queue;
      await way;
      meet(site, description);
      return residents.add(
        {
          twin,
          home,
          description,
          binding: control.id,
          pod,
          epoch,
          state: 'held',
          migration,
          arrivedAt: Date.now(),
          block,
        },
        control,
      );
    } catch (error) {
      await destroyPod(pod);
      if (pod.root !== undefined) wipeTree(pod.root);
      throw error;
    }
  } catch (error) {
    await queue.catch(() => undefined);
    await control.remove();
    throw error;
  }
}

/**
 * The neighbours by way of whom the first packets will go are found before there are any: Linux keeps few that wait for a neighbour
 * (unres_qlen_bytes), and who loses the beginning of a reply waits a second for it, or longer.
 */
function meet({ forwarding }: Site, { correspondents }: ProcessDescription): void {
  if (forwarding.reverseTunnel) return; // all goes by way of the home node
  for (const address of correspondents) void forwarding.neighbours.resolve(address).catch(() => undefined);
}

/** The numbers that CRIU itself must not have in the pod, neither as pids nor for its session. */
function numbersOf({ pids, numbers, session }: ProcessDescription): number[] {
  return [...pids, ...numbers, ...(session === undefined ? [] : [session.id, session.group])];
}

/**
 * What its pod may send at once: what comes to it through a tunnel must leave room for the outer header, and so must what
 * it sends where that goes back through one.
 */
function limitsOf(
  { node, forwarding }: Site,
  home: NodeName,
): Pick<PodOptions, 'mtu' | 'tunnelOverhead' | 'loopbackMtu'> {
  const { uplinkMtu: mtu, reverseTunnel, encapsulationTo } = forwarding;
  const overheadTo = ({ name, address: to }: NodeName): number =>
    tunnelOverhead({ to, encapsulation: encapsulationTo(name) });
  const throughTunnels = mtu - Math.max(overheadTo(node), overheadTo(home));
  if (!reverseTunnel) return { mtu, tunnelOverhead: overheadTo(node), loopbackMtu: throughTunnels };
  return { mtu: throughTunnels, tunnelOverhead: 0, loopbackMtu: throughTunnels };
}
