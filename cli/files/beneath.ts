import { closeSync, constants, lstatSync, type Stats } from 'node:fs';
import { basename, dirname } from 'node:path';
import { BpfError, openBeneath } from '../../addon/lib/index.js';

const FOLDER = constants.O_DIRECTORY | 0o10000000; // O_PATH

/**
 * Calls `act` with a path at which the folder of `path` can be reached, and the plain name in it. The way there is walked below
 * the open folder `root`, over no symbolic link and no `..`: whoever made the path, it leads nowhere else.
 * @throws {BpfError} `ENOENT`, `ENOTDIR`, `ELOOP`, `EXDEV`
 */
export function inFolderOf<Result>(root: number, path: string, act: (folder: string, name: string) => Result): Result {
  const above = dirname(path).slice(1);
  const folder = openBeneath(root, above === '' ? '.' : above, FOLDER);
  try {
    return act(`/proc/self/fd/${folder}`, basename(path));
  } finally {
    closeSync(folder);
  }
}

/** The same for an `act` that takes its time. */
export async function withFolderOf<Result>(
  root: number,
  path: string,
  act: (folder: string, name: string) => Promise<Result>,
): Promise<Result> {
  const above = dirname(path).slice(1);
  const folder = openBeneath(root, above === '' ? '.' : above, FOLDER);
  try {
    return await act(`/proc/self/fd/${folder}`, basename(path));
  } finally {
    closeSync(folder);
  }
}

/** What is at a path below a root, itself no link that is followed; undefined when nothing is, or the way there is none. */
export function lookBeneath(root: number, path: string): Stats | undefined {
  try {
    return inFolderOf(root, path, (folder, name) => lstatSync(`${folder}/${name}`));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP' || code === 'EXDEV') return undefined;
    throw error;
  }
}

/** Whether the way to a path leads over a link, or out of the root. */
export function isAstray(error: unknown): boolean {
  return error instanceof BpfError && (error.code === 'ELOOP' || error.code === 'EXDEV' || error.code === 'ENOTDIR');
}
