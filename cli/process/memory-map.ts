import { type Stats, statSync } from 'node:fs';
import { readText } from '../system/procfs.js';
import type { Verdict } from './description.js';
import { refused } from './verdicts.js';

/** A file that processes of the tree have mapped. */
export interface MappedFile {
  /** As the processes name it. */
  readonly path: string;
  /** One of the processes. */
  readonly pid: number;
  /** It was deleted, or another was put in its place, while it is mapped. */
  readonly deleted: boolean;
  /** Some of it is code. */
  readonly code: boolean;
  /** Somebody may write it through a mapping. */
  readonly written: boolean;
  /** Its entry in /proc/<pid>/map_files: the very file, whatever its path leads to now. */
  readonly entry: string;
}

const DELETED = / \(deleted\)$/;
/** What the kernel names like a file and is none; CRIU carries it. */
const NO_FILE = /^\/(memfd:|dev\/zero|anon_hugepage|\[aio\])/;
const KINDS: readonly (readonly [RegExp, string, string, string])[] = [
  [
    /^\[uprobes\]/,
    'UPROBES',
    'somebody traces it with uprobes: the kernel has put code into its memory',
    'end the tracing (perf, bpftrace) and start the program again',
  ],
  [
    /^anon_inode:\[io_uring\]/,
    'IO_URING',
    'it uses io_uring, whose rings CRIU cannot save',
    'switch io_uring off in the program (most have a setting for it) and restart it',
  ],
  [
    /^(anon_inode:|\/dmabuf)/,
    'DEVICE_MEMORY',
    'memory of the kernel or of a device is mapped, which CRIU cannot save',
    'let the program do without; for a GPU, leave it where it is',
  ],
  [
    /^socket:/,
    'SOCKET_MEMORY',
    "a socket's ring is mapped, which is restored for packet sockets alone",
    'let the program do without the ring (TCP_ZEROCOPY_RECEIVE, AF_XDP)',
  ],
];

interface Mapping {
  readonly range: string;
  readonly permissions: string;
  readonly path: string;
}

export interface MapOptions {
  /** Text of a process's maps; default: /proc. */
  readonly maps?: (pid: number) => string;
}

/** The mappings of files and devices of a tree, and what speaks against carrying them. */
export function readMappedFiles(
  pids: readonly number[],
  options: MapOptions = {},
): { readonly files: readonly MappedFile[]; readonly verdicts: readonly Verdict[] } {
  const files = new Map<string, MappedFile>();
  const verdicts: Verdict[] = [];
  const read = options.maps ?? ((pid: number) => readText(`/proc/${pid}/maps`) ?? '');
  for (const pid of pids) {
    const told = new Set<string>();
    for (const mapping of parseMaps(read(pid))) {
      const verdict = kindVerdict(mapping, pid);
      if (verdict !== undefined) {
        if (!told.has(verdict.code)) verdicts.push(verdict);
        told.add(verdict.code);
        continue;
      }
      if (mapping.path.startsWith('/SYSV') || !mapping.path.startsWith('/') || NO_FILE.test(mapping.path)) continue;
      const file = fileOf(mapping, pid, files.get(mapping.path));
      files.set(mapping.path, file);
    }
  }
  return { files: [...files.values()], verdicts };
}

/** Parses /proc/<pid>/maps (proc(5)): only mappings with a name. */
export function parseMaps(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    const found = /^([0-9a-f]+-[0-9a-f]+) (\S{4}) \S+ \S+ \d+ +(\S.*)$/.exec(line);
    const [, range, permissions, path] = found ?? [];
    if (range === undefined || permissions === undefined || path === undefined) continue;
    mappings.push({ range, permissions, path: path.replaceAll('\\012', '\n') });
  }
  return mappings;
}

function kindVerdict({ path, range }: Mapping, pid: number): Verdict | undefined {
  const subject = `memory of pid ${pid}`;
  for (const [pattern, code, reason, remedy] of KINDS) {
    if (!pattern.test(path)) continue;
    return refused(code, subject, reason, remedy);
  }
  if (!path.startsWith('/dev/') || path.startsWith('/dev/zero') || path.startsWith('/dev/shm/')) return undefined;
  const stats = statOf(`/proc/${pid}/map_files/${range}`);
  if (stats === undefined || stats.isFile()) return undefined;
  return refused(
    'DEVICE_MEMORY',
    subject,
    `memory of the device ${path} is mapped, which CRIU cannot save`,
    'leave the program where its device is, or let it do without',
  );
}

function fileOf({ path, permissions, range }: Mapping, pid: number, known: MappedFile | undefined): MappedFile {
  return {
    path: path.replace(DELETED, ''),
    pid: known?.pid ?? pid,
    deleted: DELETED.test(path),
    code: known?.code === true || permissions[2] === 'x',
    written: known?.written === true || (permissions[3] === 's' && permissions[1] === 'w'),
    entry: known?.entry ?? `/proc/${pid}/map_files/${trimmed(range)}`,
  };
}

/** As map_files names it: without leading zeros (proc_map_files_lookup). */
function trimmed(range: string): string {
  return range
    .split('-')
    .map((address) => address.replace(/^0+(?=.)/, ''))
    .join('-');
}

/** @returns undefined when it is gone, or nobody may look */
export function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}
