import { listProcesses, readProcess, readText } from '../system/procfs.js';
import type { Verdict } from './description.js';
import { isStranger } from './strangers.js';
import { refused } from './verdicts.js';

/** Memory without a name that processes share: anonymous (`/dev/zero`), a memfd, or a file that was deleted. */
interface SharedMemory {
  readonly path: string;
  readonly pid: number;
  readonly writable: boolean;
}

/**
 * Memory that a tree shares with a process outside of it, and that one of them may write. After a move each of the two would have
 * its own, and neither would ever see what the other writes. Files that have a name are compared with those of the destination.
 */
export function foreignMemoryVerdicts(pids: readonly number[]): Verdict[] {
  const ours = new Map<string, SharedMemory>();
  for (const pid of pids) {
    for (const [id, memory] of sharedBy(pid)) if (ours.get(id)?.writable !== true) ours.set(id, memory);
  }
  if (ours.size === 0) return [];
  const verdicts: Verdict[] = [];
  const members = new Set(pids);
  for (const pid of listProcesses()) {
    if (members.has(pid)) continue;
    for (const [id, theirs] of sharedBy(pid)) {
      const own = ours.get(id);
      if (own === undefined || !(own.writable || theirs.writable)) continue;
      if (!isStranger(pid, members)) break;
      ours.delete(id); // one verdict for each
      verdicts.push(foreign(own, pid));
    }
  }
  return verdicts;
}

/** By what identifies it: device and inode (proc(5), /proc/<pid>/maps). Those of System V's are the same in each IPC namespace. */
function sharedBy(pid: number): Map<string, SharedMemory> {
  const found = new Map<string, SharedMemory>();
  const lines = (mapsOf(pid) ?? '').matchAll(/^\S+ .(.).s \S+ (\S+ \d+) +(\/(?!SYSV).*) \(deleted\)$/gm);
  for (const [, write, id = '', path = ''] of lines) {
    found.set(id, { path, pid, writable: write === 'w' || found.get(id)?.writable === true });
  }
  return found;
}

/** Whom even root may not look into shares nothing with one that we may move. */
function mapsOf(pid: number): string | undefined {
  try {
    return readText(`/proc/${pid}/maps`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return undefined;
    throw error;
  }
}

function foreign({ path, pid }: SharedMemory, holder: number): Verdict {
  const what = path === '/dev/zero' ? 'anonymous memory' : path.replace(/^\/memfd:/, 'the memfd ');
  return refused(
    'FOREIGN_MEMORY',
    `memory of pid ${pid}`,
    `it shares ${what} with pid ${holder} (${readProcess(holder)?.comm ?? '?'}), which stays: neither would see what the other writes`,
    'move the process that both come from',
  );
}
