import type { Socket } from 'node:net';
import { getsockopt } from '../../addon/lib/index.js';
import { BugError, UserError } from '../errors.js';
import type { Method } from './method.js';

const SOL_SOCKET = 1;
const SO_PEERCRED = 17; // unix(7): struct ucred, three 32-bit numbers: pid, uid, gid
const UCRED_BYTES = 12;

/** A user of this machine who asks the daemon. */
export interface Caller {
  readonly uid: number;
}

/** Who made a connection, as the kernel noted it when that was made. */
export function callerOf(socket: Socket): Caller {
  const { fd } = (socket as Socket & { _handle?: { fd?: number } })._handle ?? {}; // Node.js has no public way to it
  if (fd === undefined || fd < 0) throw new BugError('a connection of the control socket has no descriptor');
  return { uid: getsockopt(fd, SOL_SOCKET, SO_PEERCRED, UCRED_BYTES).readUInt32LE(4) };
}

/** Whether it is us, or root: may do everything. */
export function isTrusted({ uid }: Caller): boolean {
  return uid === 0 || uid === process.getuid?.();
}

/** @throws {UserError} `NOT_PERMITTED` (exit 7) unless that user may call this method at all. */
export function requirePermission(caller: Caller, { name, users }: Method): void {
  if (isTrusted(caller) || users !== undefined) return;
  throw new UserError({
    code: 'NOT_PERMITTED',
    message: `"${name}" is for root only`,
    remedy: 'run the command with sudo',
    exitStatus: 7,
  });
}

/** Whose processes a caller may move: undefined, everybody's. */
export function requesterOf(caller: Caller): { readonly requester?: number } {
  return isTrusted(caller) ? {} : { requester: caller.uid };
}
