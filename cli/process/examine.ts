import { readProcessorFeatures } from '../system/processor.js';
import { readLink, readProcess } from '../system/procfs.js';
import { readUnixSockets } from '../system/unix-diag.js';
import type { ProcessDescription, Verdict } from './description.js';
import { ownTerminals, type TreeDescriptor } from './descriptor-verdicts.js';
import { fileHashes } from './file-hash.js';
import { mappedFileFindings, openFileFindings } from './file-verdicts.js';
import { foreignMemoryVerdicts } from './foreign-memory.js';
import { endedMeanwhile, type InspectOptions, inspectProcess, requireThere } from './inspect.js';
import { type MappedFile, readMappedFiles, statOf } from './memory-map.js';
import { type Moving, type NeededFile, type Needs, SETTLED_MS } from './needs.js';
import { relationVerdicts } from './session-verdicts.js';
import { sharedDescriptorVerdicts } from './shared-descriptors.js';
import { identityOf, type SharedObject, sharedMemoryFindings } from './shared-memory.js';
import { congestionControls } from './socket-options.js';
import { readSocketDefaults, surveyTree } from './socket-survey.js';
import { optionVerdicts, socketVerdicts } from './socket-verdicts.js';
import { readSignedSockets } from './sockets.js';
import { sysvFindings } from './sysv.js';
import { type TaskFindings, taskFindings } from './task-verdicts.js';
import { unixVerdicts } from './unix-verdicts.js';
import { count, ok } from './verdicts.js';

/** An open file that is larger than this, or a mapped one without code, is compared by its size alone. */
const MAX_HASHED_DATA_BYTES = 64 << 20;

export interface Examination {
  readonly description: ProcessDescription;
  readonly verdicts: readonly Verdict[];
  readonly moving: Moving;
  /** All that the destination must have; its `criu` is for the caller to say. */
  readonly needs: Omit<Needs, 'criu'>;
}

/**
 * Everything that can be found out about a tree without stopping it or changing anything about it: reads /proc and the kernel's
 * tables of sockets, asks its sockets for their options, and hashes the files that it has mapped. Nothing traces or signals it.
 * @throws {UserError} as {@link inspectProcess}; `NO_SUCH_PROCESS` also when it ends meanwhile
 */
export async function examineProcess(pid: number, options: InspectOptions): Promise<Examination> {
  let found: Examination;
  try {
    found = await examine(pid, options);
  } catch (failure) {
    throw endedMeanwhile(pid, failure);
  }
  requireThere(pid); // the last that was looked at may be what no file of its own is needed for
  return found;
}

async function examine(pid: number, options: InspectOptions): Promise<Examination> {
  const { description, verdicts, localPids, seen } = inspectProcess(pid, options);
  const { descriptors, holders, ours, heldOutside, alike } = seen;
  const tasks = taskFindings(localPids);
  const mapped = readMappedFiles(localPids);
  const sysv = await sysvFindings(localPids);
  const shared = sharedMemoryFindings(localPids, options.inPod === true);
  const apart = new Set(shared.objects.map(identityOf));
  const opened = openFileFindings(descriptors, heldOutside, apart);
  const inMemory = mappedFileFindings(mapped.files, apart);
  const unixSockets = readUnixSockets(pid);
  const unix = unixVerdicts(unixSockets, holders, (inode) => nameOf(heldOutside.get(`socket:[${inode}]`)?.pid));
  const unixInodes = new Set(unixSockets.map(({ inode }) => inode).filter((inode) => holders.has(inode)));
  const files = unique([
    ...(await hashed(inMemory.needed, mapped.files)),
    ...(await compared(opened.needed, descriptors)),
    ...unix.files,
    ...folders(localPids),
  ]);
  const surveyed = await surveyTree(localPids, readSocketDefaults(pid));
  const all = [
    ...verdicts,
    ...relationVerdicts(localPids, options.inPod === true),
    ...tasks.verdicts,
    ...mapped.verdicts,
    ...sysv.verdicts,
    ...shared.verdicts,
    ...opened.verdicts,
    ...inMemory.verdicts,
    ...foreignMemoryVerdicts(localPids),
    ...(await sharedDescriptorVerdicts(descriptors, alike, apart)),
    ...unix.verdicts,
    ...socketVerdicts(ours, holders, unixInodes, readSignedSockets(pid)),
    ...optionVerdicts(surveyed),
  ];
  const moving: Moving = {
    processes: localPids.length,
    threads: tasks.threads,
    memoryBytes: tasks.memoryBytes,
    listeners: description.listeners,
    connections: description.connections,
    datagramSockets: ours.filter(({ transport }) => transport.startsWith('udp')).length,
    unixSockets: unixInodes.size,
    pipes: new Set(descriptors.map(({ target }) => target).filter((target) => target.startsWith('pipe:'))).size,
    openFiles: opened.needed.length,
    mappedFiles: mapped.files.length,
  };
  return {
    description,
    verdicts: [...all, ...wellIn(description, moving, all)],
    moving,
    needs: needsOf(
      tasks,
      files,
      ours.some(({ transport }) => transport.endsWith('6')),
      congestionControls(surveyed.flatMap(({ options }) => options)),
      ownTerminals(descriptors),
      shared.objects,
    ),
  };
}

function needsOf(
  tasks: TaskFindings,
  files: readonly NeededFile[],
  ipv6: boolean,
  congestionControls: string[],
  terminals: number[],
  objects: readonly SharedObject[],
): Omit<Needs, 'criu'> {
  return {
    files: [...files],
    cpuFeatures: readProcessorFeatures(),
    capabilities: tasks.capabilities.toString(16),
    seccomp: tasks.seccomp,
    ipv6,
    congestionControls,
    memoryBytes: objects.reduce((sum, { mapped, stored }) => sum + (mapped ? 0 : stored), tasks.memoryBytes),
    hugeBytes: tasks.hugeBytes,
    terminals,
    sharedMemory: objects.map(({ names, stored }) => ({ names: [...names], bytes: stored })),
  };
}

/** What was looked at and is in order. */
function wellIn({ homePid, comm }: ProcessDescription, moving: Moving, found: readonly Verdict[]): Verdict[] {
  const refused = (pattern: RegExp): boolean =>
    found.some(({ outcome, code }) => outcome === 'refused' && pattern.test(code));
  const { processes, threads, listeners, connections, datagramSockets, unixSockets, openFiles, mappedFiles } = moving;
  const verdicts: Verdict[] = [];
  if (!refused(/NAMESPACE|TRACED|SESSION/)) {
    verdicts.push(
      ok(
        'PROCESSES',
        `pid ${homePid} (${comm})`,
        `${processes === 1 ? '1 process' : `${processes} processes`} with ${count(threads, 'thread')}`,
      ),
    );
  }
  const sockets = [
    count(listeners, 'listener'),
    count(connections, 'connection'),
    count(datagramSockets, 'UDP socket'),
    count(unixSockets, 'unix socket'),
  ].filter((words) => !words.startsWith('0 '));
  if (sockets.length > 0 && !refused(/SOCKET|LISTENER|CONNECTION|MPTCP|SCTP|KTLS|ADDRESS|MULTICAST|UDP|UNIX/)) {
    verdicts.push(
      ok(
        'SOCKETS',
        `pid ${homePid} (${comm})`,
        `${sockets.join(', ')}; what an ioctl has changed about them nobody can see`,
      ),
    );
  }
  if (!refused(/FILE|DEVICE|MEMORY/)) {
    verdicts.push(ok('FILES', `pid ${homePid} (${comm})`, `${openFiles} open, ${mappedFiles} mapped`));
  }
  return verdicts;
}

function nameOf(pid: number | undefined): string | undefined {
  return pid === undefined ? undefined : `pid ${pid} (${readProcess(pid)?.comm ?? '?'})`;
}

/** The content of what processes run, or have mapped as it is in the file: two versions of a library in one process crash it. */
async function hashed(needed: readonly NeededFile[], mapped: readonly MappedFile[]): Promise<NeededFile[]> {
  const byPath = new Map(mapped.map((file) => [file.path, file]));
  return Promise.all(
    needed.map(async (file) => {
      const source = byPath.get(file.path);
      if (file.use !== 'mapped' || source === undefined) return file;
      if (!source.code && (file.bytes ?? 0) > MAX_HASHED_DATA_BYTES) return { ...file, use: 'open' as const };
      return { ...file, ...(await hashOf(`/proc/${source.pid}/root${file.path}`)) };
    }),
  );
}

/**
 * The content of what they have open, written or not, where that can be compared: of a file that is being written two looks would
 * differ, and a large one would take too long. The destination says which those are.
 */
async function compared(needed: readonly NeededFile[], descriptors: readonly TreeDescriptor[]): Promise<NeededFile[]> {
  const holder = new Map(descriptors.map(({ pid, target }) => [target, pid]));
  return Promise.all(
    needed.map(async (file) => {
      const { path, use, bytes = 0 } = file;
      if (use !== 'open') return file;
      const source = `/proc/${holder.get(path)}/root${path}`;
      const changedAtMs = statOf(source)?.mtimeMs;
      if (changedAtMs === undefined) return file;
      if (Date.now() - changedAtMs < SETTLED_MS) return { ...file, changedAtMs };
      const { sha256 } = bytes > MAX_HASHED_DATA_BYTES ? {} : await hashOf(source);
      return sha256 === undefined ? file : { ...file, changedAtMs, sha256 };
    }),
  );
}

/** Nothing when it is gone from there, or the process has ended: the destination compares what is known. */
async function hashOf(path: string): Promise<{ readonly sha256?: string }> {
  try {
    return { sha256: await fileHashes.sha256(path) };
  } catch {
    return {};
  }
}

/** Where the processes stand: their working and root directories. Of a deleted one CRIU makes a copy, as of a file. */
function folders(pids: readonly number[]): NeededFile[] {
  return pids.flatMap((pid) =>
    ['cwd', 'root'].flatMap((link): NeededFile[] => {
      const path = readLink(`/proc/${pid}/${link}`);
      if (path === undefined) return [];
      const gone = path.endsWith(' (deleted)');
      return [{ path: path.replace(/ \(deleted\)$/, ''), use: gone ? 'ghost' : 'folder' }];
    }),
  );
}

/** The first of each path: content counts for more than size. */
function unique(files: readonly NeededFile[]): NeededFile[] {
  const byPath = new Map<string, NeededFile>();
  for (const file of files) if (!byPath.has(file.path)) byPath.set(file.path, file);
  return [...byPath.values()];
}
