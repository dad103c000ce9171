import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { BugError } from '../errors.js';

/**
 * What CRIU writes of connections, an image for each, is in one file (`addon/src/criu-streams.c`), whose name no image that arrives
 * can have. Its records:
 *
 *   4       4       bytes
 *   +-------+-------+---------+
 *   | inode | bytes | content |  integers as the machine has them; those of one connection follow one another
 *   +-------+-------+---------+
 */
export const STREAMS = 'tcp-streams@all';
/** The name that CRIU knows such an image by, and that it has on its way: the inode in hexadecimal. */
const NAME = /^tcp-stream-([0-9a-f]{1,8})\.img$/;
const HEADER_BYTES = 8;
/** What the library takes together at most, and writes at most. */
const RECORD_BYTES = 64 << 10;
const WINDOW_BYTES = 1 << 20;
/** Of those who want the begins only: what is unread of a connection they pass over. */
const SMALL_WINDOW_BYTES = 16 << 10;

export interface StreamRecord {
  readonly inode: number;
  readonly content: Buffer;
  /** The next record is of the same connection. */
  readonly more: boolean;
}

/** The connection of an image; undefined when it is another's image. */
export function inodeOfStream(name: string): number | undefined {
  const inode = NAME.exec(name)?.[1];
  return inode === undefined ? undefined : Number.parseInt(inode, 16);
}

export function nameOfStream(inode: number): string {
  return `tcp-stream-${inode.toString(16)}.img`;
}

/**
 * Reads the images of all connections, in the order in which they were written; none when no connection was.
 * @throws {BugError} when the file ends within a record
 */
export function* streamRecords(folder: string): Generator<StreamRecord> {
  const window = Window.open(folder, WINDOW_BYTES);
  if (window === undefined) return;
  try {
    for (let head = window.take(HEADER_BYTES); head.length > 0; ) {
      const bytes = bytesOf(head);
      const content = window.take(Math.min(bytes, RECORD_BYTES));
      if (content.length !== bytes) throw cutShort(folder);
      const next = window.take(HEADER_BYTES);
      const inode = head.readUInt32LE(0);
      yield { inode, content, more: next.length >= 4 && next.readUInt32LE(0) === inode };
      head = next;
    }
  } finally {
    window.close();
  }
}

/**
 * Reads how the image of each connection begins.
 * @param bytes at most so many of each
 * @throws {BugError} when the file ends within one
 */
export function* streamStarts(folder: string, bytes: number): Generator<Omit<StreamRecord, 'more'>> {
  const window = Window.open(folder, SMALL_WINDOW_BYTES);
  if (window === undefined) return;
  try {
    let last: { inode: number; content: Buffer } | undefined;
    for (let head = window.take(HEADER_BYTES); head.length > 0; head = window.take(HEADER_BYTES)) {
      const whole = bytesOf(head);
      if (whole > RECORD_BYTES) throw cutShort(folder);
      const inode = head.readUInt32LE(0);
      if (last !== undefined && last.inode !== inode) yield last;
      const before: Buffer = last?.inode === inode ? last.content : Buffer.alloc(0);
      const wanted = Math.min(whole, bytes - before.length);
      const start = window.take(wanted);
      if (start.length < wanted) throw cutShort(folder);
      window.skip(whole - wanted);
      last = { inode, content: wanted === 0 ? before : Buffer.concat([before, start]) }; // a copy: else the window would be kept
    }
    if (last !== undefined) yield last;
  } finally {
    window.close();
  }
}

/** Of a record, by its header; more than there can be when that is not whole. */
function bytesOf(head: Buffer): number {
  return head.length === HEADER_BYTES ? head.readUInt32LE(4) : RECORD_BYTES + 1;
}

function cutShort(folder: string): BugError {
  return new BugError(`${STREAMS} in ${folder} ends within a record`);
}

/** The file, which is read from its begin to its end. */
class Window {
  private bytes = Buffer.alloc(0);
  private at = 0;
  private position = 0;

  private constructor(
    private readonly fd: number,
    private readonly room: number,
  ) {}

  /** @returns undefined when there is none */
  static open(folder: string, room: number): Window | undefined {
    try {
      return new Window(openSync(join(folder, STREAMS), 'r'), room);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** The next bytes, which stay as they are; fewer at the end. */
  take(count: number): Buffer {
    if (this.bytes.length - this.at < count) this.goOn();
    const taken = this.bytes.subarray(this.at, this.at + count);
    this.at += taken.length;
    return taken;
  }

  skip(count: number): void {
    const here = Math.min(count, this.bytes.length - this.at);
    this.at += here;
    this.position += count - here;
  }

  close(): void {
    closeSync(this.fd);
  }

  private goOn(): void {
    const next = Buffer.allocUnsafe(this.room);
    let length = this.bytes.copy(next, 0, this.at);
    for (let got = -1; got !== 0 && length < next.length; length += got) {
      got = readSync(this.fd, next, length, next.length - length, this.position);
      this.position += got;
    }
    this.bytes = next.subarray(0, length);
    this.at = 0;
  }
}

/** The file, written for a restore. */
export class StreamFile {
  private readonly fd: number;
  private readonly inodes = new Set<number>();
  private last: number | undefined;
  private readonly gathered = Buffer.allocUnsafe(WINDOW_BYTES);
  private pending = 0;

  constructor(folder: string) {
    this.fd = openSync(join(folder, STREAMS), 'wx', 0o600);
  }

  /** Begins the image of a connection. @returns whether it is the first of that connection */
  begin(inode: number): boolean {
    this.last = inode;
    if (this.inodes.has(inode)) return false;
    this.inodes.add(inode);
    return true;
  }

  /** Adds to the image that was begun last. */
  add(content: Buffer): void {
    for (let at = 0; at < content.length; at += RECORD_BYTES) {
      const bytes = Math.min(RECORD_BYTES, content.length - at);
      if (this.pending + HEADER_BYTES + bytes > WINDOW_BYTES) this.write();
      this.gathered.writeUInt32LE(this.last ?? 0, this.pending);
      this.gathered.writeUInt32LE(bytes, this.pending + 4);
      content.copy(this.gathered, this.pending + HEADER_BYTES, at, at + bytes);
      this.pending += HEADER_BYTES + bytes;
    }
  }

  /** All images are there. */
  finish(): void {
    this.write();
    this.close();
  }

  close(): void {
    closeSync(this.fd);
  }

  private write(): void {
    for (let at = 0; at < this.pending; ) at += writeSync(this.fd, this.gathered, at, this.pending - at);
    this.pending = 0;
  }
}
