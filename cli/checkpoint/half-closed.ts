import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { setSocketsOption } from '../../addon/lib/index.js';
import { textOfEndpoint } from '../process/connection-state.js';
import { readInternetSockets, readSocketHolders, type TcpState } from '../process/sockets.js';
import { errnoName } from '../system/errno.js';
import { FILES, socketsIn, streamImages, windowOf } from './stream-images.js';

/*
 * A connection whose correspondent has closed its half is restored with a FIN that CRIU sends to it itself (send_fin, soccr/soccr.c),
 * and that names a window: the lower 16 bits of what the process itself would take, which the kernel scales as a correspondent's.
 * Often that is 0, and nothing more is said until a probe is answered, after seconds; else it may be more than the correspondent
 * takes. Here the window is what it was.
 */

/** States in which the correspondent has closed its half, and the process may still have something to say. */
const HALF_CLOSED: readonly TcpState[] = ['CLOSE_WAIT', 'LAST_ACK', 'CLOSING'];
/** Sockets that are looked at before others have their turn. */
const AT_ONCE = 256;
const SOL_TCP = 6;
const TCP_REPAIR_WINDOW = 29;

/** Windows of half-closed connections, each as a `struct tcp_repair_window`, by both ends of the connection. */
export type Windows = ReadonlyMap<string, Buffer>;

/** What the windows were, from the images that came. */
export async function readWindows(folder: string): Promise<Windows> {
  const windows = new Map<string, Buffer>();
  const files = await readFile(join(folder, FILES)).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return Buffer.alloc(0); // it has nothing open
    throw error;
  });
  let images: Map<number, Buffer> | undefined;
  let seen = 0;
  for (const { inode, local, remote } of socketsIn(files, HALF_CLOSED)) {
    if (++seen % AT_ONCE === 0) await turn();
    images ??= await streamImages(folder); // most processes have no such connection, and may have thousands of others
    const image = images.get(inode);
    const window = image === undefined ? undefined : windowOf(image);
    if (window !== undefined) windows.set(`${local} ${remote}`, window);
  }
  return windows;
}

/**
 * Sets the windows of restored connections, which are in repair mode, again.
 * @param pids of the restored tree, as this node sees them
 * @returns what could not be set, in words
 */
export function restoreWindows(windows: Windows, pids: readonly number[]): string[] {
  const [first] = pids;
  if (windows.size === 0 || first === undefined) return [];
  const holders = readSocketHolders(pids);
  const failures = new Set<string>();
  for (const { local, remote, inode } of readInternetSockets(first, ['tcp', 'tcp6'], HALF_CLOSED)) {
    const window = windows.get(`${textOfEndpoint(local)} ${textOfEndpoint(remote)}`);
    const holder = holders.get(inode);
    if (window === undefined || holder === undefined) continue;
    for (const { errno } of setSocketsOption(holder.pid, [holder.fd], SOL_TCP, TCP_REPAIR_WINDOW, window)) {
      failures.add(`how much the correspondent of a half-closed connection takes at once: ${errnoName(errno)}`);
    }
  }
  return [...failures];
}
