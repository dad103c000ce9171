import {
  closeSync,
  fdatasyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

const TMPFS_MAGIC = 0x01021994; // include/uapi/linux/magic.h

/** Makes the root-only folder for a migration's images. */
export function createImageFolder(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
}

export interface ImageFile {
  readonly name: string;
  readonly size: number;
}

/** The regular files of an image folder, without CRIU's logs (and without the verdict's FIFO). */
export function listImages(folder: string): ImageFile[] {
  return readdirSync(folder)
    .filter((name) => !name.endsWith('.log'))
    .map((name) => ({ name, stat: lstatSync(join(folder, name)) }))
    .filter(({ stat }) => stat.isFile())
    .map(({ name, stat }) => ({ name, size: stat.size }));
}

/**
 * Removes a folder of images, which hold the memory of a process. On a file system that keeps blocks after an unlink
 * (anything but tmpfs) they are overwritten first.
 */
export function wipeImageFolder(folder: string): void {
  let kind: number;
  try {
    kind = statfsSync(folder).type;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if (kind !== TMPFS_MAGIC) for (const { name, size } of listImages(folder)) overwrite(join(folder, name), size);
  rmSync(folder, { recursive: true, force: true });
}

function overwrite(path: string, size: number): void {
  const zeros = Buffer.alloc(1 << 20);
  const fd = openSync(path, 'r+');
  try {
    for (let offset = 0; offset < size; offset += zeros.length) {
      writeSync(fd, zeros, 0, Math.min(zeros.length, size - offset), offset);
    }
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
