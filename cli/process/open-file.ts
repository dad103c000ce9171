import { closeSync, constants, fstatSync, openSync, readlinkSync, type Stats } from 'node:fs';

/** include/uapi/asm-generic/fcntl.h; the same on every architecture that Node.js has. */
const O_PATH = 0o10000000;

/**
 * What a descriptor leads to: its name and the file itself, of one moment. A server under load opens and closes files all the time
 * under the same few numbers, so that two looks at /proc may see two files.
 * @returns undefined when it is closed, or is none that has an inode of its own to open (a socket)
 */
export function openFileOf(pid: number, fd: number): { readonly target: string; readonly stats: Stats } | undefined {
  let own: number;
  try {
    own = openSync(`/proc/${pid}/fd/${fd}`, O_PATH | constants.O_RDONLY); // opens no device and wakes nobody (open(2))
  } catch {
    return undefined;
  }
  try {
    return { target: readlinkSync(`/proc/self/fd/${own}`), stats: fstatSync(own) };
  } finally {
    closeSync(own);
  }
}
