import {
  closeSync,
  existsSync,
  fdatasyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';

export const TMPFS_MAGIC = 0x01021994; // include/uapi/linux/magic.h

/** Makes the root-only folder for a migration's images. */
export function createImageFolder(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
}

export interface ImageFile {
  readonly name: string;
  readonly size: number;
}

/** No image that arrives can have these names: theirs begin with no dot. */
const RESERVE = '.reserve';
const AHEAD = '.ahead';

/**
 * Takes room in the folder ahead of the freeze, for an image to come. What counts on a tmpfs is that its pages are there by then:
 * in a virtual machine the first touch of one costs up to 16 us (measured under shadow page tables), and 10 MB are 2560 of them.
 * Best effort: it takes none on a disk, nor when others would be left with too little.
 */
export async function reserveRoom(folder: string, bytes: number): Promise<void> {
  if (!isMemory(folder) || bytes > spareBytes(folder)) return;
  const zeros = Buffer.alloc(Math.min(bytes, 1 << 20));
  const file = await open(join(folder, RESERVE), 'wx', 0o600);
  try {
    for (let left = bytes; left > 0; ) {
      left -= (await file.write(zeros, 0, Math.min(left, zeros.length))).bytesWritten; // the last room may take a part of it
    }
  } catch (error) {
    if (!isFull(error)) throw error;
    rmSync(join(folder, RESERVE), { force: true });
  } finally {
    await file.close();
  }
}

/** As much as may be taken for speed's sake alone: others write there too, CRIU's hooks among them. */
function spareBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return (bavail * bsize) / 2;
}

function isMemory(folder: string): boolean {
  return statfsSync(folder).type === TMPFS_MAGIC;
}

/** Makes a new file of the reserved room, if there is any. @returns its descriptor; its content is what is written, once it is cut there. */
export function openInReserve(folder: string, name: string): number {
  const path = join(folder, name);
  const reserve = join(folder, RESERVE);
  if (existsSync(path) || !existsSync(reserve)) return openSync(path, 'wx', 0o600);
  renameSync(reserve, path);
  return openSync(path, 'r+');
}

/**
 * Writes pages that come before the dump. Reads them all even when there is no room: a sender whose upload is not read may never
 * see the answer to it.
 * @returns how many bytes are kept: all, or none when there is no room for them.
 */
export async function writeAhead(folder: string, pages: AsyncIterable<Buffer>): Promise<number> {
  const file = await open(join(folder, AHEAD), 'wx', 0o600);
  const forget = (): void => removeWiped(folder, AHEAD);
  const room = spareBytes(folder);
  let bytes = 0;
  let full = false;
  try {
    for await (const chunk of pages) {
      if (full) continue;
      try {
        bytes += chunk.length;
        if (bytes > room) throw Object.assign(new Error('the rest is for others'), { code: 'ENOSPC' });
        await file.writeFile(chunk);
      } catch (error) {
        if (!isFull(error)) throw error;
        full = true;
        forget();
        await file.truncate(); // the room is needed while the rest comes
      }
    }
    return full ? 0 : bytes;
  } catch (error) {
    forget();
    throw error;
  } finally {
    await file.close();
  }
}

/** Opens the pages that came before the dump; undefined when none came. */
export function openAhead(folder: string): number | undefined {
  const path = join(folder, AHEAD);
  return existsSync(path) ? openSync(path, 'r') : undefined;
}

/** Whether a file system had no room, or gave this user none. */
export function isFull(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT';
}

/** Removes all that is no image. */
export function clearWay(folder: string): void {
  for (const name of [RESERVE, AHEAD]) removeWiped(folder, name);
}

function removeWiped(folder: string, name: string): void {
  const path = join(folder, name);
  if (existsSync(path) && !isMemory(folder)) overwrite(path, statSync(path).size);
  rmSync(path, { force: true });
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

/** Puts zeros over what a file has. */
export function overwrite(path: string, size: number): void {
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
