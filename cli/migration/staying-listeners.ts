import { UserError } from '../errors.js';
import { bindPorts } from '../process/bound-ports.js';
import type { BoundFlow, Listener, ProcessDescription } from '../process/description.js';
import { findHolders } from '../process/file-holders.js';
import { type Holder, type InternetSocket, readInternetSockets, readSocketHolders } from '../process/sockets.js';
import { readTree } from '../system/procfs.js';
import { notAccepting } from './drain.js';
import type { DepartureRecord } from './records.js';
import { refuse } from './refusals.js';

/** Names of those listeners that stay at home, with others that have them too. */
export function staying({ listening = [] }: Pick<DepartureRecord, 'listening'>): Set<string | undefined> {
  return new Set(listening.map(({ cookie }) => cookie).filter((cookie) => cookie !== undefined));
}

/**
 * CRIU was started for listeners that stay, or for none: it is too late when others have let go of one since, or got hold of one.
 * @throws {UserError} `OPENED_MEANWHILE`
 */
export function requireSameStay(record: Pick<DepartureRecord, 'listening'>, listening: readonly Listener[]): void {
  const before = staying(record);
  const now = staying({ listening });
  if (before.size === now.size && [...before].every((cookie) => now.has(cookie))) return;
  throw letGo('the processes that have its listener too are not the same as a moment ago');
}

/**
 * Connections that a process has accepted from a listener that stays, since it was looked at: it stands still now. Nobody held those
 * back, for siblings accept from the same queue; and none may be without an owner when CRIU begins.
 * @param drained what it was when it was looked at
 * @throws {UserError} `REFUSED`: one of them cannot go along; `NOT_ACCEPTING`: connections wait for a listener that goes along, and CRIU
 * was told not to mind; `OPENED_MEANWHILE`: nobody has the listener any more but the process
 */
export function acceptedMeanwhile({ request, localPids }: DepartureRecord, drained: ProcessDescription): BoundFlow[] {
  const stay = staying(drained);
  if (stay.size === 0) return [];
  const [root = 0] = localPids;
  const tree = readTree(root);
  const everySocket = readInternetSockets(root);
  const holders = readSocketHolders(tree);
  const ours = everySocket.filter(({ inode }) => holders.has(inode));
  const isStaying = ({ cookie }: InternetSocket): boolean => cookie !== undefined && stay.has(cookie);
  const waiting = ours.find((socket) => socket.state === 'LISTEN' && !isStaying(socket) && socket.receiveQueue > 0);
  if (waiting !== undefined) throw notAccepting(waiting);
  const heldOutside = outside(ours.filter(isStaying), tree, root);
  const { homeAddresses } = drained;
  const { flows, verdicts } = bindPorts({ ours, everySocket, holders, heldOutside, homeAddresses });
  refuse(request.pid, verdicts);
  const known = new Set(drained.flows.map(nameOf));
  return flows.filter((flow) => !known.has(nameOf(flow)));
}

/** @throws {UserError} `OPENED_MEANWHILE` when nobody outside the tree has one of them. */
function outside(listeners: readonly InternetSocket[], tree: readonly number[], root: number): Map<string, Holder> {
  const inodes = new Set(listeners.map(({ inode }) => inode));
  const found = findHolders(inodes, { among: [...tree, process.pid], near: root });
  if (found.size < inodes.size) throw letGo('the processes that had its listener too have ended');
  return new Map([...found].map(([inode, holder]) => [`socket:[${inode}]`, holder]));
}

function nameOf({ protocol, local, remote }: BoundFlow): string {
  return `${protocol} ${local.address} ${local.port} ${remote.address} ${remote.port}`;
}

function letGo(message: string): UserError {
  return new UserError({ code: 'OPENED_MEANWHILE', message, remedy: 'try again' });
}
