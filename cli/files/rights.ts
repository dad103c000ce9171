import type { Stats } from 'node:fs';
import { dirname } from 'node:path';
import { readText } from '../system/procfs.js';
import { lookBeneath } from './beneath.js';

/** Whose files a tree may write: effective users and groups, supplementary ones too. */
export interface Rights {
  readonly uids: readonly number[];
  readonly gids: readonly number[];
}

const WRITE = 2;

export function readRights(pids: readonly number[]): Rights {
  const uids = new Set<number>();
  const gids = new Set<number>();
  for (const pid of pids) {
    const status = readText(`/proc/${pid}/status`) ?? '';
    const numbers = (name: string): number[] =>
      (new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '').split(/\s+/).filter(Boolean).map(Number);
    const [, uid] = numbers('Uid');
    const [, gid] = numbers('Gid');
    if (uid !== undefined) uids.add(uid);
    if (gid !== undefined) gids.add(gid);
    for (const group of numbers('Groups')) gids.add(group);
  }
  return { uids: [...uids], gids: [...gids] };
}

/** Whether such a process could change a file by a rename: it may write the folder, and the file if there is one. */
export function mayWrite(root: number, path: string, rights: Rights): boolean {
  if (rights.uids.includes(0)) return true;
  const file = lookBeneath(root, path);
  if (file !== undefined) return grants(file, rights);
  let folder = dirname(path);
  let stats = lookBeneath(root, folder);
  while (stats === undefined && folder !== '/') {
    folder = dirname(folder);
    stats = lookBeneath(root, folder);
  }
  return stats?.isDirectory() === true && grants(stats, rights);
}

/** The mode's bits, as the kernel reads them: the owner's for the owner, else the group's, else those for all. */
function grants({ uid, gid, mode }: Stats, rights: Rights): boolean {
  if (rights.uids.includes(uid)) return ((mode >> 6) & WRITE) !== 0;
  if (rights.gids.includes(gid)) return ((mode >> 3) & WRITE) !== 0;
  return (mode & WRITE) !== 0;
}
