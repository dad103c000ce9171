// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';
import type { Tap, TapOptions } from './types.js';

const LONGEST_NAME = 15;

/**
 * Creates or reopens a TAP interface in this thread's network namespace. Frames are bare Ethernet: no packet
 * information, no vnet header. Throws EBUSY when somebody has it open.
 * @param name with a `%d` in it: a new one, with the lowest number that is free (dev_alloc_name)
 */
export function openTap(name: string, options: TapOptions = {}): Tap {
  if (name.length === 0 || Buffer.byteLength(name) > LONGEST_NAME) {
    throw new RangeError(`interface name '${name}' must have 1 to ${LONGEST_NAME} bytes`);
  }
  const [fd, ifindex, given] = native.openTap(name, options.persist ?? false);
  return { fd, ifindex, name: given };
}

/** Whether the interface stays when its last descriptor is closed. */
export function setTapPersist(fd: number, persist: boolean): void {
  native.setTapPersist(fd, persist);
}

function requireFrame(frame: Uint8Array): void {
  if (!(frame instanceof Uint8Array)) throw new TypeError('a frame must be a Uint8Array');
}

/** Reads one frame: its bytes (cut off at the end of `buffer`), or -1 when none waits. */
export function readFrame(fd: number, buffer: Uint8Array): number {
  requireFrame(buffer);
  return native.readFrame(fd, buffer);
}

/** Writes one frame: its bytes, or -1 when the kernel has no room now. Throws EIO while the interface is down. */
export function writeFrame(fd: number, frame: Uint8Array): number {
  requireFrame(frame);
  return native.writeFrame(fd, frame);
}
