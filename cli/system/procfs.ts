import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** One line of /proc/<pid>/status and /proc/<pid>/stat, as far as this product needs it. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly comm: string;
  readonly state: string;
  readonly parent: number;
  /** Its process group. */
  readonly group: number;
  readonly session: number;
  /** Clock ticks since boot: with the pid it names a process for ever (proc(5), field 22). */
  readonly startTime: bigint;
  readonly kernelThread: boolean;
  /** It exits, or has exited. */
  readonly ending: boolean;
  readonly residentBytes: number;
  readonly threads: number;
}

/** Names one process for ever: a pid alone may be reused. Plain data for the journal. */
export interface ProcessStamp {
  readonly pid: number;
  readonly startTime: string;
}

/** The stamp of a process that exists now; its start time is `0` when it has ended already. */
export function stampProcess(pid: number): ProcessStamp {
  return { pid, startTime: String(readProcess(pid)?.startTime ?? 0) };
}

/** Whether that very process still exists and is no zombie. */
export function stampAlive({ pid, startTime }: ProcessStamp): boolean {
  const found = readProcess(pid);
  return found !== undefined && found.state !== 'Z' && String(found.startTime) === startTime;
}

const PF_EXITING = 0x00000004; // include/linux/sched.h
const PF_KTHREAD = 0x00200000;
const PAGE_BYTES = 4096;

/** Reads a process's identity; undefined when there is no such process. */
export function readProcess(pid: number): ProcessIdentity | undefined {
  const text = readText(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')'); // comm may itself hold parentheses and spaces
  const fields = text.slice(close + 2).split(' ');
  const field = (number: number): string => fields[number - 3] ?? '0';
  return {
    pid,
    comm: text.slice(open + 1, close),
    state: field(3),
    parent: Number(field(4)),
    group: Number(field(5)),
    session: Number(field(6)),
    kernelThread: (Number(field(9)) & PF_KTHREAD) !== 0,
    ending: (Number(field(9)) & PF_EXITING) !== 0,
    threads: Number(field(20)),
    startTime: BigInt(field(22)),
    residentBytes: Number(field(24)) * PAGE_BYTES,
  };
}

/** The command line, arguments joined by spaces; the comm in brackets when it has none. */
export function readCommandLine(pid: number): string {
  const text = readText(`/proc/${pid}/cmdline`) ?? '';
  const words = text.split('\0').filter((word) => word !== '');
  return words.length > 0 ? words.join(' ') : `[${readProcess(pid)?.comm ?? '?'}]`;
}

/** The effective user of a process; undefined when it is gone. */
export function readUid(pid: number): number | undefined {
  const uid = /^Uid:\s+\d+\s+(\d+)/m.exec(readText(`/proc/${pid}/status`) ?? '')?.[1];
  return uid === undefined ? undefined : Number(uid);
}

/**
 * Every user that a process is or may become: real, effective, saved and file system's (proc(5)); root too when it has
 * capabilities, which are parts of root's might. None when it is gone.
 */
export function readUsers(pid: number): number[] {
  const status = readText(`/proc/${pid}/status`) ?? '';
  const uids = /^Uid:\s+(.*)$/m.exec(status)?.[1];
  if (uids === undefined) return [];
  const mighty = /^CapPrm:\s*0*[1-9a-f]/m.test(status);
  return [...new Set([...uids.split(/\s+/).map(Number), ...(mighty ? [0] : [])])];
}

/** Resident memory of a process that is no file's and not shared by mapping, in bytes; 0 when it is gone. */
export function readAnonymousBytes(pid: number): number {
  const kilobytes = /^RssAnon:\s+(\d+) kB$/m.exec(readText(`/proc/${pid}/status`) ?? '')?.[1];
  return Number(kilobytes ?? 0) * 1024;
}

/** The cgroup (v2) that a process is in, as /proc has it: relative to the root of our cgroup namespace. */
export function readCgroup(pid: number): string | undefined {
  return /^0::(.*)$/m.exec(readText(`/proc/${pid}/cgroup`) ?? '')?.[1];
}

/** Direct children of a process, over all its threads (needs CONFIG_PROC_CHILDREN, as CRIU does). */
export function readChildren(pid: number): number[] {
  const children: number[] = [];
  for (const thread of list(`/proc/${pid}/task`)) {
    const text = readText(`/proc/${pid}/task/${thread}/children`) ?? '';
    for (const word of text.split(' ')) if (word.trim() !== '') children.push(Number(word));
  }
  return children;
}

/** The threads of a process; none when it has gone. */
export function readThreads(pid: number): number[] {
  return list(`/proc/${pid}/task`).map(Number);
}

/** A process and all its descendants, parents before children. */
export function readTree(root: number): number[] {
  const tree = [root];
  for (let index = 0; index < tree.length; index++) {
    const pid = tree[index];
    if (pid !== undefined) tree.push(...readChildren(pid));
  }
  return tree;
}

export interface OpenDescriptor {
  readonly fd: number;
  /** What the link says: a path, `socket:[inode]`, `pipe:[inode]`, `anon_inode:...`. */
  readonly target: string;
}

/**
 * Open descriptors of a process; those that close while we look are left out.
 * @param except what somebody knows already: each takes some microseconds, and there may be thousands
 */
export function readDescriptors(pid: number, except?: ReadonlySet<number>): OpenDescriptor[] {
  const result: OpenDescriptor[] = [];
  for (const name of list(`/proc/${pid}/fd`)) {
    if (except?.has(Number(name)) === true) continue;
    const target = readLink(`/proc/${pid}/fd/${name}`);
    if (target !== undefined) result.push({ fd: Number(name), target });
  }
  return result;
}

/** Identity of a namespace, for example `net:[4026531840]`; undefined when the process is gone. */
export function readNamespace(
  pid: number | 'self',
  kind: 'net' | 'mnt' | 'pid' | 'user' | 'ipc' | 'uts' | 'cgroup' | 'time',
): string | undefined {
  return readLink(`/proc/${pid}/ns/${kind}`);
}

/** The pid that a process has in each pid namespace it is in, outermost (ours) first (proc(5), NSpid). */
export function readNamespacePids(pid: number): number[] {
  const line = /^NSpid:\s+(.*)$/m.exec(readText(`/proc/${pid}/status`) ?? '');
  return (line?.[1] ?? '')
    .split(/\s+/)
    .filter((word) => word !== '')
    .map(Number);
}

/** All pids that /proc shows. */
export function listProcesses(): number[] {
  return list('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Text of a file, or undefined when it or its process is gone. Other failures are thrown. */
export function readText(path: string): string | undefined {
  return absent(path, () => readFileSync(path, 'utf8'));
}

/** Where a link of /proc leads, or undefined when it or its process is gone. */
export function readLink(path: string): string | undefined {
  return absent(path, () => readlinkSync(path));
}

function list(path: string): string[] {
  return absent(path, () => readdirSync(path)) ?? [];
}

function absent<Result>(path: string, read: () => Result): Result | undefined {
  try {
    return read();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // ENODEV: a cgroup that was removed between the opening and the reading of one of its files
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'ENODEV') return undefined;
    if (code === 'EACCES' && isEnding(path)) return undefined;
    throw error;
  }
}

/** Whether a path in /proc is of a process that ends: Linux 6.18 then says EACCES now and then (11 of 28,000 times). */
function isEnding(path: string): boolean {
  const pid = /^\/proc\/(\d+)\//.exec(path)?.[1];
  if (pid === undefined || path === `/proc/${pid}/stat`) return false;
  return readProcess(Number(pid))?.ending ?? true;
}

let namespaceOffset: bigint | undefined;

/** The monotonic clock as the kernel's own code reads it, in nanoseconds: without what our time namespace adds to it. */
export function kernelClock(): bigint {
  namespaceOffset ??= readNamespaceOffset();
  return process.hrtime.bigint() - namespaceOffset;
}

function readNamespaceOffset(): bigint {
  const text = readText('/proc/self/timens_offsets') ?? ''; // time_namespaces(7), kernel 5.6
  const [, seconds = 0, nanoseconds = 0] = /^monotonic\s+(-?\d+)\s+(\d+)$/m.exec(text) ?? [];
  return BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
}
