// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';
import type { NetlinkAttribute, NetlinkMessage } from './types.js';

const HEADER = 16; // struct nlmsghdr
const ATTRIBUTE = 4; // struct nlattr
const TYPE_MASK = 0x3fff; // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

const aligned = (length: number): number => (length + 3) & ~3;

/**
 * A non-blocking NETLINK_ROUTE socket in this thread's network namespace.
 * @param groups multicast groups (RTNLGRP_*) that it hears; none: it only gets answers
 * @param receiveBytes room for what nobody has read yet; 0: the system's default
 * @returns a descriptor that the caller closes with `fs.closeSync`
 */
export function openNetlink(groups: readonly number[] = [], receiveBytes = 0): number {
  if (!groups.every((group) => Number.isInteger(group) && group > 0)) {
    throw new RangeError(`groups are positive whole numbers, not ${groups}`);
  }
  if (!Number.isInteger(receiveBytes) || receiveBytes < 0) throw new RangeError(`not a size: ${receiveBytes}`);
  return native.openNetlink(groups, receiveBytes);
}

/**
 * A non-blocking NETLINK_SOCK_DIAG socket in this thread's network namespace: the kernel's tables of sockets (sock_diag(7)).
 * @returns a descriptor that the caller closes with `fs.closeSync`
 */
export function openSocketDiagnostics(): number {
  return native.openSocketDiagnostics();
}

/** Sends a message; the kernel has acted on it when this returns, and its answer waits. */
export function sendNetlink(fd: number, message: Uint8Array): void {
  if (!(message instanceof Uint8Array)) throw new TypeError('a message must be a Uint8Array');
  native.sendNetlink(fd, message);
}

/**
 * One datagram of messages: its bytes, or -1 when none waits. Throws ENOBUFS when some were lost because nobody had read
 * them in time (the socket goes on), EMSGSIZE when the buffer is too small.
 */
export function receiveNetlink(fd: number, buffer: Uint8Array): number {
  if (!(buffer instanceof Uint8Array)) throw new TypeError('a buffer must be a Uint8Array');
  return native.receiveNetlink(fd, buffer);
}

/** A message with its header: type and flags as in linux/netlink.h; `body` is the family's structure, then attributes. */
export function encodeNetlink(
  { type, flags, sequence, body }: NetlinkMessage,
  attributes: readonly NetlinkAttribute[],
): Buffer {
  const parts: Buffer[] = [Buffer.alloc(HEADER), padded(body)];
  for (const attribute of attributes) {
    const head = Buffer.alloc(ATTRIBUTE);
    head.writeUInt16LE(ATTRIBUTE + attribute.value.length, 0);
    head.writeUInt16LE(attribute.type, 2);
    parts.push(head, padded(attribute.value));
  }
  const message = Buffer.concat(parts);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(type, 4);
  message.writeUInt16LE(flags, 6);
  message.writeUInt32LE(sequence, 8);
  return message;
}

/** The messages of one datagram. @throws {RangeError} when one is cut off */
export function decodeNetlink(datagram: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let offset = 0; offset < datagram.length; ) {
    const length = offset + HEADER <= datagram.length ? datagram.readUInt32LE(offset) : 0;
    if (length < HEADER || offset + length > datagram.length) throw new RangeError('a netlink message is cut off');
    messages.push({
      type: datagram.readUInt16LE(offset + 4),
      flags: datagram.readUInt16LE(offset + 6),
      sequence: datagram.readUInt32LE(offset + 8),
      body: Buffer.from(datagram.subarray(offset + HEADER, offset + length)),
    });
    offset += aligned(length);
  }
  return messages;
}

/** The attributes that begin at `offset`, by type; of one that occurs twice, the last. What is cut off is left out. */
export function netlinkAttributes(body: Buffer, offset: number): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  while (offset + ATTRIBUTE <= body.length) {
    const length = body.readUInt16LE(offset);
    if (length < ATTRIBUTE || offset + length > body.length) break;
    found.set(body.readUInt16LE(offset + 2) & TYPE_MASK, body.subarray(offset + ATTRIBUTE, offset + length));
    offset += aligned(length);
  }
  return found;
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes], aligned(bytes.length));
}
