import { closeSync } from 'node:fs';
import { getsockopt, pidfdGetfd, pidfdOpen } from '../../addon/lib/index.js';
import type { Holder } from './sockets.js';

/** The socket or its process has gone, is none of that family, has no such thing; or we may not ask. */
const NO_ANSWER = new Set(['ESRCH', 'EBADF', 'EPERM', 'ENOPROTOOPT', 'EOPNOTSUPP', 'ENOTSOCK', 'EADDRNOTAVAIL']);

/**
 * Asks a socket of another process for an option (getsockopt(2)), which changes nothing about it.
 * @param asked as large as the answer; some options are asked with bytes in it.
 * @returns undefined when there is no answer.
 */
export function askSocket({ pid, fd }: Holder, level: number, option: number, asked: Buffer): Buffer | undefined {
  let pidfd: number | undefined;
  let socket: number | undefined;
  try {
    pidfd = pidfdOpen(pid);
    socket = pidfdGetfd(pidfd, fd);
    return getsockopt(socket, level, option, asked.length, asked);
  } catch (error) {
    if (NO_ANSWER.has((error as { code?: string }).code ?? '')) return undefined;
    throw error;
  } finally {
    if (socket !== undefined) closeSync(socket);
    if (pidfd !== undefined) closeSync(pidfd);
  }
}
