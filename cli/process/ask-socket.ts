import { closeSync } from 'node:fs';
import { getsockopt, pidfdGetfd, pidfdOpen, unreadBytes, urgentMark } from '../../addon/lib/index.js';
import type { Holder } from './sockets.js';

/** The socket or its process has gone, is none of that family, has no such thing; or we may not ask. */
const NO_ANSWER = new Set(['ESRCH', 'EBADF', 'EPERM', 'ENOPROTOOPT', 'EOPNOTSUPP', 'ENOTSOCK', 'EADDRNOTAVAIL']);

/**
 * Asks a socket of another process for an option (getsockopt(2)), which changes nothing about it.
 * @param asked as large as the answer; some options are asked with bytes in it.
 * @returns undefined when there is no answer.
 */
export function askSocket(holder: Holder, level: number, option: number, asked: Buffer): Buffer | undefined {
  const interview = new SocketInterview();
  try {
    return interview.with(holder, (socket) => socket.ask(level, option, asked));
  } finally {
    interview.close();
  }
}

/** One socket of another process, held open for as long as it is asked. */
export class AskedSocket {
  constructor(private readonly fd: number) {}

  /** @returns undefined when there is no answer. */
  ask(level: number, option: number, asked: Buffer): Buffer | undefined {
    try {
      return getsockopt(this.fd, level, option, asked.length, asked);
    } catch (error) {
      if (NO_ANSWER.has(codeOf(error))) return undefined;
      throw error;
    }
  }

  /** An option that is an `int`. @returns undefined when there is no answer. */
  number(level: number, option: number): number | undefined {
    const answer = this.ask(level, option, Buffer.alloc(4));
    return answer === undefined || answer.length < 4 ? undefined : answer.readInt32LE(0);
  }

  /** An option that is a text. @returns empty when there is none. */
  text(level: number, option: number): string {
    return (this.ask(level, option, Buffer.alloc(16)) ?? Buffer.alloc(0)).toString('latin1').replace(/\0.*$/s, '');
  }

  /** What it has to read, in bytes: of TCP what comes before an urgent byte. @returns undefined when there is no answer. */
  unread(): number | undefined {
    try {
      return unreadBytes(this.fd);
    } catch (error) {
      if (codeOf(error) === 'EINVAL') return undefined; // it listens by now
      throw error;
    }
  }

  /** Of TCP: whether an urgent byte is in what it has to read, or its mark is where reading goes on. */
  urgent(): boolean {
    return urgentMark(this.fd);
  }

  /** Whether an option is there but may not be read. */
  forbidden(level: number, option: number): boolean {
    try {
      getsockopt(this.fd, level, option, 0);
      return false;
    } catch (error) {
      return codeOf(error) === 'EACCES';
    }
  }
}

/** Asks many sockets of a tree: each process is opened once. */
export class SocketInterview {
  readonly #processes = new Map<number, number>();

  /** @returns undefined when the socket or its process has gone. */
  with<Result>({ pid, fd }: Holder, body: (socket: AskedSocket) => Result): Result | undefined {
    let socket: number;
    try {
      socket = pidfdGetfd(this.#process(pid), fd);
    } catch (error) {
      if (NO_ANSWER.has(codeOf(error))) return undefined;
      throw error;
    }
    try {
      return body(new AskedSocket(socket));
    } finally {
      closeSync(socket);
    }
  }

  close(): void {
    for (const pidfd of this.#processes.values()) closeSync(pidfd);
    this.#processes.clear();
  }

  #process(pid: number): number {
    const known = this.#processes.get(pid);
    if (known !== undefined) return known;
    const opened = pidfdOpen(pid);
    this.#processes.set(pid, opened);
    return opened;
  }
}

function codeOf(error: unknown): string {
  return (error as { code?: string }).code ?? '';
}
