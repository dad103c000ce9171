import { readlinkSync } from 'node:fs';
import { UserError } from '../errors.js';
import {
  listProcesses,
  type ProcessIdentity,
  readAnonymousBytes,
  readCommandLine,
  readDescriptors,
  readNamespace,
  readNamespacePids,
  readProcess,
  readTree,
  readUsers,
} from '../system/procfs.js';
import { bindPorts } from './bound-ports.js';
import type { ProcessDescription, Verdict } from './description.js';
import { descriptorVerdicts, type TreeDescriptor } from './descriptor-verdicts.js';
import { multicastVerdicts } from './multicast.js';
import { treeNumbers } from './session-verdicts.js';
import { mayBeShared } from './shared-descriptors.js';
import { type Holder, type InternetSocket, readInternetSockets, socketHolders } from './sockets.js';
import { isStranger } from './strangers.js';
import { urgentVerdicts } from './urgent-data.js';

const MAX_CORRESPONDENTS = 256; // as many entries as a neighbour table is sure to hold (gc_thresh2: 512)

export interface InspectOptions {
  /** Its home's addresses: sockets are bound to one of them, or reached by all of a family when bound to a wildcard. */
  readonly homeAddresses: readonly string[];
  /** Pids that are homeproxy's own and must never be moved. */
  readonly ownPids: readonly number[];
  /** The process lives in a pod of ours: its namespaces differ from this node's, and that is right. */
  readonly inPod?: boolean;
}

export interface Inspection {
  readonly description: ProcessDescription;
  readonly verdicts: readonly Verdict[];
  /** Pids as this node sees them, the root first (in a pod they differ from the home's). */
  readonly localPids: readonly number[];
  readonly seen: Seen;
}

/** What an inspection was made of, for a closer look. */
export interface Seen {
  readonly descriptors: readonly TreeDescriptor[];
  /** Who in the tree holds a socket, by its inode. */
  readonly holders: ReadonlyMap<number, Holder>;
  readonly ours: readonly InternetSocket[];
  /** Who outside the tree holds a file, as its link names it. */
  readonly heldOutside: ReadonlyMap<string, Holder>;
  /** All descriptors outside the tree that may be the same as one of the tree, by what both links say. */
  readonly alike: ReadonlyMap<string, readonly Holder[]>;
}

/**
 * Looks at a process tree without stopping it: what belongs to it, and what stands in the way of a move.
 * @param pid as this node sees it.
 * @throws {UserError} `NO_SUCH_PROCESS`, `KERNEL_THREAD`, `OWN_PROCESS`, `INIT_PROCESS`, `ZOMBIE`: nothing to describe.
 */
export function inspectProcess(pid: number, options: InspectOptions): Inspection {
  const root = requireMovable(pid, options);
  const localPids = readTree(pid);
  const descriptors = localPids.flatMap((member) => readDescriptors(member).map((open) => ({ pid: member, ...open })));
  const holders = socketHolders(descriptors);
  const everySocket = readInternetSockets(pid);
  const { heldOutside, alike } = readHeldOutside(localPids, descriptors, options.ownPids);
  const ours = everySocket.filter((socket) => holders.has(socket.inode));
  const verdicts: Verdict[] = [
    ...(options.inPod === true ? [] : namespaceVerdicts(root)),
    ...descriptorVerdicts(descriptors, heldOutside),
  ];
  const bound = bindPorts({ ours, everySocket, holders, heldOutside, homeAddresses: options.homeAddresses });
  verdicts.push(
    ...bound.verdicts,
    ...multicastVerdicts(pid, ours, holders),
    ...urgentVerdicts(localPids, { ours, holders }),
  );
  const description: ProcessDescription = {
    homePid: homePid(pid, options),
    comm: root.comm,
    commandLine: readCommandLine(pid),
    pids: localPids.map((member) => homePid(member, options)),
    ...treeNumbers(localPids),
    executables: [...new Set(localPids.map(executableOf).filter((path) => path !== undefined))],
    users: [...new Set(localPids.flatMap(readUsers))],
    residentBytes: localPids.reduce((sum, member) => sum + (readProcess(member)?.residentBytes ?? 0), 0),
    anonymousBytes: localPids.reduce((sum, member) => sum + readAnonymousBytes(member), 0),
    homeAddresses: [...options.homeAddresses],
    ports: bound.ports,
    flows: bound.flows,
    connections: ours.filter(
      (socket) => socket.transport.startsWith('tcp') && socket.state !== 'LISTEN' && socket.state !== 'CLOSE',
    ).length,
    correspondents: correspondentsOf(ours),
    listeners: bound.listening.length,
    listening: bound.listening,
  };
  return { description, verdicts, localPids, seen: { descriptors, holders, ours, heldOutside, alike } };
}

function requireMovable(pid: number, options: InspectOptions): ProcessIdentity {
  const root = readProcess(pid);
  const refuse = (code: string, message: string, remedy: string): UserError => new UserError({ code, message, remedy });
  if (root === undefined) throw noSuchProcess(pid);
  if (root.kernelThread) {
    throw refuse('KERNEL_THREAD', `process ${pid} (${root.comm}) is a kernel thread`, 'only user processes can move');
  }
  if (pid === 1) {
    throw refuse(
      'INIT_PROCESS',
      "process 1 is this node's init",
      'move the services that it runs, each by its own pid',
    );
  }
  if (root.state === 'Z' || root.state === 'X') {
    throw refuse('ZOMBIE', `process ${pid} (${root.comm}) has already ended`, 'there is nothing left to move');
  }
  const own = options.ownPids.find((member) => readTree(pid).includes(member));
  if (own !== undefined) {
    throw refuse(
      'OWN_PROCESS',
      `process ${pid} (${root.comm}) is homeproxy itself or contains it`,
      'name another process',
    );
  }
  return root;
}

function noSuchProcess(pid: number): UserError {
  return new UserError({
    code: 'NO_SUCH_PROCESS',
    message: `there is no process ${pid} on this node`,
    remedy: 'look it up with ps, or `homeproxy ps` if it is away',
  });
}

/**
 * What to say of a failure to look at a process: when it has ended meanwhile, its files of /proc with it, the same as if it had
 * never been there. Any other failure is as it was.
 */
export function endedMeanwhile(pid: number, failure: unknown): unknown {
  const { code } = failure as NodeJS.ErrnoException;
  return hasEnded(pid) && (code === 'ENOENT' || code === 'ESRCH') ? noSuchProcess(pid) : failure;
}

/** @throws {UserError} `NO_SUCH_PROCESS`: it has ended, or is about to. */
export function requireThere(pid: number): void {
  if (hasEnded(pid)) throw noSuchProcess(pid);
}

function hasEnded(pid: number): boolean {
  return readProcess(pid)?.ending ?? true; // its namespaces go before it is a zombie
}

/** A pod's processes keep their home pids inside the pod's pid namespace: the innermost number. */
function homePid(pid: number, options: InspectOptions): number {
  return options.inPod === true ? (readNamespacePids(pid).at(-1) ?? pid) : pid;
}

function correspondentsOf(sockets: readonly InternetSocket[]): string[] {
  const connected = sockets.filter(({ remote }) => remote.port !== 0);
  return [...new Set(connected.map(({ remote }) => remote.address))].slice(0, MAX_CORRESPONDENTS);
}

function executableOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return undefined; // it ended while we looked
  }
}

function namespaceVerdicts(root: ProcessIdentity): Verdict[] {
  const verdicts: Verdict[] = [];
  for (const kind of ['net', 'mnt', 'pid', 'user'] as const) {
    if (readNamespace(root.pid, kind) === readNamespace('self', kind)) continue;
    verdicts.push({
      outcome: 'refused',
      code: 'OTHER_NAMESPACE',
      subject: `pid ${root.pid}`,
      reason: `it runs in another ${kind} namespace than this node's daemon: a container or a sandbox`,
      remedy: 'move processes that run directly on the host',
    });
  }
  return verdicts;
}

/**
 * What processes outside the tree hold, as their descriptors' links name it, with one of the holders; of what may be shared without
 * a name of its own with all. Whom even root may not look into (it has capabilities that we lack) is passed over: such a process
 * gave nothing to one that we may move. Sockets that homeproxy holds itself it has borrowed for a moment, to ask them something.
 */
function readHeldOutside(
  tree: readonly number[],
  descriptors: readonly TreeDescriptor[],
  ownPids: readonly number[],
): Pick<Seen, 'heldOutside' | 'alike'> {
  const heldOutside = new Map<string, Holder>();
  const alike = new Map<string, Holder[]>();
  const members = new Set(tree);
  const wanted = new Set(descriptors.map(({ target }) => target).filter(mayBeShared));
  const telling = new Set(descriptors.map(({ target }) => target).filter((target) => /^(pipe|socket):/.test(target)));
  for (const pid of listProcesses()) {
    if (members.has(pid)) continue;
    try {
      const held = readDescriptors(pid);
      if (held.some(({ target }) => telling.has(target) || wanted.has(target)) && !isStranger(pid, members)) continue;
      const own = ownPids.includes(pid);
      for (const { fd, target } of held) {
        if (own && target.startsWith('socket:')) continue;
        heldOutside.set(target, { pid, fd });
        if (!wanted.has(target)) continue;
        const known = alike.get(target);
        if (known === undefined) alike.set(target, [{ pid, fd }]);
        else known.push({ pid, fd });
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EACCES') throw error;
    }
  }
  return { heldOutside, alike };
}
