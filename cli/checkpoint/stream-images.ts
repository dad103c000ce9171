import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { type ConnectionState, endpointText } from '../process/connection-state.js';
import { TCP_STATES, type TcpState } from '../process/sockets.js';
import { type Field, fieldsOf, numbersIn } from './protobuf.js';

export const FILES = 'files.img';
/** `tcp-stream-<inode in hexadecimal>.img`: one for each connection. */
const STREAM = /^tcp-stream-([0-9a-f]{1,8})\.img$/;
/** Two magic numbers begin every image (criu/include/magic.h), a length each message. */
const MAGIC_BYTES = 8;
const LENGTH_BYTES = 4;
/** A stream's message has 17 numbers of at most 5 bytes, each after its tag; what waits in the queues follows it. */
const STREAM_BYTES = MAGIC_BYTES + LENGTH_BYTES + 128;
/** Images that are read before others have their turn: some 15 us for each. */
const AT_ONCE = 16;

/** CRIU's images/fdinfo.proto, sk-inet.proto and tcp-stream.proto. */
const FILE_INET = 4;
const INET = { inode: 2, state: 6, localPort: 7, remotePort: 8, local: 11, remote: 12 };
const TCP = { unread: 1, received: 2, unacknowledged: 3, sent: 4, unsent: 12 };
/** In the order of `struct tcp_repair_window`: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup (include/uapi/linux/tcp.h). */
const WINDOW = [13, 14, 15, 16, 17];
/** Not connected yet, or not any more: they have no numbers that mean anything to a correspondent. */
const UNCONNECTED = new Set(['SYN_SENT', 'CLOSE']);

export interface StoppedConnections {
  /** Of all connections. */
  readonly total: number;
  readonly connections: readonly ConnectionState[];
}

type Socket = Pick<ConnectionState, 'local' | 'remote' | 'state'> & { readonly inode: number };

/**
 * How the connections of a process stood when CRIU had stopped it, from its images; those that it found first. What cannot be
 * read is left out.
 * @param limit how many are looked at, at most
 * @returns undefined when there are no images (any more)
 */
export async function readStreams(folder: string, limit: number): Promise<StoppedConnections | undefined> {
  let images: Map<number, string>;
  let files: Buffer;
  try {
    images = streamImages(folder);
    if (images.size === 0) return { total: 0, connections: [] };
    files = readFileSync(join(folder, FILES));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const connections: ConnectionState[] = [];
  let total = images.size;
  let read = 0;
  for (const { inode, ...socket } of socketsIn(files)) {
    const image = images.get(inode);
    if (image === undefined) continue;
    images.delete(inode);
    if (UNCONNECTED.has(socket.state)) total--;
    else {
      const numbers = streamOf(readStart(join(folder, image)));
      if (numbers !== undefined) connections.push({ ...socket, ...numbers });
      if (++read === limit) break;
      if (read % AT_ONCE === 0) await turn();
    }
  }
  return { total, connections };
}

/** The images of connections, by the inodes of their sockets. */
export function streamImages(folder: string): Map<number, string> {
  const images = new Map<number, string>();
  for (const name of readdirSync(folder)) {
    const inode = STREAM.exec(name)?.[1];
    if (inode !== undefined) images.set(Number.parseInt(inode, 16), name);
  }
  return images;
}

/** The internet sockets in an image of files, or those in some states, in the order in which CRIU met them. */
export function* socketsIn(image: Buffer, states?: readonly TcpState[]): Generator<Socket> {
  for (let at = MAGIC_BYTES; at + LENGTH_BYTES <= image.length; ) {
    const start = at + LENGTH_BYTES;
    at = start + image.readUInt32LE(at);
    if (at > image.length) return;
    const message = fieldsOf(image, start, at).get(FILE_INET);
    if (message === undefined || message.end > at) continue;
    const fields = fieldsOf(image, message.at, message.end);
    const inode = fields.get(INET.inode)?.value;
    const state = TCP_STATES[fields.get(INET.state)?.value ?? 0] ?? 'NONE';
    if (states?.includes(state) === false) continue;
    const local = endpointIn(image, message, INET.local, fields.get(INET.localPort)?.value);
    const remote = endpointIn(image, message, INET.remote, fields.get(INET.remotePort)?.value);
    if (inode === undefined || local === undefined || remote === undefined) continue;
    yield { inode, local, remote, state };
  }
}

function endpointIn(image: Buffer, message: Field, number: number, port: number | undefined): string | undefined {
  const words = numbersIn(image, message, number);
  const sound = words.every(isWord) && port !== undefined && port <= 0xffff;
  if (!sound || (words.length !== 1 && words.length !== 4)) return undefined;
  const address = Buffer.alloc(4 * words.length);
  for (const [index, word] of words.entries()) address.writeUInt32LE(word, 4 * index); // as the machine has them
  return endpointText(address, port);
}

/** The numbers in the image of a connection; undefined when it is none. */
export function streamOf(
  image: Buffer,
): Pick<ConnectionState, 'sent' | 'received' | 'unread' | 'unacknowledged' | 'unsent'> | undefined {
  const numberIn = numbersOfStream(image);
  const numbers = {
    sent: numberIn(TCP.sent),
    received: numberIn(TCP.received),
    unread: numberIn(TCP.unread),
    unacknowledged: numberIn(TCP.unacknowledged),
    unsent: numberIn(TCP.unsent),
  };
  return Object.values(numbers).every(isWord) ? numbers : undefined;
}

/** How much the ends of a connection take, from its image, as the kernel is told it; undefined when that does not say it. */
export function readWindow(path: string): Buffer | undefined {
  const numbers = WINDOW.map(numbersOfStream(readStart(path)));
  return numbers.every(isWord) ? Buffer.from(Uint32Array.from(numbers).buffer) : undefined;
}

/** The numbers in the image of a connection by their fields; not a number: it has none, or is none. */
function numbersOfStream(image: Buffer): (field: number) => number {
  const start = MAGIC_BYTES + LENGTH_BYTES;
  const end = image.length < start ? Number.NaN : start + image.readUInt32LE(MAGIC_BYTES);
  if (!(end <= image.length)) return () => Number.NaN;
  const fields = fieldsOf(image, start, end);
  return (field) => {
    const found = fields.get(field);
    return found === undefined || found.end > end ? Number.NaN : found.value;
  };
}

function isWord(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;
}

function readStart(path: string): Buffer {
  const start = Buffer.alloc(STREAM_BYTES);
  const file = openSync(path, 'r');
  try {
    return start.subarray(0, readSync(file, start, 0, start.length, 0));
  } finally {
    closeSync(file);
  }
}
