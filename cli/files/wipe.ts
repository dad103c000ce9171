import { existsSync, lstatSync, readdirSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { overwrite, TMPFS_MAGIC } from '../checkpoint/image-folder.js';

/**
 * Removes a folder of files that belonged to a process of another node; their content is overwritten first on file systems that keep
 * blocks after an unlink (anything but tmpfs). One that is not there is fine.
 */
export function wipeTree(folder: string): void {
  if (!existsSync(folder)) return;
  if (statfsSync(folder).type !== TMPFS_MAGIC) overwriteBelow(folder);
  rmSync(folder, { recursive: true, force: true });
}

function overwriteBelow(folder: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const stats = lstatSync(path);
    if (stats.isDirectory()) overwriteBelow(path);
    else if (stats.isFile() && stats.nlink === 1) overwrite(path, stats.size);
  }
}
