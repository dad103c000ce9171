// SPDX-License-Identifier: Apache-2.0

export interface BpfErrorInit {
  readonly code: string;
  /** Negative, as in Node's own system errors. */
  readonly errno: number;
  readonly syscall: string;
  readonly description: string;
  /** What the call was about: a path, a name. */
  readonly subject?: string;
  readonly log?: string;
}

const LOG_START = '-- BEGIN PROG LOAD LOG --';
const LOG_END = '-- END PROG LOAD LOG --';
const TELLING_LINES = 3;

/** The last lines of the verifier's log, or of what libbpf said, that name the reason. */
function tellingLines(log: string): string {
  const start = log.lastIndexOf(LOG_START);
  const verifier = start < 0 ? undefined : log.slice(start + LOG_START.length).split(LOG_END)[0];
  const lines = (verifier ?? log)
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('processed ') && !line.startsWith('verification time'));
  return lines.slice(-TELLING_LINES).join('\n');
}

/**
 * A refused BPF or system call. `code` is the name of the errno ('ENOENT'), `syscall` the call, and `log` all that
 * libbpf and the verifier said about it; the message ends with the telling lines of the log.
 */
export class BpfError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
  readonly log: string | undefined;

  constructor(init: BpfErrorInit) {
    const about = init.subject === undefined ? '' : ` ${init.subject}`;
    const telling = init.log === undefined ? '' : `\n${tellingLines(init.log)}`;
    super(`${init.code}: ${init.description}, ${init.syscall}${about}${telling}`);
    this.name = 'BpfError';
    this.code = init.code;
    this.errno = init.errno;
    this.syscall = init.syscall;
    this.log = init.log;
  }
}

export function hasCode(error: unknown, ...codes: readonly string[]): error is BpfError {
  return error instanceof BpfError && codes.includes(error.code);
}
