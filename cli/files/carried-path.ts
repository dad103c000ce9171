import { dirname } from 'node:path';
import { z } from 'zod';

/** PATH_MAX and NAME_MAX of Linux, in bytes, without the end. */
const MAX_PATH_BYTES = 4095;
const MAX_NAME_BYTES = 255;

/** What every pod has for itself: the kernel's file systems, devices, and the place where CRIU is for a moment. */
const OF_THE_POD = ['/proc', '/sys', '/dev', '/.homeproxy'];

/** Names of files that stand beside others for a moment, and belong to us. */
export const OWN_NAME = /^\.homeproxy-/;

/** An absolute path in its plainest form: no empty part, no `.` and no `..`, nothing that is too long for the kernel. */
export function isPlainPath(path: string): boolean {
  if (!path.startsWith('/') || path.includes('\0') || Buffer.byteLength(path) > MAX_PATH_BYTES) return false;
  if (path === '/') return true;
  return path
    .slice(1)
    .split('/')
    .every((part) => part !== '' && part !== '.' && part !== '..' && Buffer.byteLength(part) <= MAX_NAME_BYTES);
}

/** Whether a path may travel: plain, and not one of those that a pod has for itself. */
export function mayTravel(path: string): boolean {
  if (!isPlainPath(path) || path.split('/').some((part) => OWN_NAME.test(part))) return false;
  return path !== '/' && !OF_THE_POD.some((own) => path === own || isBelow(path, own));
}

/** Whether a path is that folder, or in it. */
export function isBelow(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`);
}

/** The folders above a path, the outermost first, without `/`. */
export function foldersAbove(path: string): string[] {
  const above = dirname(path);
  return above === '/' ? [] : [...foldersAbove(above), above];
}

/** A path that a node names to another. */
export const carriedPathSchema = z.string().max(MAX_PATH_BYTES).refine(mayTravel, 'is no path that may travel');
