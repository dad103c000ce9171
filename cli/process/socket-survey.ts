import { closeSync } from 'node:fs';
import {
  getsockopt,
  newSocket,
  SOCKET_KINDS,
  type SocketKind,
  type SocketQuestion,
  surveySockets,
  withNetworkNamespace,
} from '../../addon/lib/index.js';
import { readNamespace } from '../system/procfs.js';
import { FORGOTTEN_OPTIONS, type SocketOption } from './socket-options.js';
import { addressText, type Endpoint, type Holder } from './sockets.js';

/** What a new socket of each kind answers, in the order of {@link FORGOTTEN_OPTIONS}; undefined where it has no answer. */
export type SocketDefaults = Readonly<Record<SocketKind, readonly (Buffer | undefined)[]>>;

/** A socket of a tree, and the options that somebody has set on it and CRIU forgets. */
export interface SurveyedOptions extends Holder {
  /** Undefined when it is neither TCP nor UDP. */
  readonly kind: SocketKind | undefined;
  readonly local: Endpoint;
  readonly options: readonly { readonly option: SocketOption; readonly value: Buffer }[];
}

const AF = { four: 2, six: 10 } as const; // include/linux/socket.h
const TYPE = { stream: 1, datagram: 2 } as const;
const QUESTIONS: readonly SocketQuestion[] = FORGOTTEN_OPTIONS.map(({ level, option, size, kinds }) => ({
  level,
  name: option,
  size,
  kinds,
}));

/** Asks new sockets in the network namespace that `pid` is in: what is not set on a socket follows the settings there. */
export function readSocketDefaults(pid: number | 'self'): SocketDefaults {
  const here = readNamespace(pid, 'net') === readNamespace('self', 'net');
  return here ? askNewSockets() : withNetworkNamespace(`/proc/${pid}/ns/net`, askNewSockets);
}

function askNewSockets(): SocketDefaults {
  const answers = Object.fromEntries(SOCKET_KINDS.map((kind) => [kind, askNewSocket(kind)]));
  return answers as Record<SocketKind, (Buffer | undefined)[]>;
}

function askNewSocket(kind: SocketKind): (Buffer | undefined)[] {
  let fd: number;
  try {
    fd = newSocket(kind.endsWith('6') ? AF.six : AF.four, kind.startsWith('udp') ? TYPE.datagram : TYPE.stream);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAFNOSUPPORT') return []; // no IPv6 here
    throw error;
  }
  try {
    return FORGOTTEN_OPTIONS.map(({ level, option, size, kinds }) => {
      if (!kinds.includes(kind)) return undefined;
      try {
        return getsockopt(fd, level, option, size);
      } catch {
        return undefined; // this kernel does not know it
      }
    });
  } finally {
    closeSync(fd);
  }
}

/** Asks all internet sockets of a tree, each once, on another thread: some microseconds for each. */
export async function surveyTree(pids: readonly number[], defaults: SocketDefaults): Promise<SurveyedOptions[]> {
  const surveyed = await surveySockets(pids, QUESTIONS, defaults);
  return surveyed.map(({ pid, fd, kind, address, port, answers }) => ({
    pid,
    fd,
    kind,
    local: { address: addressText([...address]), port },
    options: answers.flatMap(({ question, value }) => {
      const option = FORGOTTEN_OPTIONS[question];
      if (option === undefined || (value.length === 4 && option.ownValues?.includes(value.readInt32LE()))) return [];
      return [{ option, value }];
    }),
  }));
}
