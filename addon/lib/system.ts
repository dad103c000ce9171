// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync } from 'node:fs';
import { constants as os } from 'node:os';
import { native } from './native.js';
import type { LockMode, TcpRepairMode, Watch } from './types.js';

const { CLONE_NEWNET, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, TCP_REPAIR_OFF, TCP_REPAIR_OFF_NO_WP, TCP_REPAIR_ON } =
  native.constants;
const REPAIR_MODES: Record<TcpRepairMode, number> = {
  on: TCP_REPAIR_ON,
  off: TCP_REPAIR_OFF,
  'off-no-window-probe': TCP_REPAIR_OFF_NO_WP,
};
const LOCK_MODES: Record<LockMode, number> = { exclusive: LOCK_EX, shared: LOCK_SH, unlock: LOCK_UN };

/**
 * Moves this thread, and nothing else of the process, into a namespace. `nstype` is a CLONE_NEW* constant, 0 for
 * whatever the descriptor is. (A mount namespace cannot be entered by one of several threads: EINVAL.)
 */
export function setns(fd: number, nstype = 0): void {
  native.setns(fd, nstype);
}

function enterNetworkNamespace(path: string): void {
  const fd = openSync(path, 'r');
  try {
    native.setns(fd, CLONE_NEWNET);
  } finally {
    closeSync(fd);
  }
}

/**
 * Runs `body` in the network namespace of `path` (/proc/<pid>/ns/net, or where it is mounted) and comes back whatever
 * happens. `body` must be synchronous: Node's own asynchronous work runs on threads that did not move.
 */
export function withNetworkNamespace<R>(path: string, body: () => R): R {
  const own = openSync('/proc/thread-self/ns/net', 'r');
  try {
    enterNetworkNamespace(path);
    let result: R;
    try {
      result = body();
    } finally {
      native.setns(own, CLONE_NEWNET);
    }
    if (result instanceof Promise) {
      result.catch(() => undefined);
      throw new TypeError('the body of withNetworkNamespace must not be asynchronous');
    }
    return result;
  } finally {
    closeSync(own);
  }
}

/** A descriptor that stands for the process, and is readable when it has ended. Throws ESRCH. */
export function pidfdOpen(pid: number): number {
  return native.pidfdOpen(pid);
}

/** A descriptor of another process, shared with it: the same socket. Throws EBADF, EPERM. */
export function pidfdGetfd(pidfd: number, fd: number): number {
  return native.pidfdGetfd(pidfd, fd);
}

/** `signal`: name or number; 0 only asks whether the process lives. Throws ESRCH. */
export function pidfdSendSignal(pidfd: number, signal: NodeJS.Signals | number): void {
  native.pidfdSendSignal(pidfd, typeof signal === 'number' ? signal : os.signals[signal]);
}

/** Silent mode of a TCP socket: while it is on, closing and changing it sends nothing. Needs CAP_NET_ADMIN. */
export function tcpRepair(fd: number, mode: TcpRepairMode): void {
  native.tcpRepair(fd, REPAIR_MODES[mode]);
}

export function tcpRepairState(fd: number): 'on' | 'off' {
  return native.tcpRepairState(fd) === TCP_REPAIR_ON ? 'on' : 'off';
}

/**
 * `size`: room for the option, in bytes; returns as many as the kernel filled. `asked`: what the room begins with, for options
 * that are asked with a structure (MCAST_MSFILTER).
 */
export function getsockopt(fd: number, level: number, name: number, size: number, asked?: Uint8Array): Buffer {
  if (asked !== undefined && !(asked instanceof Uint8Array)) throw new TypeError('asked must be a Uint8Array');
  return native.getsockopt(fd, level, name, size, asked);
}

/** The address that a socket is bound to, as the kernel lays it out for its family (sockaddr_in, sockaddr_in6, ...). */
export function getsockname(fd: number): Buffer {
  return native.getsockname(fd);
}

/** What a socket has to read, in bytes; of TCP only what comes before an urgent byte. Throws EINVAL for a listener. */
export function unreadBytes(fd: number): number {
  return native.unreadBytes(fd);
}

/** Whether a TCP socket has an urgent byte to read, or reading would go on at the mark of one; takes nothing away. */
export function urgentMark(fd: number): boolean {
  return native.urgentMark(fd);
}

export function setsockopt(fd: number, level: number, name: number, value: Uint8Array): void {
  if (!(value instanceof Uint8Array)) throw new TypeError('value must be a Uint8Array');
  native.setsockopt(fd, level, name, value);
}

/** Keeps a descriptor from children that are spawned later: for those that a library opened without O_CLOEXEC. */
export function closeOnExec(fd: number): void {
  native.closeOnExec(fd);
}

/** The seals of a memfd, F_SEAL_ bits (fcntl(2)). Throws EINVAL for what is none. */
export function memfdSeals(fd: number): number {
  return native.memfdSeals(fd);
}

/**
 * Gives a pipe or FIFO room for `bytes`. Returns the room that it has now, in bytes: at least one page, rounded up to a power of
 * two of them (F_SETPIPE_SZ, fcntl(2)). Throws EBUSY when more than that waits in it; EPERM without CAP_SYS_RESOURCE beyond
 * fs.pipe-max-size.
 */
export function setPipeSize(fd: number, bytes: number): number {
  return native.setPipeSize(fd, bytes);
}

/** Makes a FIFO of mode 0600, less the umask (mkfifo(3)). Throws EEXIST, ENOENT. */
export function makeFifo(path: string): void {
  native.makeFifo(path);
}

/** The number of an interface in the network namespace of this thread (if_nametoindex(3)). Throws ENODEV. */
export function interfaceIndex(name: string): number {
  return native.interfaceIndex(name);
}

/** Longest value that {@link getxattr} reads, in bytes. */
const MAX_ATTRIBUTE = 8192;

/** An extended attribute of a file or cgroup (xattr(7)). Throws ENODATA, ENOTSUP, ENOENT, ERANGE (more than 8 KiB). */
export function getxattr(path: string, name: string): Buffer {
  return native.getxattr(path, name, MAX_ATTRIBUTE);
}

/** Locks an open file; the lock goes with its last descriptor. false when `nonblocking` and another holds it. */
export function flock(fd: number, mode: LockMode, nonblocking = false): boolean {
  return native.flock(fd, LOCK_MODES[mode] | (nonblocking ? LOCK_NB : 0));
}

/** Calls `callback` on every turn of the loop in which `fd` is readable. Close the watch before the descriptor. */
export function pollReadable(fd: number, callback: () => void): Watch {
  if (typeof callback !== 'function') throw new TypeError('callback must be a function');
  return new native.Watch(fd, callback);
}
