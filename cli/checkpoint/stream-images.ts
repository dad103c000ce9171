import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { type ConnectionState, endpointText } from '../process/connection-state.js';
import { TCP_STATES, type TcpState } from '../process/sockets.js';
import { type Field, fieldIn, fieldsOf, numbersIn } from './protobuf.js';
import { streamStarts } from './stream-file.js';

export const FILES = 'files.img';
/** Two magic numbers begin every image (criu/include/magic.h), a length each message. */
const MAGIC_BYTES = 8;
const LENGTH_BYTES = 4;
/** A stream's message has 17 numbers of at most 5 bytes, each after its tag; what waits in the queues follows it. */
const STREAM_BYTES = MAGIC_BYTES + LENGTH_BYTES + 128;
/** Images that are looked at before others have their turn: a microsecond each, or some where much is unread. */
const AT_ONCE = 256;

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
  let images: Map<number, Buffer>;
  let files: Buffer;
  try {
    images = await streamImages(folder);
    if (images.size === 0) return existsSync(folder) ? { total: 0, connections: [] } : undefined;
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
      const numbers = streamOf(image);
      if (numbers !== undefined) connections.push({ ...socket, ...numbers });
      if (++read === limit) break;
      if (read % AT_ONCE === 0) await turn();
    }
  }
  return { total, connections };
}

/** The images of connections, by the inodes of their sockets: their numbers, and of what waits in the queues at most some bytes. */
export async function streamImages(folder: string): Promise<Map<number, Buffer>> {
  const images = new Map<number, Buffer>();
  for (const { inode, content } of streamStarts(folder, STREAM_BYTES)) {
    if (!images.has(inode)) images.set(inode, content);
    if (images.size % AT_ONCE === 0) await turn();
  }
  return images;
}

/** The internet sockets in an image of files, or those in some states, in the order in which CRIU met them. */
export function* socketsIn(image: Buffer, states?: readonly TcpState[]): Generator<Socket> {
  for (let at = MAGIC_BYTES; at + LENGTH_BYTES <= image.length; ) {
    const start = at + LENGTH_BYTES;
    at = start + image.readUInt32LE(at);
    if (at > image.length) return;
    const message = fieldIn(image, start, at, FILE_INET);
    if (message === undefined || message.end > at) continue;
    const state = TCP_STATES[fieldIn(image, message.at, message.end, INET.state)?.value ?? 0] ?? 'NONE';
    if (states?.includes(state) === false) continue;
    const fields = fieldsOf(image, message.at, message.end);
    const inode = fields.get(INET.inode)?.value;
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
export function windowOf(image: Buffer): Buffer | undefined {
  const numbers = WINDOW.map(numbersOfStream(image));
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
