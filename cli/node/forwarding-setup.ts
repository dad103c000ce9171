import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { type Config, type NodeEntry, ownNode } from '../config/load.js';
import { UserError } from '../errors.js';
import { Datapath } from '../forwarding/datapath.js';
import { followLocalAddresses } from '../forwarding/local-addresses.js';
import { Neighbours } from '../forwarding/neighbours.js';
import { followUplinks } from '../forwarding/uplinks.js';
import type { Forwarding } from '../migration/binding-control.js';
import type { Journal } from '../migration/journal.js';
import { LeftBehind } from '../migration/left-behind.js';
import type { NodeName } from '../migration/messages.js';
import { interfaceOf, readLink } from '../system/ip.js';
import { projectFile } from '../system/project.js';
import { RouteMonitor } from '../system/route-monitor.js';

/** Opens or adopts the datapath as the configuration says, and registers the nodes that may tunnel to us. */
export async function openForwarding(
  config: Config,
  node: NodeName,
  journal: Journal,
  logger: Logger,
): Promise<Forwarding> {
  const addresses = addressesOf(ownNode(config));
  const [home = ''] = await Promise.all(addresses.map((address) => requireHere(address, node)));
  const datapath = await openDatapath(config, node, home);
  datapath.tables.setNodes(config.nodes.filter(({ name }) => name !== node.name));
  for (const uplink of datapath.status()) logger.info({ ...uplink }, 'attached');
  const { ifindex, mtu } = await readLink(home);
  const monitor = new RouteMonitor();
  followLocalAddresses(datapath.tables, monitor);
  const uplink = { ifindex };
  followUplinks(datapath, monitor, {
    gone: (name) => logger.warn({ interface: name }, 'an uplink is gone'),
    failed: (name, error) => logger.error({ interface: name, err: error }, 'an uplink came back, and is not attached'),
    returned: (status, was) => {
      logger.info({ ...status }, 'attached to an uplink that came back');
      if (was === uplink.ifindex) uplink.ifindex = status.ifindex;
    },
  });
  return {
    datapath,
    monitor,
    neighbours: new Neighbours(monitor, addresses),
    node,
    addresses,
    encapsulationTo: (name) => config.nodes.find((entry) => entry.name === name)?.encapsulation ?? 'ip',
    get uplinkIfindex() {
      return uplink.ifindex;
    },
    uplinkMtu: mtu,
    reverseTunnel: ownNode(config).reverseTunnel,
    parkPackets: config.park.packets,
    leftBehind: new LeftBehind(datapath.tables),
    queues: journal.queues,
  };
}

/** By which a node sends tunnels, and is sent them. */
function addressesOf({ address, otherAddress }: NodeEntry): string[] {
  return otherAddress === undefined ? [address] : [address, otherAddress];
}

/** The interface that has an address of this node. */
async function requireHere(address: string, { name }: NodeName): Promise<string> {
  const found = await interfaceOf(address);
  if (found !== undefined) return found;
  throw new UserError({
    code: 'ADDRESS_NOT_HERE',
    message: `no interface of this machine has the address ${address} of node "${name}"`,
    remedy: 'correct `node` or its address in the configuration, or configure the interface',
    exitStatus: 7,
  });
}

/**
 * When it fails, nothing is pinned that was not before: `homeproxy down` could not open it either.
 * @param home the interface that has the node's address: attached to even when `uplinks` names none.
 */
export async function openDatapath(config: Config, node: NodeName, home: string): Promise<Datapath> {
  const uplinks = config.uplinks.length > 0 ? config.uplinks : [{ interface: home, attach: 'auto' as const }];
  const { otherAddress } = ownNode(config);
  const pinned = existsSync(config.paths.bpf);
  try {
    return await Datapath.open({
      objectPath: projectFile('bpf/build/homeproxy.bpf.o'),
      pins: config.paths.bpf,
      run: datapathRun(config),
      nodeAddress: node.address,
      ...(otherAddress === undefined ? {} : { otherAddress }),
      uplinks,
      tcx: config.tcx,
    });
  } catch (error) {
    if (!pinned) rmSync(config.paths.bpf, { recursive: true, force: true });
    throw error;
  }
}

/** The root-only folder of the datapath's lock and of what must be put back. */
export function datapathRun(config: Config): string {
  return join(config.paths.run, 'datapath');
}
