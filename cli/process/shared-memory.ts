import { closeSync, constants, lstatSync, openSync, readdirSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { openBeneath } from '../../addon/lib/index.js';
import { listProcesses, type OpenDescriptor, readDescriptors, readProcess, readText } from '../system/procfs.js';
import type { Verdict } from './description.js';
import { statOf } from './memory-map.js';
import type { Holder } from './sockets.js';
import { isStranger } from './strangers.js';
import { count, refused, willChange } from './verdicts.js';

/** Where glibc and others keep POSIX shared memory and named semaphores: files of a tmpfs (shm_overview(7), sem_overview(7)). */
export const SHARED_MEMORY = '/dev/shm';
const OBJECT = /^\/dev\/shm\/[^/]+$/;
const DEEPER = /^\/dev\/shm\/[^/]+\/.+$/;
/** Of a CRIU that gives a name back to a file that has lost the one by which it was opened (--link-remap). */
export const LINK_REMAP = /^link_remap\.\d+$/;

/** What a file is to the kernel, whatever its names. */
export interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

/** A POSIX shared-memory object or named semaphore that a tree uses: it has it open or in its memory. */
export interface SharedObject extends FileIdentity {
  readonly names: readonly string[];
  /** What it takes of memory, in bytes. */
  readonly stored: number;
  readonly mapped: boolean;
  /** Some process opened it by a name that is gone: so does the one that makes a named semaphore (sem_open(3) of glibc). */
  readonly nameLost: boolean;
  /** One of the entries in /proc that lead to the very file; undefined: nobody uses it now, and it is found by its name. */
  readonly entry: string | undefined;
}

export interface SharedMemoryFindings {
  readonly objects: readonly SharedObject[];
  readonly verdicts: readonly Verdict[];
}

/**
 * The objects in /dev/shm that a tree uses. One that somebody outside the tree uses too is refused; what a process neither has open nor
 * in its memory, nobody can know for its own: in a pod, all are.
 * @param pids the root first
 */
export function sharedMemoryFindings(pids: readonly number[], inPod = false): SharedMemoryFindings {
  const [root = 0] = pids;
  const objects = sharedObjects(pids, inPod);
  const deeper = new Set(pids.flatMap((pid) => usedBy(pid, DEEPER)).map(({ path }) => path));
  if (deeper.size > 0) return { objects, verdicts: [...deeper].map(inFolder) };
  if (objects.length === 0) return { objects, verdicts: [] };
  const members = new Set(pids);
  const strangers = listProcesses().filter((pid) => !members.has(pid));
  const shared = objects.flatMap((object) => {
    const stranger = strangers.find((pid) => uses(pid, object) && isStranger(pid, members));
    return stranger === undefined ? [] : [sharedWith(object, stranger)];
  });
  return { objects, verdicts: shared.length > 0 ? shared : [goesAlong(root, objects)] };
}

/**
 * Those that have a name: one without travels in CRIU's images.
 * @param pids the root first
 * @param sockets descriptors of theirs that are known to be none
 */
export function sharedObjects(pids: readonly number[], inPod = false, sockets: readonly Holder[] = []): SharedObject[] {
  const used = pids.flatMap((pid) => {
    const known = sockets.filter((socket) => socket.pid === pid).map(({ fd }) => fd);
    return usedBy(pid, OBJECT, new Set(known));
  });
  if (used.length === 0 && !inPod) return [];
  return inSharedMemory(pids[0], (folder) => objectsIn(folder, used, inPod)) ?? [];
}

function objectsIn(folder: string, used: readonly Use[], all: boolean): SharedObject[] {
  const found = new Map<string, SharedObject>();
  const files = namedFiles(folder);
  const rest = files.map(([name]) => ({ path: `${SHARED_MEMORY}/${name}`, entry: join(folder, name), mapped: false }));
  for (const { path, entry, mapped } of all ? [...used, ...rest] : used) {
    const stats = rest.some((file) => file.entry === entry) ? lookAt(entry) : statOf(entry);
    if (stats === undefined || !stats.isFile() || stats.nlink === 0) continue;
    const { dev, ino } = stats;
    const known = found.get(identityOf(stats));
    const names =
      known?.names ?? files.filter(([, file]) => identityOf(file) === identityOf(stats)).map(([name]) => name);
    if (names.length === 0) continue;
    const nameLost = known?.nameLost === true || path.endsWith(' (deleted)');
    const stored = stats.blocks * 512;
    found.set(identityOf(stats), {
      dev,
      ino,
      names,
      stored,
      mapped: mapped || known?.mapped === true,
      nameLost,
      entry: known?.entry ?? (used.some((use) => use.entry === entry) ? entry : undefined),
    });
  }
  return [...found.values()];
}

export function identityOf({ dev, ino }: FileIdentity): string {
  return `${dev}:${ino}`;
}

/**
 * Calls `act` with a path at which a process's /dev/shm can be reached, itself no link that somebody has put there.
 * @returns undefined when it has none
 */
export function inSharedMemory<Result>(pid: number | undefined, act: (folder: string) => Result): Result | undefined {
  const folder = folderOf(pid);
  if (folder === undefined) return undefined;
  try {
    return act(`/proc/self/fd/${folder}`);
  } finally {
    closeSync(folder);
  }
}

function folderOf(pid: number | undefined): number | undefined {
  let root: number | undefined;
  try {
    root = openSync(`/proc/${pid}/root`, 'r');
    return openBeneath(root, SHARED_MEMORY.slice(1), constants.O_RDONLY | constants.O_DIRECTORY);
  } catch {
    return undefined; // or the process has ended
  } finally {
    if (root !== undefined) closeSync(root);
  }
}

/** The names of a file in a folder. */
export function namesOf(folder: string, object: FileIdentity): string[] {
  const files = namedFiles(folder).filter(([, stats]) => identityOf(stats) === identityOf(object));
  return files.map(([name]) => name);
}

function namedFiles(folder: string): [name: string, stats: Stats][] {
  return readdirSync(folder)
    .sort()
    .flatMap((name): [string, Stats][] => {
      const stats = lookAt(join(folder, name));
      return stats?.isFile() === true ? [[name, stats]] : [];
    });
}

/** A link is followed nowhere. */
function lookAt(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch {
    return undefined; // gone meanwhile
  }
}

interface Use {
  readonly path: string;
  readonly entry: string;
  readonly mapped: boolean;
}

/** What a process has there in its memory or open, by the names under which it came to it. */
function usedBy(pid: number, kind: RegExp, except?: ReadonlySet<number>): Use[] {
  const inMemory = mappingsOf(pid).map(({ path, range }) => ({
    path,
    entry: `/proc/${pid}/map_files/${range}`,
    mapped: true,
  }));
  const open = descriptorsOf(pid, except).map(({ fd, target }) => ({
    path: target,
    entry: `/proc/${pid}/fd/${fd}`,
    mapped: false,
  }));
  return [...inMemory, ...open].filter(({ path }) => kind.test(path));
}

interface FileMapping {
  /** As map_files names it: without leading zeros (proc_map_files_lookup). */
  readonly range: string;
  readonly device: string;
  readonly ino: number;
  readonly path: string;
}

/** Mappings of files whose names say that they might be such objects, wherever that process has them mounted. */
function mappingsOf(pid: number): FileMapping[] {
  const lines = textOf(`/proc/${pid}/maps`).matchAll(/^0*(\S+)-0*(\S+) \S+ \S+ (\S+) (\d+) +(\/.*shm\/.+)$/gm);
  return [...lines].map(([, from, to, device = '', ino, path = '']) => ({
    range: `${from}-${to}`,
    device,
    ino: Number(ino),
    path,
  }));
}

function uses(pid: number, { dev, ino }: FileIdentity): boolean {
  const device = deviceText(dev);
  if (mappingsOf(pid).some((mapping) => mapping.ino === ino && mapping.device === device)) return true;
  return descriptorsOf(pid)
    .filter(({ target }) => target.includes('shm/'))
    .map(({ fd }) => statOf(`/proc/${pid}/fd/${fd}`))
    .some((stats) => stats?.ino === ino && stats.dev === dev);
}

/** A device as proc(5) writes it in maps; as stat(2) does it in `st_dev` (include/linux/kdev_t.h, new_encode_dev). */
function deviceText(dev: number): string {
  const numbers = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >>> 12) & 0xfff00)];
  return numbers.map((number) => number.toString(16).padStart(2, '0')).join(':');
}

/** As {@link textOf}. */
function descriptorsOf(pid: number, except?: ReadonlySet<number>): OpenDescriptor[] {
  try {
    return readDescriptors(pid, except);
  } catch {
    return [];
  }
}

/** Nothing of a process that has ended, or that nobody may look into. */
function textOf(path: string): string {
  try {
    return readText(path) ?? '';
  } catch {
    return '';
  }
}

function sharedWith({ names: [name] }: SharedObject, stranger: number): Verdict {
  return refused(
    'SHM_SHARED',
    `${SHARED_MEMORY}/${name}`,
    `pid ${stranger} (${readProcess(stranger)?.comm ?? '?'}), outside the process, uses it too, and it cannot be in two places`,
    'move the process that started both, or end the other one',
  );
}

function inFolder(path: string): Verdict {
  return refused(
    'SHM_FOLDER',
    path,
    `it uses a file in a folder of ${SHARED_MEMORY}; only what is in ${SHARED_MEMORY} itself can go with it`,
    'let it use another name, or another folder',
  );
}

function goesAlong(root: number, objects: readonly SharedObject[]): Verdict {
  const names = objects.map(({ names: [name] }) => name).join(', ');
  return willChange(
    'SHM_OBJECTS',
    `pid ${root}`,
    `its ${count(objects.length, 'object')} in ${SHARED_MEMORY} (${names}) go with it; what it neither has open nor in its memory stays`,
  );
}
