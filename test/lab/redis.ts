import { setTimeout as sleep } from 'node:timers/promises';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { readProcess } from '../../cli/system/procfs.js';
import { killQuietly } from './node-command.js';

export const REDIS_PORT = 6379;

export interface RedisOptions {
  /** Keeps an append-only file open, which other nodes do not have; default false. */
  readonly appendOnly?: boolean;
  /** The addresses to listen on, as its setting has them; default 0.0.0.0. */
  readonly bind?: string;
}

/** A Redis server in a node, an ordinary process of it: no child of ours, no terminal, no pipe to anybody. */
export interface Redis {
  /** Its pid in the node. */
  readonly pid: number;
  /** Clock ticks since boot; a restored process has another one. */
  readonly startTime: bigint;
  readonly cgroup: string;
}

/**
 * Starts Redis in a node. The server comes with redis-tools under another name; it behaves as the name says by which it
 * is called.
 */
export async function startRedis(node: LabNode, options: RedisOptions = {}): Promise<Redis> {
  const folder = '/run/redis';
  const server = `${folder}/redis-server`;
  await node.run(['mkdir', '-p', `${folder}/data`]);
  await node.run(['ln', '-sf', '/usr/bin/redis-check-rdb', server]);
  const settings = [
    '--bind',
    options.bind ?? '0.0.0.0',
    '--protected-mode',
    'no',
    '--port',
    String(REDIS_PORT),
    '--save',
    '',
  ];
  const append = options.appendOnly === true ? ['--appendonly', 'yes', '--dir', `${folder}/data`] : ['--dir', '/'];
  const pid = await node.detach([server, ...settings, ...append]);
  const machinePid = node.machinePid(pid);
  const identity = machinePid === undefined ? undefined : readProcess(machinePid);
  if (identity === undefined) throw new Error('Redis ended at once');
  return { pid, startTime: identity.startTime, cgroup: await cgroupOf(node, pid) };
}

/** Ends a Redis that runs in its node and waits until it is gone. */
export async function stopRedis(node: LabNode, { pid }: Redis): Promise<void> {
  const machinePid = node.machinePid(pid);
  if (machinePid === undefined) return;
  killQuietly(machinePid, 'SIGKILL');
  while (![undefined, 'Z'].includes(readProcess(machinePid)?.state)) await sleep(5);
}

/** The cgroup of a process as its node sees it, for example `/session`. */
export async function cgroupOf(node: LabNode, pid: number): Promise<string> {
  const { stdout } = await node.run(['cat', `/proc/${pid}/cgroup`]);
  return /^0::(.*)$/m.exec(stdout)?.[1] ?? '';
}
