import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { unifiedMount } from '../../cli/system/cgroup.js';
import { listProcesses, readProcess, readText } from '../../cli/system/procfs.js';

const NAMESPACES = ['net', 'pid', 'mnt', 'uts', 'ipc', 'cgroup'] as const;

/** The namespaces that a process is in, for example `net:[4026532000]`. */
export function namespacesOf(pid: number): string[] {
  return NAMESPACES.flatMap((kind) => {
    const text = identity(pid, kind);
    return text === undefined ? [] : [text];
  });
}

/**
 * Everything on this machine that can be traced to a lab: its files, cgroup, processes, mounts, and those of `namespaces`
 * that still have a process. Empty after a good `down`. Other labs may come and go meanwhile. A zombie holds nothing, and
 * how long it stays is up to this machine's pid 1: `zombies` counts them too.
 */
export function leftovers(lab: string, namespaces: readonly string[] = [], zombies = false): string[] {
  const found: string[] = [];
  if (existsSync('/run/homeproxy-lab')) {
    found.push(...readdirSync('/run/homeproxy-lab').filter((name) => name === lab || name.startsWith(`${lab}.`)));
  }
  const cgroup = `${unifiedMount()}/homeproxy-lab/${lab}`;
  if (existsSync(cgroup)) found.push(cgroup);
  const wanted = new Set(namespaces);
  for (const pid of listProcesses()) {
    if (!zombies && readProcess(pid)?.state === 'Z') continue;
    const membership = readText(`/proc/${pid}/cgroup`) ?? '';
    const ours = membership.includes(`/homeproxy-lab/${lab}/`);
    if (ours) found.push(`process ${pid}`);
    // what is in another lab is that one's: the kernel gives it the numbers of namespaces that have gone
    if (wanted.size > 0 && (ours || !membership.includes('/homeproxy-lab/'))) {
      for (const namespace of namespacesOf(pid)) if (wanted.has(namespace)) found.push(`${namespace} of ${pid}`);
    }
  }
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  found.push(...mounts.filter((line) => line.includes(`/homeproxy-lab/${lab}`)));
  return found;
}

function identity(pid: number, kind: (typeof NAMESPACES)[number]): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/${kind}`);
  } catch {
    return undefined; // gone
  }
}
