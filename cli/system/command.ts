import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { withNetworkNamespace } from '../../addon/lib/index.js';
import { ExternalError } from '../errors.js';

export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: string | Buffer;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly signal?: AbortSignal;
  /** Default 30 s; a program that has not ended by then is killed and reported. */
  readonly timeoutMs?: number;
  /** The network namespace in which it is to run, as a file; default: this process's. */
  readonly network?: string;
}

/**
 * Runs a program with an argument vector (never through a shell), and returns what it printed.
 * @throws {ExternalError} `COMMAND_FAILED` with the command and the last lines of its output, when it cannot start, exits
 * non-zero, is killed or takes longer than `timeoutMs`.
 */
export async function run(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const timeoutMs = options.timeoutMs ?? 30_000;
  const spawnOptions: SpawnOptions = {
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    env: { ...(options.env ?? process.env), LC_ALL: 'C' },
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  };
  const start = (): ChildProcess => spawn(program, args, spawnOptions);
  const child = options.network === undefined ? start() : withNetworkNamespace(options.network, start); // as its thread is
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk));
  if (options.input !== undefined) {
    child.stdin?.on('error', () => undefined); // EPIPE: the program's exit status says more
    child.stdin?.end(options.input);
  }
  const command = [program, ...args].join(' ');
  const outcome = await new Promise<string | undefined>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (status, signal) => {
      if (status === 0) resolve(undefined);
      else resolve(signal === null ? `exit status ${status}` : `ended by ${signal}`);
    });
  });
  const out = Buffer.concat(stdout).toString();
  const err = Buffer.concat(stderr).toString();
  if (outcome === undefined) return { stdout: out, stderr: err };
  throw new ExternalError({
    code: 'COMMAND_FAILED',
    message: `${program} failed: ${outcome}`,
    command,
    log: lastLines(`${out}\n${err}`, 12),
  });
}

/** The last `count` non-empty lines of a text. */
export function lastLines(text: string, count: number): string[] {
  return text
    .split('\n')
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
    .slice(-count);
}
