import { readProcess } from '../system/procfs.js';

/**
 * Whether a process that was found to have something in common with a tree is none of it: neither a member, nor a child that the tree
 * has had since it was listed, nor one that has ended by now. Asked about the few that are found only: it reads /proc for each of its
 * ancestors.
 * @param members of the tree, as it was listed
 */
export function isStranger(pid: number, members: ReadonlySet<number>): boolean {
  if (members.has(pid)) return false;
  for (let at = readProcess(pid); at !== undefined && at.parent > 1; at = readProcess(at.parent)) {
    if (members.has(at.parent)) return false;
  }
  return readProcess(pid) !== undefined;
}
