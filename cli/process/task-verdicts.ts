import { Cgroup, unifiedMount } from '../system/cgroup.js';
import { readNamespace, readProcess, readText, readThreads } from '../system/procfs.js';
import type { Verdict } from './description.js';
import { refused, willChange } from './verdicts.js';

/** What /proc tells of the tasks of a tree. */
export interface TaskFindings {
  readonly threads: number;
  /** Memory of its own, in bytes: copied as a whole. */
  readonly memoryBytes: number;
  readonly hugeBytes: number;
  /** All of the tree together. */
  readonly capabilities: bigint;
  readonly seccomp: boolean;
  readonly verdicts: readonly Verdict[];
}

const CAP_SYS_RESOURCE = 1n << 24n; // include/uapi/linux/capability.h

export const NAMESPACES = ['net', 'mnt', 'pid', 'user', 'ipc', 'uts', 'cgroup', 'time'] as const;

/** @param pids the root first */
export function taskFindings(pids: readonly number[]): TaskFindings {
  const verdicts: Verdict[] = [];
  let [threads, memoryBytes, hugeBytes, capabilities, seccomp] = [0, 0, 0, 0n, false];
  for (const pid of pids) {
    const status = statusOf(pid, pid);
    memoryBytes += kilobytes(status, 'RssAnon') + kilobytes(status, 'RssShmem') + kilobytes(status, 'VmSwap');
    hugeBytes += kilobytes(status, 'HugetlbPages');
    for (const name of ['CapPrm', 'CapEff', 'CapInh', 'CapAmb']) capabilities |= BigInt(`0x${status.get(name) || '0'}`);
    if (status.get('State')?.startsWith('Z') === true) continue; // nothing is left of it but its number
    for (const thread of readThreads(pid)) {
      threads++;
      const own = thread === pid ? status : statusOf(pid, thread);
      seccomp ||= (own.get('Seccomp') ?? '0') !== '0';
      const tracer = Number(own.get('TracerPid') ?? 0);
      if (tracer !== 0) verdicts.push(traced(thread, tracer));
    }
  }
  const root = pids[0] ?? 0;
  verdicts.push(...nestedNamespaces(pids), ...limitsVerdicts(pids), ...surroundings(root));
  return { threads, memoryBytes, hugeBytes, capabilities, seccomp, verdicts };
}

/** Whether this daemon, and so CRIU, may read the resource limits of everybody's processes (prlimit(2)). */
export function readsEveryLimit(): boolean {
  const effective = /^CapEff:\s*(\w+)$/m.exec(readText('/proc/self/status') ?? '')?.[1] ?? '0';
  return (BigInt(`0x${effective}`) & CAP_SYS_RESOURCE) !== 0n;
}

/** CRIU asks each task for its limits; without that capability the kernel answers only about tasks of our own user and group. */
function limitsVerdicts(pids: readonly number[]): Verdict[] {
  if (readsEveryLimit()) return [];
  const own = `${process.getuid?.()} ${process.getgid?.()}`;
  const other = pids.find((pid) => {
    const status = statusOf(pid, pid);
    const ids = ['Uid', 'Gid'].map((name) => (status.get(name) ?? '').split(/\s+/).slice(0, 3)); // not the file system's
    const [users = [], groups = []] = ids;
    const alive = status.has('Uid') && !status.get('State')?.startsWith('Z');
    return alive && users.some((user, index) => `${user} ${groups[index]}` !== own);
  });
  if (other === undefined) return [];
  const subject = `pid ${other}`;
  const reason = "it runs as another user, whose resource limits this node's daemon may not read (CAP_SYS_RESOURCE)";
  return [
    refused('LIMITS_UNREADABLE', subject, reason, 'give the daemon CAP_SYS_RESOURCE: containers often withhold it'),
  ];
}

function statusOf(pid: number, thread: number): Map<string, string> {
  const text = readText(`/proc/${pid}/task/${thread}/status`) ?? '';
  return new Map(
    text.split('\n').map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    }),
  );
}

function kilobytes(status: ReadonlyMap<string, string>, name: string): number {
  return Number.parseInt(status.get(name) ?? '0', 10) * 1024;
}

function traced(thread: number, tracer: number): Verdict {
  return refused(
    'TRACED',
    `pid ${thread}`,
    `pid ${tracer} (${readProcess(tracer)?.comm ?? '?'}) traces it, and a process has one tracer: CRIU cannot be it`,
    'end the debugger, strace or sandbox that traces it',
  );
}

/** CRIU restores a tree in one set of namespaces. */
function nestedNamespaces(pids: readonly number[]): Verdict[] {
  const [root = 0, ...others] = pids;
  return others.flatMap((pid) => {
    const kind = NAMESPACES.find((name) => {
      const own = readNamespace(pid, name);
      return own !== undefined && own !== readNamespace(root, name);
    });
    if (kind === undefined) return [];
    return refused(
      'NESTED_NAMESPACE',
      `pid ${pid}`,
      `it runs in another ${kind} namespace than the root of its tree: a sandbox or a container that the program made`,
      "switch the program's sandbox off, or end that child",
    );
  });
}

/** What stands around the tree: its service, and the limits of its cgroup, which CRIU is told to leave alone. */
function surroundings(root: number): Verdict[] {
  const verdicts: Verdict[] = [];
  const cgroup = Cgroup.of(root);
  const unit = /\/([^/]+\.service)(\/|$)/.exec(cgroup.path)?.[1];
  if (unit !== undefined && !unit.startsWith('user@')) {
    verdicts.push(
      willChange(
        'SERVICE',
        `pid ${root}`,
        `it belongs to ${unit}: the service manager sees it end when it leaves, and may start it again`,
        `set Restart=no for ${unit} while it is away`,
      ),
    );
  }
  const limits = limitsOf(cgroup);
  if (limits.length > 0) {
    verdicts.push(
      willChange('CGROUP_LIMITS', `pid ${root}`, `the limits of its cgroup stay here: ${limits.join(', ')}`),
    );
  }
  return verdicts;
}

/** Limits of a cgroup, and of those above it. @param top where cgroup-v2 is mounted */
export function limitsOf({ path }: Pick<Cgroup, 'path'>, top = unifiedMount()): string[] {
  const limits: string[] = [];
  for (let at = path; at.length > top.length; at = at.slice(0, at.lastIndexOf('/'))) {
    for (const name of ['memory.max', 'cpu.max']) {
      const value = readText(`${at}/${name}`)?.trim();
      if (value !== undefined && !value.startsWith('max')) limits.push(`${name} ${value}`);
    }
  }
  return limits;
}
