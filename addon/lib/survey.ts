// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';

/** In the order that the C++ side counts them. */
export const SOCKET_KINDS = ['tcp4', 'tcp6', 'listener4', 'listener6', 'udp4', 'udp6'] as const;
export type SocketKind = (typeof SOCKET_KINDS)[number];

/** No answer is longer; a longer one counts as none. In bytes. */
export const LONGEST_ANSWER = 40;
const DEFAULT_BYTES = 1 + LONGEST_ANSWER;
const HEAD_BYTES = 30;

/** An option that sockets are asked for. */
export interface SocketQuestion {
  readonly level: number;
  readonly name: number;
  /** How many bytes the kernel may answer with, at most {@link LONGEST_ANSWER}. */
  readonly size: number;
  readonly kinds: readonly SocketKind[];
}

export interface Answer {
  /** Position among the questions. */
  readonly question: number;
  readonly value: Buffer;
}

export interface SurveyedSocket {
  readonly pid: number;
  readonly fd: number;
  /** Undefined for internet sockets of other protocols; they are asked nothing. */
  readonly kind: SocketKind | undefined;
  /** Where it is bound: 4 or 16 bytes in network order. */
  readonly address: Buffer;
  /** 0 when it is not bound. */
  readonly port: number;
  /** What it answered otherwise than a new one. */
  readonly answers: readonly Answer[];
}

/** A new socket, closed on exec. `domain`, `type`: AF_ and SOCK_ numbers. */
export function newSocket(domain: number, type: number): number {
  return native.newSocket(domain, type);
}

/**
 * Asks every internet socket that processes hold, each once, on another thread. A process or socket that goes meanwhile is left out.
 * `defaults`: by kind, what a new socket answers to each question (undefined: nothing). Throws EPERM.
 */
export async function surveySockets(
  pids: readonly number[],
  questions: readonly SocketQuestion[],
  defaults: Readonly<Record<SocketKind, readonly (Uint8Array | undefined)[]>>,
): Promise<SurveyedSocket[]> {
  const words = questions.flatMap(({ level, name, size, kinds }) => {
    if (size > LONGEST_ANSWER) throw new RangeError(`an answer has at most ${LONGEST_ANSWER} bytes`);
    return [level, name, size, kinds.reduce((mask, kind) => mask | (1 << SOCKET_KINDS.indexOf(kind)), 0)];
  });
  const expected = new Uint8Array(SOCKET_KINDS.length * questions.length * DEFAULT_BYTES);
  for (const [row, kind] of SOCKET_KINDS.entries()) {
    for (const [column, value] of defaults[kind].entries()) {
      if (value === undefined) continue;
      const at = (row * questions.length + column) * DEFAULT_BYTES;
      expected[at] = value.length;
      expected.set(value, at + 1);
    }
  }
  return decode(await native.surveySockets(Int32Array.from(pids), Int32Array.from(words), expected));
}

function decode(records: Buffer): SurveyedSocket[] {
  const sockets: SurveyedSocket[] = [];
  for (let at = 0; at < records.length; ) {
    const answers: Answer[] = [];
    sockets.push({
      pid: records.readInt32LE(at),
      fd: records.readInt32LE(at + 4),
      kind: SOCKET_KINDS[records.readUInt8(at + 8)],
      port: records.readUInt16LE(at + 10),
      address: records.subarray(at + 12, at + (records.readUInt8(at + 9) === 1 ? 28 : 16)),
      answers,
    });
    const count = records.readUInt16LE(at + 28);
    at += HEAD_BYTES;
    for (let index = 0; index < count; index++) {
      const end = at + 4 + records.readUInt16LE(at + 2);
      answers.push({ question: records.readUInt16LE(at), value: records.subarray(at + 4, end) });
      at = end;
    }
  }
  return sockets;
}

/**
 * Sets an option of sockets that another process holds. Throws ESRCH when there is no such process.
 * Returns those that did not take it, with the errno of each.
 */
export function setSocketsOption(
  pid: number,
  fds: readonly number[],
  level: number,
  name: number,
  value: Uint8Array,
): { fd: number; errno: number }[] {
  const pairs = native.setSocketsOption(pid, Int32Array.from(fds), level, name, value);
  const failures = [];
  for (let at = 0; at < pairs.length; at += 2) failures.push({ fd: pairs[at] ?? 0, errno: pairs[at + 1] ?? 0 });
  return failures;
}
