import { statfsSync } from 'node:fs';
import { readNamespace, readText } from '../system/procfs.js';
import type { Verdict } from './description.js';
import { foreignPipe, type TreeDescriptor } from './descriptor-verdicts.js';
import { storedBytes } from './file-hash.js';
import { type MappedFile, statOf } from './memory-map.js';
import type { NeededFile } from './needs.js';
import { openFileOf } from './open-file.js';
import { identityOf } from './shared-memory.js';
import type { Holder } from './sockets.js';
import { NAMESPACES } from './task-verdicts.js';
import { count, refused, willChange } from './verdicts.js';

/** What CRIU copies of a deleted file, in bytes: its --ghost-limit. */
export const GHOST_LIMIT_BYTES = 16 << 20;
const MQUEUE_MAGIC = 0x19800202; // include/uapi/linux/magic.h
/** Linux allocated devices (Documentation/admin-guide/devices.txt). */
const MEMORY_MAJOR = 1;
const HARMLESS_MEMORY = new Set([3, 5, 7, 8, 9, 11]); // null, zero, full, random, urandom, kmsg
const isTerminal = (major: number): boolean => major === 4 || major === 5 || (major >= 128 && major <= 143);
/** Kernel file systems, whose files are there wherever Linux is, under the pids of the pod. */
const EVERYWHERE = /^\/(proc|sys)(\/|$)/;
const TERMINAL = /^\/dev\/(pts\/|ptmx$|tty|console$)/;

const isNamedFile = (target: string): boolean =>
  target.startsWith('/') && !target.startsWith('/memfd:') && !TERMINAL.test(target);

export interface FileFindings {
  readonly verdicts: Verdict[];
  readonly needed: NeededFile[];
}

/** Open files, devices and folders of a tree. @param apart files that are judged apart, by {@link identityOf} */
export function openFileFindings(
  descriptors: readonly TreeDescriptor[],
  heldOutside: ReadonlyMap<string, Holder>,
  apart: ReadonlySet<string> = new Set(),
): FileFindings {
  const verdicts: Verdict[] = [];
  const needed = new Map<string, NeededFile>();
  const members = new Set(descriptors.map(({ pid }) => pid));
  for (const descriptor of descriptors) {
    const { pid, fd, target } = descriptor;
    const subject = `fd ${fd} of pid ${pid}`;
    if (target === 'anon_inode:[pidfd]') verdicts.push(...pidfdVerdicts(descriptor, members));
    else if (target === 'anon_inode:inotify') verdicts.push(...inotifyVerdicts(descriptor));
    else if (target === 'anon_inode:[fanotify]') verdicts.push(...fanotifyVerdicts(descriptor));
    else if (/^[a-z]+:\[\d+\]$/.test(target)) verdicts.push(...namespaceVerdicts(descriptor));
    if (!isNamedFile(target)) continue;
    const open = openFileOf(pid, fd);
    if (open === undefined || !isNamedFile(open.target)) continue; // closed meanwhile
    const { stats } = open;
    if (apart.has(identityOf(stats))) continue;
    const path = open.target.replace(/ \(deleted\)$/, '');
    const { mode, size: bytes } = stats;
    if (stats.isCharacterDevice() || stats.isBlockDevice()) {
      const verdict = deviceVerdict(path, subject, stats.rdev, stats.isBlockDevice());
      if (verdict === undefined) needed.set(path, { path, use: 'special', mode });
      else verdicts.push(verdict);
    } else if (EVERYWHERE.test(path)) continue;
    else if (stats.isFIFO()) {
      verdicts.push(...foreignPipe(open.target, subject, heldOutside));
      needed.set(path, { path, use: 'special', mode });
    } else if (stats.nlink === 0) verdicts.push(...ghost(path, subject, storedBytes(stats), needed));
    else if (stats.isFile() || stats.isDirectory()) {
      const verdict = unreachable(descriptor, path, stats);
      if (verdict !== undefined) verdicts.push(verdict);
      else needed.set(path, stats.isFile() ? { path, use: 'open', bytes, mode } : { path, use: 'folder' });
    }
  }
  return { verdicts, needed: [...needed.values()] };
}

/** Files that the processes have mapped; their content is compared later, by its hash. */
export function mappedFileFindings(files: readonly MappedFile[], apart: ReadonlySet<string> = new Set()): FileFindings {
  const verdicts: Verdict[] = [];
  const needed = new Map<string, NeededFile>();
  for (const file of files) {
    const stats = statOf(file.entry);
    if (stats === undefined || apart.has(identityOf(stats))) continue; // or unmapped meanwhile
    const { path } = file;
    if (stats.nlink === 0) verdicts.push(...ghost(path, `memory of pid ${file.pid}`, storedBytes(stats), needed));
    else if (file.deleted) verdicts.push(lostName(file));
    else if (stats.isFile()) {
      needed.set(path, { path, use: file.written ? 'open' : 'mapped', bytes: stats.size, mode: stats.mode });
    }
  }
  return { verdicts, needed: [...needed.values()] };
}

/** CRIU would have to open it by a name that it has no more (it can, with --link-remap, where source and destination share their files). */
function lostName({ path, pid }: MappedFile): Verdict {
  return refused(
    'FILE_UNREACHABLE',
    `memory of pid ${pid}`,
    `it has ${path} in its memory, which has lost that name but has another`,
    'let the program open its file anew (most do on a reload)',
  );
}

/** A deleted file travels in the image; CRIU makes it at its old path for a moment, to open it. */
function ghost(path: string, subject: string, stored: number, needed: Map<string, NeededFile>): Verdict[] {
  if (stored > GHOST_LIMIT_BYTES) {
    return [
      refused(
        'DELETED_FILE',
        subject,
        `${path} was deleted or replaced while it is in use, and at ${Math.ceil(stored / 2 ** 20)} MiB it is too large to travel as a copy (${GHOST_LIMIT_BYTES / 2 ** 20} MiB)`,
        'let the program close it: an upgraded program wants a restart',
      ),
    ];
  }
  needed.set(path, { path, use: 'ghost' });
  return [
    willChange(
      'DELETED_FILE',
      subject,
      `${path} was deleted or replaced while it is in use: the old content goes with the process`,
    ),
  ];
}

/** CRIU opens files by their paths: what a path leads to must be the very file. */
function unreachable(
  { pid, fd }: TreeDescriptor,
  path: string,
  stats: { dev: number; ino: number },
): Verdict | undefined {
  const subject = `fd ${fd} of pid ${pid}`;
  const there = statOf(`/proc/${pid}/root${path}`);
  if (there !== undefined && there.ino === stats.ino && there.dev === stats.dev) return undefined;
  if (there === undefined && statfsSync(`/proc/${pid}/fd/${fd}`).type === MQUEUE_MAGIC) {
    return refused(
      'POSIX_QUEUE',
      subject,
      `it has the POSIX message queue ${path} open, which belongs to this machine`,
      'let the program close it, or leave the program where it is',
    );
  }
  return refused(
    'FILE_UNREACHABLE',
    subject,
    there === undefined
      ? `it has ${path} open, which has lost that name but has another`
      : `it has a file open that was ${path}, where another one is now`,
    'let the program open its file anew (most do on a reload)',
  );
}

function deviceVerdict(path: string, subject: string, rdev: number, block: boolean): Verdict | undefined {
  const major = ((rdev >> 8) & 0xfff) | 0; // include/linux/kdev_t.h, new_encode_dev
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  if (!block && major === MEMORY_MAJOR && HARMLESS_MEMORY.has(minor)) return undefined;
  if (!block && isTerminal(major)) return undefined; // judged by its name
  return refused(
    'DEVICE',
    subject,
    `it has the device ${path} open (${block ? 'block' : 'character'} ${major}:${minor}), which stays with this machine`,
    'leave the program where its device is, or let it close the device',
  );
}

/** CRIU carries a pidfd of the tree, or of a process that was reaped (`Pid: -1`). */
function pidfdVerdicts({ pid, fd }: TreeDescriptor, members: ReadonlySet<number>): Verdict[] {
  const of = Number(/^Pid:\s*(-?\d+)$/m.exec(readText(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1] ?? -1);
  if (of < 0 || members.has(of)) return [];
  return [
    refused(
      'FOREIGN_PIDFD',
      `fd ${fd} of pid ${pid}`,
      `it holds a pidfd of pid ${of}, which is not in its tree`,
      'move the process that both come from, or let the program close it',
    ),
  ];
}

/** CRIU knows its own namespaces and the tree's. */
function namespaceVerdicts({ pid, fd, target }: TreeDescriptor): Verdict[] {
  const kind = NAMESPACES.find((name) => target.startsWith(`${name}:`));
  if (kind === undefined || [pid, 'self' as const].some((whose) => readNamespace(whose, kind) === target)) return [];
  return [
    refused(
      'FOREIGN_NAMESPACE',
      `fd ${fd} of pid ${pid}`,
      `it holds the namespace ${target}, in which none of its processes is`,
      'let the program close it, or leave the program where it is',
    ),
  ];
}

/** CRIU finds a watched file by the handle in fdinfo, which file systems without such handles (proc, sys, some FUSE) do not have. */
function inotifyVerdicts({ pid, fd }: TreeDescriptor): Verdict[] {
  const subject = `fd ${fd} of pid ${pid}`;
  const watches = marksOf({ pid, fd }, 'inotify wd:');
  if (watches.length === 0) return [];
  if (watches.some((line) => !hasOpenableHandle(line))) {
    return [
      refused(
        'INOTIFY',
        subject,
        'it watches a file (inotify) of a file system that gives out no handles, such as /proc: CRIU does not find it again',
        'let the program poll that file instead',
      ),
    ];
  }
  return [
    willChange(
      'INOTIFY',
      subject,
      `it watches ${count(watches.length, 'file')} (inotify), which must be there at the destination too; what changed and was not read is forgotten`,
    ),
  ];
}

function fanotifyVerdicts({ pid, fd }: TreeDescriptor): Verdict[] {
  const subject = `fd ${fd} of pid ${pid}`;
  const marks = marksOf({ pid, fd }, 'fanotify ').filter((line) => !line.startsWith('fanotify flags'));
  const inodes = marks.filter((line) => line.startsWith('fanotify ino:') && hasOpenableHandle(line));
  if (inodes.length < marks.length) {
    return [
      refused(
        'FANOTIFY',
        subject,
        'it watches whole mounts or file systems of this machine (fanotify), which stay here',
        'leave the program where its files are',
      ),
    ];
  }
  if (marks.length === 0) return [];
  return [
    willChange(
      'FANOTIFY',
      subject,
      `it watches ${count(marks.length, 'file')} (fanotify), which must be there at the destination too; events that wait are lost`,
    ),
  ];
}

function marksOf({ pid, fd }: { readonly pid: number; readonly fd: number }, start: string): string[] {
  return (readText(`/proc/${pid}/fdinfo/${fd}`) ?? '').split('\n').filter((line) => line.startsWith(start));
}

/** A handle of type 0xff or 0xfe (FILEID_INVALID, FILEID_INO64_GEN: proc, sys) leads nowhere. */
function hasOpenableHandle(line: string): boolean {
  const type = /fhandle-type:([0-9a-f]+)/.exec(line)?.[1];
  return type !== undefined && Number.parseInt(type, 16) < 0x80;
}
