import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { interfaceIndex, withNetworkNamespace } from '../../addon/lib/index.js';
import { BugError, ExternalError } from '../errors.js';
import { attachEntry, type PodPrograms } from '../forwarding/pod-programs.js';
import type { PortBlock } from '../forwarding/port-block.js';
import { Cgroup, unifiedMount } from '../system/cgroup.js';
import { run } from '../system/command.js';
import { type ProcessStamp, readChildren, readProcess, stampAlive, stampProcess } from '../system/procfs.js';
import { insideFilters, insideNetwork, networkSettings } from './inside-network.js';
import { takeSettings, tcpSettings, writeSettings } from './kernel-settings.js';
import { createRootFolder, enterRoot } from './pod-root.js';

const INIT = 'catatonit';
const LOCAL_ROUTE_MS = 2000;

/** What a pod is made of; enough to find and remove it after a crash of the daemon. Plain data for the journal. */
export interface PodRecord {
  /** Names the pod's devices and cgroup. */
  readonly name: string;
  /** The pod's init, as this node sees it: it holds all the namespaces. */
  readonly init: ProcessStamp;
  readonly hostInterface: string;
  readonly hostIfindex: number;
  readonly podMac: string;
  readonly hostMac: string;
  readonly cgroup: string;
  /** A folder of this node that is the root of its processes; absent: they see this node's files. */
  readonly root?: string;
}

export interface PodOptions {
  readonly name: string;
  /** The home's addresses, of both families, which become local inside: a restored socket binds to one of them. */
  readonly homeAddresses: readonly string[];
  /** MTU of the pod's link, in bytes. */
  readonly mtu: number;
  /** Bytes that the tunnel adds to what correspondents send: the advertised MSS of both families leaves room for them. */
  readonly tunnelOverhead: number;
  /** From which sockets get their ports that ask for none; undefined: from the kernel's usual ones. */
  readonly ports?: PortBlock | undefined;
  /** A folder to make, and to make its root. */
  readonly root?: string;
  /** MTU of `lo`, in bytes: what the process says over it to its home goes through a tunnel. Default: the kernel's. */
  readonly loopbackMtu?: number;
  /** Numbers that CRIU restores inside; see {@link firstFreePid}. */
  readonly taken?: readonly number[];
  /** Told of its link as soon as that is there, while what is inside is still made. */
  readonly onLink?: (link: Pick<PodRecord, 'hostIfindex' | 'podMac' | 'hostMac'>) => void;
  /** The programs for pods; undefined: correspondents on its home node itself do not reach it. */
  readonly programs?: PodPrograms;
}

/**
 * Makes a pod: net, pid and mount namespaces held by an init that reaps orphans, a veth whose far end carries the home
 * addresses, and a cgroup. Nothing is left behind when a step fails.
 * @throws {ExternalError} `POD_FAILED` or what `ip` said.
 */
export async function createPod(options: PodOptions): Promise<PodRecord> {
  const cgroup = new Cgroup(join(podRoot(), options.name)).create();
  let initPid: number | undefined;
  try {
    initPid = await startInit(join(cgroup.path, 'cgroup.procs'), firstFreePid(options.taken ?? []));
    if (options.root !== undefined) {
      createRootFolder(options.root);
      await started(initPid);
      enterRoot(initPid, options.root);
    }
    const record: PodRecord = {
      name: options.name,
      init: stampProcess(initPid),
      hostInterface: options.name,
      podMac: randomMac(),
      hostMac: randomMac(),
      cgroup: cgroup.path,
      hostIfindex: 0,
      ...(options.root === undefined ? {} : { root: options.root }),
    };
    const hostIfindex = await connect(record, options);
    return { ...record, hostIfindex };
  } catch (error) {
    if (initPid !== undefined) killInit(initPid);
    cgroup.kill(); // not the device: one of that name may be somebody else's
    await cgroup.empty();
    cgroup.remove();
    throw error;
  }
}

/** Whether nothing is left in a pod besides its init. */
export function treeEnded(pod: PodRecord): boolean {
  const own = [pod.init.pid, readProcess(pod.init.pid)?.parent]; // its parent waits for it (startInit)
  return new Cgroup(pod.cgroup).processes().every((pid) => own.includes(pid));
}

/** Ends everything in a pod and removes it; a pod that is already gone is fine. */
export async function destroyPod(pod: PodRecord): Promise<void> {
  await removeLink(pod.hostInterface);
  if (podAlive(pod)) killInit(pod.init.pid);
  const cgroup = new Cgroup(pod.cgroup);
  if (cgroup.exists && cgroup.frozen) cgroup.setFrozen(false);
  await cgroup.empty();
  cgroup.remove();
}

/** The cgroups of all pods on this node, also of those that no record names. */
export function podCgroups(): string[] {
  const root = podRoot();
  if (!existsSync(root)) return [];
  const entries = readdirSync(root, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(root, name));
}

/** Removes the cgroup that holds those of the pods, unless a pod is left. @returns what was removed, in words */
export function removePodRoot(): string[] {
  const root = podRoot();
  try {
    rmdirSync(root);
    return [`cgroup ${root}`];
  } catch (error) {
    if (['ENOENT', 'EBUSY', 'ENOTEMPTY'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
    throw error;
  }
}

/** Ends a pod of which only the cgroup is known: its members, and the init in whose namespaces they are. */
export async function removePodCgroup(path: string): Promise<void> {
  const cgroup = new Cgroup(path);
  cgroup.kill();
  await removeLink(basename(path));
  await cgroup.empty();
  cgroup.remove();
}

/** Whether the init that holds the pod is still that very process. */
export function podAlive(pod: PodRecord): boolean {
  return stampAlive(pod.init);
}

/**
 * CRIU restores tasks and threads under numbers of its images' choosing; its own, and its children's, must stay clear of them, and
 * of those that the process takes for its next threads and children until it is frozen.
 */
function firstFreePid(taken: readonly number[]): number {
  const room = 64; // CRIU, its hooks and its children at once
  const growth = 1000;
  let start = 300;
  const clash = (): number | undefined => taken.find((pid) => pid > start - growth && pid < start + room);
  for (let pid = clash(); pid !== undefined; pid = clash()) start = pid + growth;
  return start;
}

/** The shell says that the mounts are done and becomes the init then: in another root it would not find the program. */
async function started(init: number): Promise<void> {
  for (let stat = readProcess(init); stat?.comm !== INIT; stat = readProcess(init)) {
    if (stat === undefined || stat.state === 'Z') throw new BugError('the init of a pod ended at its start');
    await sleep(1); // nobody is told of an exec
  }
}

/** The kernel takes a veth away some time after its namespace has ended; the next pod of that name may come before. */
async function removeLink(name: string): Promise<void> {
  try {
    interfaceIndex(name);
  } catch {
    return; // gone already
  }
  await run('ip', ['link', 'delete', 'dev', name]).catch(() => undefined); // gone meanwhile
}

function podRoot(): string {
  return join(unifiedMount(), 'homeproxy');
}

async function startInit(cgroupProcs: string, nextPid: number): Promise<number> {
  // A member of the pod's cgroup from the start: that is how a restarted daemon finds it, whatever it had written down.
  // The inner shell says when the mounts are done, then becomes the init. --fork's parent stays and goes with its child.
  const enter = ['-c', 'echo $$ >"$1" && shift && exec "$@"', 'sh', cgroupProcs];
  const args = ['--net', '--pid', '--mount', '--fork', '--mount-proc', '--propagation', 'private'];
  // Terminals of its own: one that comes keeps its number, which may be somebody else's here (Documentation/filesystems/devpts.rst).
  const terminals = 'mount -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts';
  // And POSIX shared memory of its own: its names are the tree's alone.
  const memory = '{ [ ! -d /dev/shm ] || mount -t tmpfs -o nosuid,nodev,mode=1777 homeproxy /dev/shm; }';
  // Nothing but the init has started there when it is set (Documentation/admin-guide/sysctl/kernel.rst, ns_last_pid).
  const numbers = 'echo "$1" >/proc/sys/kernel/ns_last_pid';
  const script = `${terminals} && ${memory} && ${numbers} && echo ready; exec ${INIT} -P </dev/null >/dev/null 2>&1`;
  const child = spawn('sh', [...enter, 'unshare', ...args, 'sh', '-c', script, 'sh', String(nextPid - 1)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    cwd: '/',
  });
  const said: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  const ready = await new Promise<boolean>((resolve) => {
    child.stdout.once('data', () => resolve(true));
    child.once('error', () => resolve(false));
    child.once('exit', () => resolve(false));
  });
  child.stdout.destroy();
  child.stderr.destroy();
  child.unref();
  const init = ready && child.pid !== undefined ? readChildren(child.pid)[0] : undefined;
  if (init !== undefined) return init;
  throw new ExternalError({
    code: 'POD_FAILED',
    message: "the pod's namespaces could not be made",
    command: `unshare ${args.join(' ')}`,
    log: Buffer.concat(said).toString().split('\n').slice(-4),
    remedy: 'run `homeproxy check` on that host',
  });
}

async function connect(pod: PodRecord, options: PodOptions): Promise<number> {
  const network = `/proc/${pod.init.pid}/ns/net`;
  await run('ip', ['-batch', '-'], {
    input: [
      `link add ${pod.hostInterface} address ${pod.hostMac} mtu ${options.mtu} type veth peer name eth0 address ${pod.podMac} mtu ${options.mtu} netns ${pod.init.pid}`,
      `link set ${pod.hostInterface} addrgenmode none`,
      `link set ${pod.hostInterface} up`,
    ].join('\n'),
  });
  const hostIfindex = interfaceIndex(pod.hostInterface);
  const inside = run('ip', ['-batch', '-'], { network, input: insideNetwork(pod, options).join('\n') });
  inside.catch(() => undefined); // heard when the other is over
  options.onLink?.({ ...pod, hostIfindex });
  await inside;
  const node = tcpSettings();
  const link = withNetworkNamespace(network, () => {
    takeSettings(node);
    writeSettings(networkSettings(options));
    return interfaceIndex('eth0');
  });
  await Promise.all([
    localRoutes(network, options.homeAddresses.filter(isIPv6)),
    options.programs === undefined ? undefined : attachInside(network, link, options.programs),
    // A redirect by native XDP into a veth is lost unless its peer polls, which GRO switches on (veth_xdp_xmit).
    run('ethtool', ['-K', 'eth0', 'gro', 'on'], { network }),
  ]);
  return hostIfindex;
}

/** @param link the number of the pod's end of its link, in its network */
async function attachInside(network: string, link: number, programs: PodPrograms): Promise<void> {
  await run('tc', ['-batch', '-'], { network, input: insideFilters(programs, link).join('\n') });
  if (programs.classifier === 'tcx') attachEntry(programs.pins, network, link);
}

/** The kernel makes the local route of an IPv6 address in a work queue, after it has answered (addrconf_dad_work). */
async function localRoutes(network: string, addresses: readonly string[]): Promise<void> {
  const deadline = performance.now() + LOCAL_ROUTE_MS;
  for (const address of addresses) {
    while (!(await run('ip', ['-6', 'route', 'get', address], { network })).stdout.startsWith('local ')) {
      if (performance.now() > deadline) throw new BugError(`the kernel made no local route for ${address} in a pod`);
      await sleep(5);
    }
  }
}

function killInit(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    return; // gone
  }
}

function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02; // locally administered, unicast
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
