import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { ExternalError, UserError } from '../errors.js';
import { type CommandOptions, type CommandResult, lastLines, run } from '../system/command.js';
import { listProcesses, readChildren, readNamespace, readNamespacePids } from '../system/procfs.js';
import { projectFile } from '../system/project.js';
import { inCgroup, SESSION_CGROUP } from './holder.js';
import { NODE_PROGRAMS } from './node-files.js';
import type { NodeRole } from './plan.js';
import type { NodeState } from './state.js';

const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const;
const FROM_KEYBOARD = ['SIGINT', 'SIGQUIT'] as const;

export interface DetachOptions {
  /** Added to the environment. */
  readonly env?: NodeJS.ProcessEnv;
  /** A file in the node to which its output is appended; default: nowhere. */
  readonly output?: string;
  /** The cgroup in the node that it joins. */
  readonly cgroup?: string;
  /** Given a stream, the command finds descriptor 3 connected to it. */
  readonly onStart?: (descriptor3: NodeJS.ReadableStream) => void;
}

/** A running node of a lab, and the ways into it. */
export class LabNode {
  readonly name: string;
  readonly role: NodeRole;
  readonly address: string;
  readonly address6: string;
  /** Its pid 1, as this machine numbers it. */
  readonly initPid: number;

  constructor(private readonly state: NodeState) {
    this.name = state.name;
    this.role = state.role;
    this.address = state.address;
    this.address6 = state.address6;
    this.initPid = state.init.pid;
  }

  /** The node's file, as this machine can open it. For plain paths: an absolute symbolic link would lead out of the node. */
  path(inside: string): string {
    return join(`/proc/${this.initPid}/root`, inside);
  }

  /**
   * Runs a command in all of the node's namespaces and returns what it printed.
   * @throws {ExternalError} `COMMAND_FAILED`
   */
  async run(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    const [program, ...args] = this.#enter(command);
    return await run(program, args, { ...options, env: environment(options.env) });
  }

  /** Starts a command in the node; it is a child of this process (through `nsenter`), which must await its end. */
  spawn(command: readonly string[], stdio: StdioOptions, env: NodeJS.ProcessEnv = {}): ChildProcess {
    const [program, ...args] = this.#enter(command);
    return spawn(program, args, { stdio, env: environment(env) });
  }

  /**
   * Runs a command with this process's own standard streams, and passes on the signals that this process gets.
   * @returns its exit status, or 128 + the number of the signal that ended it
   */
  async exec(command: readonly string[]): Promise<number> {
    // On a terminal the command stays in the foreground group, where the keyboard's signals reach it directly; nsenter
    // is there too, and must live to tell how the command ended.
    const terminal = process.stdin.isTTY === true;
    const [program = '', ...args] = terminal
      ? ['env', '--ignore-signal=INT,QUIT', ...this.#enter(['env', '--default-signal=INT,QUIT', ...command])]
      : this.#enter(command);
    const child = spawn(program, args, { stdio: 'inherit', env: environment({}), detached: !terminal });
    const forward = (signal: NodeJS.Signals): void => signalInside(child, signal);
    const ignore = (): void => undefined;
    for (const signal of FORWARDED) process.on(signal, forward);
    for (const signal of FROM_KEYBOARD) process.on(signal, terminal ? ignore : forward);
    try {
      return await new Promise<number>((resolve, reject) => {
        child.once('error', reject);
        child.once('exit', (status, signal) => resolve(status ?? 128 + constants.signals[signal ?? 'SIGKILL']));
      });
    } finally {
      for (const signal of FORWARDED) process.off(signal, forward);
      for (const signal of FROM_KEYBOARD) process.off(signal, terminal ? ignore : forward);
    }
  }

  /**
   * Starts a command in a session of its own, with its standard streams on /dev/null, as a child of the node's pid 1. It
   * lives until it ends or the lab is taken down.
   * @returns its pid in the node
   * @throws {UserError} `COMMAND_NOT_FOUND`
   */
  async detach(command: readonly string[], options: DetachOptions = {}): Promise<number> {
    const script = projectFile('config/lab/detach.sh');
    const detached = ['sh', script, options.output ?? '/dev/null', ...command];
    const [program, ...args] = this.#enter(detached, options.cgroup);
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe', ...(options.onStart === undefined ? [] : ['pipe' as const])],
      env: environment(options.env ?? {}),
    });
    options.onStart?.(child.stdio[3] as NodeJS.ReadableStream);
    let printed = '';
    let complaint = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      printed += chunk.toString();
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      complaint += chunk.toString();
    });
    const status = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      // Not 'close': descriptor 3 stays open in the command.
      let open = 3;
      const oneLess = (): void => {
        if (--open === 0) resolve(child.exitCode);
      };
      child.once('exit', oneLess);
      child.stdout?.once('close', oneLess);
      child.stderr?.once('close', oneLess);
    });
    if (status === 0) return Number(printed);
    if (status === 127) {
      throw new UserError({ code: 'COMMAND_NOT_FOUND', message: `${this.name} has no command ${command[0]}` });
    }
    throw new ExternalError({
      code: 'LAB_EXEC',
      message: `the command could not be started in ${this.name}`,
      command: command.join(' '),
      log: lastLines(complaint, 8),
    });
  }

  /** The pid on this machine of a process that the node numbers `inside`; undefined when there is none. */
  machinePid(inside: number): number | undefined {
    const namespace = readNamespace(this.initPid, 'pid');
    return listProcesses().find(
      (pid) => readNamespacePids(pid).at(-1) === inside && readNamespace(pid, 'pid') === namespace,
    );
  }

  #enter(command: readonly string[], cgroup = SESSION_CGROUP): [string, ...string[]] {
    const all = ['-m', '-u', '-i', '-n', '-p', '-C', '-T', '-r', '-w'];
    const enter = ['nsenter', '-t', String(this.initPid), ...all, '--', ...command];
    return inCgroup(join(this.state.cgroup, cgroup), enter);
  }
}

/** Ours, without what concerns this machine alone, and with the node's `homeproxy` and the Node.js that runs us. */
function environment(added: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(
    ([name]) => name === 'HOMEPROXY_DEBUG' || !/^(HOMEPROXY_|npm_|NODE_OPTIONS$|TMPDIR$|XDG_|PWD$|OLDPWD$)/.test(name),
  );
  const path = [NODE_PROGRAMS, process.env.PATH, SYSTEM_PATH, dirname(process.execPath)];
  return { ...Object.fromEntries(inherited), PATH: path.filter(Boolean).join(':'), HOME: '/root', ...added };
}

/** nsenter waits for its only child, the command, and passes no signals on. */
function signalInside(nsenter: ChildProcess, signal: NodeJS.Signals): void {
  const inside = nsenter.pid === undefined ? [] : readChildren(nsenter.pid);
  for (const pid of inside.length > 0 || nsenter.pid === undefined ? inside : [nsenter.pid]) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}
