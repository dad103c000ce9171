import { listProcesses, readDescriptors, readProcess } from '../system/procfs.js';
import type { Holder } from './sockets.js';

/**
 * Who has sockets open, by their inodes: one holder of each, found in as few processes as it takes.
 * @param among those that are not asked
 * @param near the family of this process is asked first
 */
export function findHolders(
  inodes: ReadonlySet<number>,
  { among = [], near }: { readonly among?: readonly number[]; readonly near?: number | undefined } = {},
): Map<number, Holder> {
  const wanted = new Map([...inodes].map((inode) => [`socket:[${inode}]`, inode]));
  const found = new Map<number, Holder>();
  const passed = new Set(among);
  const parent = near === undefined ? undefined : readProcess(near)?.parent;
  for (const pid of [...(parent === undefined ? [] : [parent]), ...listProcesses()]) {
    if (found.size === wanted.size) break;
    if (passed.has(pid)) continue;
    passed.add(pid);
    for (const { fd, target } of descriptorsOf(pid)) {
      const inode = wanted.get(target);
      if (inode !== undefined) found.set(inode, { pid, fd });
    }
  }
  return found;
}

/** None of a process that even root may not look into. */
function descriptorsOf(pid: number): ReturnType<typeof readDescriptors> {
  try {
    return readDescriptors(pid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return [];
    throw error;
  }
}
