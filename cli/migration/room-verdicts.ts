import { existsSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import type { BoundPort, ProcessDescription, Verdict } from '../process/description.js';
import type { NeededFile, Needs } from '../process/needs.js';
import { type InternetSocket, readInternetSockets } from '../process/sockets.js';
import { ok, refused, willChange } from '../process/verdicts.js';
import { readProcessorFeatures } from '../system/processor.js';
import {
  listProcesses,
  type ProcessIdentity,
  readDescriptors,
  readNamespace,
  readProcess,
  readText,
} from '../system/procfs.js';
import { readUnixSockets } from '../system/unix-diag.js';
import { fileVerdicts, unverified } from './room-files.js';
import { objectVerdicts } from './shared-objects.js';

const TMPFS_MAGIC = 0x01021994; // include/uapi/linux/magic.h

export interface Room {
  /** This node is its home. */
  readonly returning: boolean;
  /** This node is being emptied. */
  readonly draining: boolean;
  /** Its files come with it. */
  readonly carried?: boolean;
}

export interface FullRoom extends Room {
  /** Where images arrive, or will: a folder that may not exist yet. */
  readonly imageRoot: string;
  /** Version of the CRIU here. */
  readonly criu: string;
}

/** What speaks against a process here, before anything is made. */
export function roomVerdicts(description: ProcessDescription, { returning, draining, carried }: Room): Verdict[] {
  return [
    ...(draining ? [beingDrained(description)] : []),
    ...(carried === true ? [] : missingFiles(description)),
    ...(returning ? [...takenPids(description), ...takenPorts(description)] : []),
  ];
}

function beingDrained({ homePid }: ProcessDescription): Verdict {
  return refused(
    'DRAINING',
    `process ${homePid}`,
    'the destination is being drained and takes no process',
    'choose another node, or run `homeproxy undrain` there',
  );
}

/** The same, and what the process needs of this node besides: files, processor, memory, privileges, versions. */
export async function fitVerdicts(
  description: ProcessDescription,
  needs: Needs,
  room: FullRoom,
  files?: { readonly verdicts: readonly Verdict[]; readonly needed: readonly NeededFile[] },
): Promise<Verdict[]> {
  const needed = files?.needed ?? needs.files;
  const known = new Set(needed.map(({ path }) => path));
  return [
    ...roomVerdicts(description, { ...room, carried: files !== undefined }).filter(
      ({ code, subject }) => code !== 'FILE_MISSING' || !known.has(subject),
    ),
    ...(room.returning ? takenTerminals(needs.terminals) : []), // elsewhere it gets terminals of its own
    ...(files?.verdicts ?? []),
    ...objectVerdicts(needs, description, room.returning),
    ...(await fileVerdicts(needed, readUnixSockets(process.pid))),
    ...unverified(needed),
    ...processorVerdicts(needs.cpuFeatures, readProcessorFeatures()),
    ...memoryVerdicts(needs, room.imageRoot),
    ...privilegeVerdicts(needs),
    ...congestionVerdicts(needs.congestionControls),
    ...versionVerdicts(needs.criu, room.criu),
  ];
}

/** `shared` files: the same paths must exist here. */
function missingFiles(description: ProcessDescription): Verdict[] {
  return description.executables
    .filter((path) => !path.endsWith(' (deleted)') && !existsSync(path))
    .map((path) =>
      refused(
        'FILE_MISSING',
        path,
        'the process runs this file, and the destination does not have it',
        'install the same package there, at the same path',
      ),
    );
}

function takenPids({ pids, numbers }: ProcessDescription): Verdict[] {
  return [...pids, ...numbers].flatMap((pid) => {
    const holder = readProcess(pid);
    if (holder === undefined) return [];
    if (holder.state === 'Z' && pids.includes(pid)) return [notWaitedFor(holder)];
    return refused(
      'PID_TAKEN',
      `pid ${pid}`,
      `at home this number now belongs to ${holder.comm}`,
      'end that process, or leave this one where it is',
    );
  });
}

/** What has left leaves a zombie behind as long as its parent, which stayed, does not ask for its end (wait(2)). */
function notWaitedFor({ pid, comm, parent }: ProcessIdentity): Verdict {
  return refused(
    'PID_TAKEN',
    `pid ${pid}`,
    `at home this number still belongs to a zombie (${comm}), for whose end its parent, pid ${parent} (${readProcess(parent)?.comm ?? '?'}), has not asked`,
    'let that parent wait for its children, or end it',
  );
}

/** A terminal's number that somebody at home got while it was free. */
function takenTerminals(numbers: readonly number[]): Verdict[] {
  return numbers
    .map((number) => `/dev/pts/${number}`)
    .filter((path) => existsSync(path))
    .map((path) =>
      refused(
        'TERMINAL_TAKEN',
        path,
        `at home this number now belongs to a terminal of ${holderOf(path)}, and a terminal cannot change its own`,
        'log out there, or end that program; until then leave this process where it is',
      ),
    );
}

/** Who has a file open, as this node's processes see it: in a pod or container the same path is another file. */
function holderOf(path: string): string {
  const holder = listProcesses().find(
    (pid) =>
      readNamespace(pid, 'mnt') === readNamespace('self', 'mnt') &&
      readDescriptors(pid).some(({ target }) => target === path),
  );
  return holder === undefined ? 'another process' : `pid ${holder} (${readProcess(holder)?.comm ?? '?'})`;
}

/** A port at home that somebody bound while its owner was away: it cannot be bound again. */
function takenPorts({ ports, listening }: ProcessDescription): Verdict[] {
  const sockets = readInternetSockets('self');
  const here = new Set(sockets.map(({ cookie }) => cookie));
  // one that stayed here is there for it; when all who had it have ended, the port is free, or another's
  const anew = listening.filter(({ cookie }) => cookie === undefined || !here.has(cookie)).map(({ port }) => port);
  const needed = ({ protocol, port, exclusive }: BoundPort): boolean =>
    exclusive || (protocol === 'tcp' && anew.includes(port));
  return ports
    .filter((port) => needed(port) && sockets.some((socket) => occupies(socket, port)))
    .map(({ protocol, port, address }) =>
      refused(
        'PORT_TAKEN',
        `port ${protocol} ${port}`,
        `at home another process has bound it meanwhile, at ${address} or at all addresses`,
        'end that process, or leave this one where it is',
      ),
    );
}

function occupies({ transport, state, local, inode }: InternetSocket, { protocol, port, address }: BoundPort): boolean {
  if (inode === 0 || local.port !== port || !transport.startsWith(protocol)) return false;
  if (protocol === 'tcp' && state !== 'LISTEN') return false;
  const six = address.includes(':');
  if (local.address === '0.0.0.0') return !six;
  if (local.address === '0:0:0:0:0:0:0:0') return six;
  return sameAddress(local.address, address);
}

/** /proc prints IPv6 addresses as eight groups, descriptions have them short. */
function sameAddress(one: string, other: string): boolean {
  return one === other || (one.includes(':') && other.includes(':') && normal(one) === normal(other));
}

function normal(address: string): string {
  return new URL(`http://[${address}]/`).hostname;
}

/** A program finds out at its start what its processor can do, and goes on using it: one that lacks it kills the program later. */
export function processorVerdicts(needed: readonly string[], here: readonly string[]): Verdict[] {
  const has = new Set(here);
  const lacking = needed.filter((feature) => !has.has(feature));
  if (lacking.length === 0) return [ok('CPU', 'processor', 'it has every instruction set that the process may use')];
  return [
    refused(
      'CPU_FEATURES',
      'processor',
      `the destination's processors lack ${lacking.join(', ')}, which the process may use since its start`,
      'choose a host with the same processors or newer ones',
    ),
  ];
}

/** Images arrive in a folder, often on a tmpfs, and become memory while they are still there. */
function memoryVerdicts({ memoryBytes, hugeBytes }: Needs, imageRoot: string): Verdict[] {
  const verdicts: Verdict[] = [];
  const { type, bavail, bsize } = statfsSync(existingPart(imageRoot));
  const meminfo = readText('/proc/meminfo') ?? '';
  const kilobytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(meminfo)?.[1] ?? 0);
  const needed = type === TMPFS_MAGIC ? 2 * memoryBytes : memoryBytes;
  const free = kilobytes('MemAvailable') * 1024;
  if (needed > free) {
    verdicts.push(
      refused(
        'NO_MEMORY',
        'memory',
        `the process needs ${mebibytes(needed)} there while it arrives, and ${mebibytes(free)} are free`,
        'choose a host with more memory',
      ),
    );
  }
  if (memoryBytes > bavail * bsize) {
    verdicts.push(
      refused(
        'NO_ROOM',
        imageRoot,
        `the images of the process take ${mebibytes(memoryBytes)}, and there is no room for them: ${mebibytes(bavail * bsize)} are free`,
        'make room there, or set paths.run to a larger file system',
      ),
    );
  }
  const hugeFree = kilobytes('HugePages_Free') * kilobytes('Hugepagesize') * 1024;
  if (hugeBytes > hugeFree) {
    verdicts.push(
      refused(
        'NO_HUGE_PAGES',
        'memory',
        `the process has ${mebibytes(hugeBytes)} in huge pages, and ${mebibytes(hugeFree)} of such are free there`,
        'set vm.nr_hugepages there',
      ),
    );
  }
  if (verdicts.length === 0) verdicts.push(ok('MEMORY', 'memory', `${mebibytes(memoryBytes)} of its own fit`));
  return verdicts;
}

function existingPart(path: string): string {
  let part = path;
  while (!existsSync(part) && part !== '/') part = part.slice(0, part.lastIndexOf('/')) || '/';
  return part;
}

function mebibytes(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

/**
 * CRIU gives a process what it had, and can give no more than this daemon has.
 * @param status of this daemon, as in /proc/<pid>/status
 */
export function privilegeVerdicts(
  { capabilities, seccomp, ipv6 }: Pick<Needs, 'capabilities' | 'seccomp' | 'ipv6'>,
  status = readText('/proc/self/status') ?? '',
  hasIpv6 = existsSync('/proc/net/if_inet6'),
): Verdict[] {
  const own = BigInt(`0x${/^CapPrm:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const lacking = BigInt(`0x${capabilities || '0'}`) & ~own;
  const verdicts: Verdict[] = [];
  const lacks = (what: string, why: string, remedy: string): void => {
    verdicts.push(refused('FEATURE_MISSING', what, why, remedy));
  };
  if (lacking !== 0n) {
    verdicts.push(
      refused(
        'CAPABILITIES',
        'capabilities',
        `the process has capabilities that the destination's daemon lacks and cannot give (0x${lacking.toString(16)}; \`capsh --decode\`)`,
        'let the daemon there have all capabilities of root',
      ),
    );
  }
  if (seccomp && !/^Seccomp:/m.test(status)) {
    lacks(
      'seccomp',
      'seccomp filters the process, and the kernel there has none',
      'use a kernel with CONFIG_SECCOMP_FILTER',
    );
  }
  if (seccomp && /^Seccomp:\s*[12]/m.test(status)) {
    lacks(
      'seccomp',
      'seccomp filters the daemon there, which then may not give a process its filter',
      'take the filter from that service',
    );
  }
  if (ipv6 && !hasIpv6) {
    lacks('IPv6', 'the process has IPv6 sockets, and the destination has no IPv6', 'switch IPv6 on there');
  }
  return verdicts;
}

/** A missing one is no reason to stay: its connections go on with the one that is usual there. */
export function congestionVerdicts(needed: readonly string[]): Verdict[] {
  const available = (readText('/proc/sys/net/ipv4/tcp_available_congestion_control') ?? '').trim().split(/\s+/);
  const modules = readText(`/lib/modules/${release()}/modules.dep`) ?? '';
  return needed
    .filter((name) => !available.includes(name) && !modules.includes(`/tcp_${name}.ko`)) // the kernel loads it when it is set
    .map((name) =>
      willChange(
        'SOCKET_OPTION',
        `TCP_CONGESTION ${name}`,
        'the kernel there does not have this congestion control: connections go on with the usual one',
        `load tcp_${name} there`,
      ),
    );
}

/** CRIU reads the images of older versions; the other way round nobody promises. */
export function versionVerdicts(there: string, here: string): Verdict[] {
  const [source, destination] = [there, here].map((version) => version.split('.').map(Number));
  for (const [index, number] of (source ?? []).entries()) {
    if (index > 1 || number === destination?.[index]) continue;
    if (!(number > (destination?.[index] ?? 0))) break;
    return [
      willChange(
        'CRIU_OLDER',
        'CRIU',
        `version ${here} restores what version ${there} saves: it may not know all of it, and the move goes back then`,
        'install the same version of CRIU on both',
      ),
    ];
  }
  return [];
}
