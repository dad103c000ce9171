import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { BugError, ExternalError } from '../errors.js';
import { Cgroup } from '../system/cgroup.js';
import { lastLines } from '../system/command.js';
import { readChildren, readProcess } from '../system/procfs.js';
import { projectFile } from '../system/project.js';
import type { PlannedNode } from './plan.js';
import type { SharedSystem } from './shared-system.js';
import type { ProcessRecord } from './state.js';

const NODE_NAMESPACES = ['--net', '--pid', '--mount', '--uts', '--ipc', '--cgroup', '--time', '--fork'];

/** The cgroups inside a node: its pid 1, its daemon, and what is run with `lab exec`. */
export const INIT_CGROUP = 'init';
export const DAEMON_CGROUP = 'daemon';
export const SESSION_CGROUP = 'session';

/** The command line that becomes `command` as a member of `cgroup`. */
export function inCgroup(cgroup: string, command: readonly string[]): [string, ...string[]] {
  return ['bash', projectFile('config/lab/in-cgroup.sh'), cgroup, ...command];
}

/** Starts the process that holds the network namespace of the lab's switch. */
export async function startSwitch(cgroup: string): Promise<ProcessRecord> {
  mkdirSync(cgroup);
  const script = 'echo ready; exec catatonit -P </dev/null >/dev/null 2>&1';
  return await start(inCgroup(cgroup, ['unshare', '--net', '--pid', '--fork', 'sh', '-c', script]), (pid) => pid);
}

/**
 * Starts the namespaces of a node with its own root file system.
 * @param cgroup the node's cgroup, absent so far: it becomes the root of the node's cgroup namespace
 * @param root an empty folder on this machine
 * @throws {ExternalError} `LAB_NODE` with what the failing mount said
 */
export async function startNode(
  { name, uptimeOffset }: Pick<PlannedNode, 'name' | 'uptimeOffset'>,
  cgroup: string,
  root: string,
  system: SharedSystem,
): Promise<ProcessRecord> {
  const group = new Cgroup(cgroup).create();
  const script = projectFile('config/lab/node-root.sh');
  const build = ['sh', script, name, root, ...system.mounts, '--', ...system.kept];
  const clocks = ['--monotonic', '--boottime'].flatMap((clock) => [clock, String(uptimeOffset)]);
  return await start(inCgroup(cgroup, ['unshare', ...NODE_NAMESPACES, ...clocks, ...build]), (pid, parent) => {
    // A cgroup with children should have no processes of its own (cgroup-v2.rst, "no internal process constraint").
    const init = group.child(INIT_CGROUP).create();
    for (const member of [parent, pid]) init.add(member);
    for (const child of [DAEMON_CGROUP, SESSION_CGROUP]) mkdirSync(join(cgroup, child));
    return pid;
  });
}

/** Starts a command that says "ready" from the child of `unshare --fork`; gives that child to `settle`. */
async function start(
  [program, ...args]: [string, ...string[]],
  settle: (pid: number, parent: number) => number,
): Promise<ProcessRecord> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, cwd: '/' });
  const said: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  const failure = await new Promise<string | undefined>((resolve) => {
    child.stdout.once('data', () => resolve(undefined));
    child.once('error', (error) => resolve(error.message));
    child.once('close', (status, signal) => resolve(`ended with ${status ?? signal}`));
  });
  child.stdout.destroy();
  child.stderr.destroy();
  child.unref();
  const parent = child.pid;
  if (failure !== undefined || parent === undefined) {
    throw new ExternalError({
      code: 'LAB_NODE',
      message: `the namespaces of a lab node cannot be made: ${failure}`,
      command: [program, ...args].join(' '),
      log: lastLines(Buffer.concat(said).toString(), 8),
      remedy: 'homeproxy check',
    });
  }
  const [pid] = readChildren(parent);
  if (pid === undefined) throw new BugError('the first process of a lab node is gone');
  return processRecord(settle(pid, parent));
}

/** What tells a process from a later one with the same pid. */
export function processRecord(pid: number): ProcessRecord {
  const identity = readProcess(pid);
  if (identity === undefined) throw new BugError(`process ${pid} is gone`);
  return { pid, startTime: identity.startTime.toString() };
}

/** Whether that very process still runs. */
export function isRunning(record: ProcessRecord | undefined): record is ProcessRecord {
  if (record === undefined) return false;
  const identity = readProcess(record.pid);
  return identity !== undefined && identity.state !== 'Z' && identity.startTime.toString() === record.startTime;
}
