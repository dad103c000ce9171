import { setMaxListeners } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.js';
import type { Authority } from '../identity/ca.js';
import { startDaemon, stopDaemon } from './daemon.js';
import { isRunning, startNode, startSwitch } from './holder.js';
import { killCgroup, labCgroup } from './lab-cgroup.js';
import { LabNode } from './lab-node.js';
import { LabLock } from './lock.js';
import { connect } from './network.js';
import { writeNodeFiles } from './node-files.js';
import { checkLabName, DEFAULT_HOSTS, type LabAttach, type NodeRole, planNodes } from './plan.js';
import { sharedSystem } from './shared-system.js';
import { LabFiles, type LabState, type NodeState } from './state.js';

export interface LabOptions {
  readonly name: string;
  /** Number of care-of hosts; default 2. */
  readonly hosts?: number;
  /** Where the daemons attach to eth0; default xdp. */
  readonly attach?: LabAttach;
  /** Links with checksum and segmentation offload, which native XDP does not bear; default false. */
  readonly offloads?: boolean;
  /** False leaves the daemons out; default true. */
  readonly daemons?: boolean;
  readonly signal?: AbortSignal;
  /** Told about each step that begins. */
  readonly onStep?: (step: string) => void;
}

export interface NodeStatus {
  readonly name: string;
  readonly address: string;
  readonly address6: string;
  readonly role: NodeRole;
  /** The node's pid 1, as this machine numbers it. */
  readonly pid: number;
  readonly running: boolean;
  /** Its daemon, as this machine numbers it; null when none was started, or it was stopped. */
  readonly daemon: { readonly pid: number; readonly running: boolean } | null;
}

export interface LabStatus {
  readonly lab: string;
  /** `broken`: half built, or one of its nodes is dead. */
  readonly state: 'up' | 'down' | 'broken';
  readonly nodes: readonly NodeStatus[];
}

/** A network of nodes on this machine, each in its own namespaces, all in one cgroup. */
export class Lab {
  private constructor(
    readonly name: string,
    readonly nodes: readonly LabNode[],
  ) {}

  /**
   * Builds a lab, or returns the running one of that name when it is the same. When it fails, or `signal` aborts it,
   * nothing is left of it.
   * @throws {UserError} `LAB_DIFFERS` when a lab of that name is up with other options
   * @throws {ExternalError} what could not be built
   */
  static async up(options: LabOptions): Promise<Lab> {
    const { signal } = options;
    requireRoot();
    if (signal !== undefined) setMaxListeners(0, signal); // as many programs as the lab has nodes listen to it at once
    const files = new LabFiles(checkLabName(options.name));
    const lock = await LabLock.exclusive(files, signal);
    try {
      const existing = files.read();
      if (existing !== undefined && statusOf(existing).state === 'up') {
        requireSame(existing, options);
        if (options.daemons ?? true) await startDaemons(files, existing, options);
        return Lab.#from(existing);
      }
      await takeDown(files); // what an interrupted command left
      try {
        return Lab.#from(await build(files, options));
      } catch (error) {
        await takeDown(files);
        signal?.throwIfAborted(); // a Ctrl-C also ends the programs that we were waiting for: say why
        throw error;
      }
    } finally {
      lock.release();
    }
  }

  /**
   * The running lab of that name; waits for a command that builds it.
   * @throws {UserError} `LAB_DOWN`
   */
  static async open(name: string): Promise<Lab> {
    return Lab.#from(await runningState(new LabFiles(checkLabName(name)), name));
  }

  /** What is there of a lab; no error when there is none. */
  static async status(name: string): Promise<LabStatus> {
    requireRoot();
    const files = new LabFiles(checkLabName(name));
    const lock = await LabLock.shared(files);
    try {
      const state = files.read();
      if (state !== undefined) return statusOf(state);
      const remains = existsSync(files.folder) || existsSync(labCgroup(name));
      return { lab: name, state: remains ? 'broken' : 'down', nodes: [] };
    } finally {
      lock?.release();
    }
  }

  /**
   * Takes a lab down, a half-built one too, with every process in it.
   * @param options.reaped false: do not wait until this machine's pid 1 has noticed that they ended (some take a second)
   * @returns whether there was anything
   */
  static async down(name: string, options: { reaped?: boolean } = {}): Promise<boolean> {
    requireRoot();
    const files = new LabFiles(checkLabName(name));
    const lock = await LabLock.exclusive(files);
    try {
      const remains = existsSync(files.folder) || existsSync(labCgroup(name));
      await takeDown(files, options.reaped ?? true);
      return remains;
    } finally {
      lock.release();
    }
  }

  /** @throws {UserError} `LAB_NODE_UNKNOWN` */
  node(name: string): LabNode {
    const node = this.nodes.find((candidate) => candidate.name === name);
    if (node !== undefined) return node;
    throw new UserError({
      code: 'LAB_NODE_UNKNOWN',
      message: `the lab has no node ${name}; it has ${this.nodes.map((known) => known.name).join(', ')}`,
    });
  }

  /** What signed the certificates of the nodes. */
  get files(): LabFiles {
    return new LabFiles(this.name);
  }

  /** Starts a node's daemon and waits until it serves; one that runs is left alone. Returns its pid on this machine. */
  async startDaemon(node: string): Promise<number> {
    return await this.#changeDaemon(node, async (state) => {
      if (!isRunning(state.daemon)) state.daemon = await startDaemon(this.#daemonNode(node));
      return state.daemon.pid;
    });
  }

  /** Ends a node's daemon in order (SIGTERM) or without its knowledge (SIGKILL), and waits until it is gone. */
  async stopDaemon(node: string, signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#changeDaemon(node, async (state) => {
      if (state.daemon !== undefined) await stopDaemon(this.#daemonNode(node), state.daemon, signal);
      delete state.daemon;
    });
  }

  #daemonNode(name: string): LabNode {
    const node = this.node(name);
    if (node.role !== 'client') return node;
    throw new UserError({ code: 'LAB_NO_DAEMON', message: `${name} is a correspondent: it runs no daemon` });
  }

  async #changeDaemon<Result>(name: string, change: (state: NodeState) => Promise<Result>): Promise<Result> {
    this.#daemonNode(name);
    const files = this.files;
    const lock = await LabLock.exclusive(files);
    try {
      const lab = files.read();
      const state = lab?.nodes.find((node) => node.name === name);
      if (lab === undefined || state === undefined) throw labDown(this.name);
      const result = await change(state);
      files.write(lab);
      return result;
    } finally {
      lock.release();
    }
  }

  static #from(state: LabState): Lab {
    return new Lab(
      state.name,
      state.nodes.map((node) => new LabNode(node)),
    );
  }
}

async function build(files: LabFiles, options: LabOptions): Promise<LabState> {
  const { name, signal, onStep } = options;
  const { attach, offloads } = linksOf(options);
  signal?.throwIfAborted();
  onStep?.('namespaces');
  files.create();
  const top = labCgroup(name);
  mkdirSync(top, { recursive: true });
  const system = sharedSystem();
  const planned = planNodes(options.hosts ?? DEFAULT_HOSTS, process.hrtime()[0]);
  // All settle before anything is taken down: a process that has not yet joined the lab's cgroup would escape.
  const [authority, hub, ...inits] = await allDone([
    makeAuthority(name),
    startSwitch(join(top, 'switch')),
    ...planned.map((node) => startNode(node, join(top, node.name), files.root, system)),
  ]);
  const nodes = planned.flatMap((node, index) => {
    const init = inits[index];
    return init === undefined ? [] : [{ ...node, init, cgroup: join(top, node.name) }];
  });
  const lab: LabState = { version: 1, name, attach, offloads, switch: hub, nodes };

  signal?.throwIfAborted();
  onStep?.('network and certificates');
  writeAuthority(files, authority);
  const steps = [connect(lab, signal), ...nodes.map((node) => writeNodeFiles(node, lab, authority))];
  await allDone(steps);

  signal?.throwIfAborted();
  files.write(lab);
  if (options.daemons ?? true) await startDaemons(files, lab, options);
  return lab;
}

/** Loaded only here: every other lab command starts a quarter of a second faster without. */
async function makeAuthority(lab: string): Promise<Authority> {
  const { createAuthority } = await import('../identity/ca.js');
  return await createAuthority({ name: `homeproxy lab ${lab}` });
}

function writeAuthority(files: LabFiles, authority: Authority): void {
  writeFileSync(files.authorityCertificate, authority.certificate, { mode: 0o600 });
  writeFileSync(files.authorityKey, authority.key, { mode: 0o600 });
}

/** Starts the daemons that do not run. */
async function startDaemons(files: LabFiles, lab: LabState, options: LabOptions): Promise<void> {
  const waiting = lab.nodes.filter((node) => node.role !== 'client' && !isRunning(node.daemon));
  if (waiting.length === 0) return;
  options.onStep?.('daemons');
  try {
    await allDone(
      waiting.map(async (node) => {
        node.daemon = await startDaemon(new LabNode(node), options.signal);
      }),
    );
  } finally {
    files.write(lab);
  }
}

/** Waits for all, then throws the first failure: nothing goes on behind the back of a clean-up. */
async function allDone<Results extends readonly unknown[]>(
  steps: readonly [...{ [Index in keyof Results]: Promise<Results[Index]> }],
): Promise<Results> {
  const outcomes = await Promise.allSettled(steps);
  return outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  }) as unknown as Results;
}

async function takeDown(files: LabFiles, reaped = false): Promise<void> {
  await killCgroup(labCgroup(files.name), { reaped });
  files.remove();
}

async function runningState(files: LabFiles, name: string): Promise<LabState> {
  requireRoot();
  const lock = await LabLock.shared(files);
  const state = files.read();
  lock?.release();
  if (state === undefined || statusOf(state).state !== 'up') throw labDown(name);
  return state;
}

function statusOf(lab: LabState): LabStatus {
  const nodes = lab.nodes.map((node) => ({
    name: node.name,
    address: node.address,
    address6: node.address6,
    role: node.role,
    pid: node.init.pid,
    running: isRunning(node.init),
    daemon: node.daemon === undefined ? null : { pid: node.daemon.pid, running: isRunning(node.daemon) },
  }));
  const whole = isRunning(lab.switch) && nodes.every((node) => node.running);
  return { lab: lab.name, state: whole ? 'up' : 'broken', nodes };
}

function requireSame(existing: LabState, options: LabOptions): void {
  const hosts = existing.nodes.filter((node) => node.role === 'host').length;
  const { attach, offloads } = linksOf(options);
  const same = existing.attach === attach && existing.offloads === offloads;
  if (same && hosts === (options.hosts ?? DEFAULT_HOSTS)) return;
  throw new UserError({
    code: 'LAB_DIFFERS',
    message:
      `the lab "${existing.name}" is up with ${hosts} hosts, attach ${existing.attach}, ` +
      `${existing.offloads ? 'with' : 'without'} offloads`,
    remedy: `homeproxy lab down --lab ${existing.name}`,
  });
}

/**
 * How the nodes are joined, and where their daemons attach.
 * @throws {UserError} `LAB_OFFLOADS` for native XDP on links with offloads, where every packet would have a wrong checksum
 */
function linksOf({ attach = 'xdp', offloads = false, daemons = true }: LabOptions): {
  attach: LabAttach;
  offloads: boolean;
} {
  if (!offloads || !daemons || attach !== 'xdp') return { attach, offloads };
  throw new UserError({
    code: 'LAB_OFFLOADS',
    message: 'native XDP on these links would forward packets whose checksum is still to be computed',
    remedy: 'homeproxy lab up --offloads --attach tc',
    exitStatus: 2,
  });
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new UserError({
    code: 'NOT_ROOT',
    message: 'a lab is made of namespaces: it needs root',
    remedy: 'run it with sudo',
    exitStatus: 7,
  });
}

function labDown(name: string): UserError {
  return new UserError({
    code: 'LAB_DOWN',
    message: `the lab "${name}" is not up`,
    remedy: name === 'lab' ? 'homeproxy lab up' : `homeproxy lab up --lab ${name}`,
  });
}
