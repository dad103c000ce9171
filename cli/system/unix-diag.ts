import { netlinkAttributes } from '../../addon/lib/index.js';
import { dumpSockets } from './socket-diagnostics.js';

const AF_UNIX = 1;
const ALL_STATES = 0xffffffff;
const SHOW_NAME_PEER_ICONS = 0x1 | 0x4 | 0x8; // include/uapi/linux/unix_diag.h
const UNIX_DIAG = { name: 0, peer: 2, icons: 3 } as const;
const TYPES: Readonly<Record<number, UnixSocket['type']>> = { 1: 'stream', 2: 'datagram', 5: 'seqpacket' };
const TCP_LISTEN = 10;

/** A unix socket of a network namespace. */
export interface UnixSocket {
  readonly inode: number;
  readonly type: 'stream' | 'datagram' | 'seqpacket';
  readonly listening: boolean;
  /** Where it is bound; `@name` when abstract. Undefined: nowhere. */
  readonly name: string | undefined;
  /** Inode of the socket that it is connected to; undefined: none. */
  readonly peer: number | undefined;
  /** Of a listener: inodes of the sockets whose connections nobody has accepted; 0 for one that has been closed meanwhile. */
  readonly waiting: readonly number[];
}

/**
 * All unix sockets of the network namespace that `pid` is in; none when it is gone. /proc/net/unix does not tell who is connected to whom.
 * @throws {ExternalError} `NO_UNIX_DIAG` when the kernel was built without (CRIU needs it too).
 */
export function readUnixSockets(pid: number): UnixSocket[] {
  const answers = dumpSockets(pid, 'unix_diag', question()) ?? [];
  return answers.map(parse).filter((socket) => socket !== undefined);
}

/**
 * The request is a `struct unix_diag_req` (include/uapi/linux/unix_diag.h):
 *
 *   1        1        2     4        4       4      8
 *   +--------+--------+-----+--------+-------+------+----------+
 *   | family | 0      |     | states | inode | show | cookie   |
 *   +--------+--------+-----+--------+-------+------+----------+
 */
function question(): Buffer {
  const body = Buffer.alloc(24);
  body.writeUInt8(AF_UNIX, 0);
  body.writeUInt32LE(ALL_STATES, 4);
  body.writeUInt32LE(SHOW_NAME_PEER_ICONS, 12);
  return body;
}

/** `struct unix_diag_msg`: family, type, state, pad, inode, cookie[2]; then attributes. */
function parse(body: Buffer): UnixSocket | undefined {
  const type = TYPES[body.readUInt8(1)];
  if (type === undefined) return undefined;
  const attributes = netlinkAttributes(body, 16);
  const icons = attributes.get(UNIX_DIAG.icons) ?? Buffer.alloc(0);
  return {
    inode: body.readUInt32LE(4),
    type,
    listening: body.readUInt8(2) === TCP_LISTEN,
    name: nameOf(attributes.get(UNIX_DIAG.name)),
    peer: attributes.get(UNIX_DIAG.peer)?.readUInt32LE(0) || undefined, // 0: it has been closed
    waiting: Array.from({ length: icons.length / 4 }, (_, index) => icons.readUInt32LE(index * 4)),
  };
}

/** A path may end with a zero byte; an abstract name begins with one (unix(7)). */
function nameOf(bytes: Buffer | undefined): string | undefined {
  if (bytes === undefined || bytes.length === 0) return undefined;
  if (bytes[0] === 0) return `@${bytes.subarray(1).toString('latin1')}`;
  return bytes.toString('utf8').replace(/\0+$/, '');
}
