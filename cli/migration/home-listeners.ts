import { closeSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { getsockopt, pidfdGetfd, pidfdOpen } from '../../addon/lib/index.js';
import { ExternalError, UserError } from '../errors.js';
import type { Listener, ProcessDescription } from '../process/description.js';
import { findHolders } from '../process/file-holders.js';
import { type Holder, type InternetSocket, readInternetSockets, readSocketHolders } from '../process/sockets.js';
import type { ArrivalRecord } from './records.js';

/** What `addon/src/criu-listeners.c` reads: no name of an image that arrives has such a sign in it (image-stream.ts). */
const FILE = 'listeners@home';
const RECORD_BYTES = 16;
const SOL_SOCKET = 1;
const SO_COOKIE = 57; // include/uapi/asm-generic/socket.h

/** Whether a process has listeners that stayed at its home with others. */
export function leftListeners({ listening }: Pick<ProcessDescription, 'listening'>): boolean {
  return listening.some(({ cookie }) => cookie !== undefined);
}

/**
 * Listeners of this node that a process which comes home had together with others, and that those still have: held open here until it
 * has them too. What nobody has any more is made anew, as any listener is.
 */
export class HomeListeners {
  private constructor(private readonly held: { readonly socket: InternetSocket; readonly fd: number }[]) {}

  /**
   * Takes hold of them and says to the restore where they are.
   * @throws {UserError} `LISTENER_OUT_OF_REACH` when there is one, and none of those that have it can be asked for it
   */
  static take({ images, request }: Pick<ArrivalRecord, 'images' | 'request'>): HomeListeners {
    const listeners = new HomeListeners([]);
    try {
      for (const socket of stillThere(request.description)) {
        const fd = borrow(socket);
        if (fd !== undefined) listeners.held.push({ socket, fd });
      }
      listeners.write(images);
      return listeners;
    } catch (error) {
      listeners.close();
      throw error;
    }
  }

  private write(folder: string): void {
    if (this.held.length === 0) return;
    const records = this.held.map(({ socket: { cookie = '' }, fd }) => {
      const record = Buffer.alloc(RECORD_BYTES);
      record.writeUInt32LE(process.pid, 0);
      record.writeUInt32LE(fd, 4);
      record.writeBigUInt64LE(BigInt(`0x${cookie}`), 8);
      return record;
    });
    writeFileSync(join(folder, FILE), Buffer.concat(records), { mode: 0o600 });
  }

  /** Their inodes: what is set on them is set for those at home too. */
  get inodes(): ReadonlySet<number> {
    return new Set(this.held.map(({ socket }) => socket.inode));
  }

  /**
   * CRIU has restored the tasks, which do not run yet: none of them may have a second listener beside one of these.
   * @throws {ExternalError} `LISTENER_TWICE`
   */
  requireNoOther(tasks: readonly number[]): void {
    if (this.held.length === 0) return;
    const theirs = readSocketHolders(tasks);
    const own = this.inodes;
    const second = readListeners().find(
      (listener) =>
        theirs.has(listener.inode) &&
        !own.has(listener.inode) &&
        this.held.some(({ socket }) => isAt(listener, { ...socket.local, transport: socket.transport })),
    );
    if (second === undefined) return;
    throw new ExternalError({
      code: 'LISTENER_TWICE',
      command: 'criu restore',
      message: `CRIU made a second listener on port ${second.local.port}, beside the one that is there`,
      remedy: 'use a CRIU that is dynamically linked against the C library of this system',
    });
  }

  close(): void {
    for (const { fd } of this.held.splice(0)) closeSync(fd);
  }
}

/** Those of a process's listeners that stayed here and are here still. */
function stillThere({ listening }: Pick<ProcessDescription, 'listening'>): InternetSocket[] {
  if (!leftListeners({ listening })) return [];
  const here = new Map(readListeners().map((socket) => [socket.cookie, socket]));
  return listening.flatMap((listener) => {
    const socket = listener.cookie === undefined ? undefined : here.get(listener.cookie);
    return socket !== undefined && isAt(socket, listener) ? [socket] : [];
  });
}

function readListeners(): InternetSocket[] {
  return readInternetSockets('self', ['tcp', 'tcp6'], ['LISTEN']);
}

function isAt(
  { transport, local }: InternetSocket,
  other: Pick<Listener, 'address' | 'port'> & { transport: string },
): boolean {
  return transport === other.transport && local.port === other.port && local.address === other.address;
}

/** Whoever has it may end in the very moment, and others have it still: they are asked as long as there is one. */
function borrow(socket: InternetSocket): number | undefined {
  const asked: number[] = [process.pid];
  for (;;) {
    const holder = findHolders(new Set([socket.inode]), { among: asked }).get(socket.inode);
    if (holder === undefined) break;
    asked.push(holder.pid);
    const fd = descriptorOf(holder);
    if (fd === undefined) continue;
    if (cookieOf(fd) === socket.cookie) return fd;
    closeSync(fd);
  }
  if (!readListeners().some(({ cookie }) => cookie === socket.cookie)) return undefined;
  throw new UserError({
    code: 'LISTENER_OUT_OF_REACH',
    message: `the listener on port ${socket.local.port}, which stayed at home, belongs to a process that nobody may look into`,
    remedy: 'end that process, or leave this one where it is',
  });
}

function descriptorOf({ pid, fd }: Holder): number | undefined {
  try {
    const pidfd = pidfdOpen(pid);
    try {
      return pidfdGetfd(pidfd, fd);
    } finally {
      closeSync(pidfd);
    }
  } catch (error) {
    if (['ESRCH', 'EBADF', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

function cookieOf(fd: number): string {
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, 8).readBigUInt64LE().toString(16).padStart(16, '0');
}
