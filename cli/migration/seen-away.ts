import { isInBlock, type PortBlock } from '../forwarding/port-block.js';
import type { BoundPort, ProcessDescription } from '../process/description.js';
import { readInternetSockets } from '../process/sockets.js';
import type { Course } from './course.js';
import { requireOwnPlaces } from './credible.js';
import type { NodeName } from './messages.js';
import { sharedAsAtHome } from './shared-ports.js';
import type { Twin } from './twins.js';

/** Of a twin: what concerns ports. */
interface Known {
  readonly description: ProcessDescription;
  readonly block?: PortBlock | undefined;
}

/**
 * What a host says of a process of this home, as the home takes it. Who it is, and which addresses it has, is known here.
 * @param atHome its description of before
 * @throws {UserError} `NOT_ITS_ADDRESS` when it claims another address
 */
export function seenAway(home: string, atHome: ProcessDescription, seen: ProcessDescription): ProcessDescription {
  const { homePid, homeAddresses } = atHome;
  requireOwnPlaces(home, homeAddresses, seen);
  return sharedAsAtHome(atHome, { ...seen, homePid, homeAddresses });
}

/** What a process on its way is like at last: on a host's word as far as {@link withoutOthers} lets it. */
export function grown(
  home: NodeName,
  { source, twin }: Pick<Course, 'source' | 'twin'>,
  twins: readonly Twin[],
  seen: ProcessDescription,
): ProcessDescription {
  const found = seenAway(home.name, twin.record.description, seen);
  if (source.node.name === home.name) return found;
  const others = twins.filter(({ id }) => id !== twin.id).map(({ record }) => record);
  return withoutOthers(twin.record, others, found);
}

/**
 * The same without ports that it cannot have got while it was away, because a socket of this machine or another process that is
 * away has them: what comes to those is not turned aside on a host's word, nor because a guest listens, in its pod, on a port that
 * is taken here.
 * @param own the process's own twin, as it was before
 * @param others the twins of all other processes of this home
 */
export function withoutOthers(own: Known, others: readonly Known[], seen: ProcessDescription): ProcessDescription {
  const before = new Set(own.description.ports.map(nameOf));
  const fresh = seen.ports.filter((port) => !before.has(nameOf(port)));
  const taken = new Set([...usedHere(fresh), ...fresh.filter((port) => others.some((other) => has(other, port)))]);
  const ports = seen.ports.filter((port) => !taken.has(port));
  const left = new Set(ports.map(nameOf));
  const flows = seen.flows.filter(({ protocol, local }) => left.has(nameOf({ protocol, ...local })));
  return { ...seen, ports, flows };
}

type Place = Pick<BoundPort, 'protocol' | 'address' | 'port'>;

function nameOf({ protocol, address, port }: Place): string {
  return `${protocol} ${address} ${port}`;
}

/** Whatever the address: one is written in many ways, and a socket on [::] may have those of IPv4 too. */
function usedHere<Port extends Place>(ports: readonly Port[]): Port[] {
  if (ports.length === 0) return [];
  const sockets = readInternetSockets('self').filter(({ inode }) => inode !== 0); // not of anybody any more
  return ports.filter(({ protocol, port }) =>
    sockets.some(({ transport, local }) => local.port === port && transport.startsWith(protocol)),
  );
}

function has({ description, block }: Known, { protocol, port }: Place): boolean {
  if (block !== undefined && isInBlock(block, port)) return true;
  return description.ports.some((held) => held.protocol === protocol && held.port === port);
}
