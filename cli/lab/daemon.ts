import { setTimeout as delay } from 'node:timers/promises';
import { BugError, ExternalError, UserError } from '../errors.js';
import { lastLines } from '../system/command.js';
import { readText } from '../system/procfs.js';
import { projectFile } from '../system/project.js';
import { DAEMON_CGROUP, isRunning, processRecord } from './holder.js';
import type { LabNode } from './lab-node.js';
import type { ProcessRecord } from './state.js';

/** Where a node's daemon writes its log, in the node. */
export const DAEMON_LOG = '/var/log/homeproxy.log';
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;

/**
 * Starts `homeproxy up` in a node and waits until it says that it serves: it writes "ready" to descriptor 3 and closes it.
 * @throws {ExternalError} `LAB_DAEMON` with the last lines of its log when it ends before that, or takes too long
 */
export async function startDaemon(node: LabNode, signal?: AbortSignal): Promise<ProcessRecord> {
  const command = [process.execPath, projectFile('cli/bin/run.js'), 'up'];
  let answer: Promise<string> = Promise.resolve('');
  const inside = await node.detach(command, {
    cgroup: DAEMON_CGROUP,
    output: DAEMON_LOG,
    env: { HOMEPROXY_READY_FD: '3' },
    onStart: (stream) => {
      answer = firstLine(stream, signal);
    },
  });
  const said = await answer;
  const pid = node.machinePid(inside);
  if (said === 'ready' && pid !== undefined) return processRecord(pid);
  signal?.throwIfAborted();
  if (pid !== undefined) killQuietly(pid, 'SIGKILL');
  throw new ExternalError({
    code: 'LAB_DAEMON',
    message: said === 'timeout' ? `the daemon of ${node.name} is not ready` : `the daemon of ${node.name} has ended`,
    command: `homeproxy up (in ${node.name})`,
    log: lastLines(readText(node.path(DAEMON_LOG)) ?? '', 15),
  });
}

/** The first line of a stream; '' when it ends or fails before, `timeout` after {@link START_TIMEOUT_MS}. */
async function firstLine(stream: NodeJS.ReadableStream, signal?: AbortSignal): Promise<string> {
  let text = '';
  return await new Promise<string>((resolve) => {
    const timer = setTimeout(() => finish('timeout'), START_TIMEOUT_MS);
    const finish = (line: string): void => {
      clearTimeout(timer);
      (stream as NodeJS.ReadableStream & { destroy(): void }).destroy();
      resolve(line);
    };
    signal?.addEventListener('abort', () => finish(''), { once: true });
    stream.on('error', () => finish(''));
    stream.on('end', () => finish(''));
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const end = text.indexOf('\n');
      if (end !== -1) finish(text.slice(0, end));
    });
  });
}

/**
 * Ends a daemon and waits until it is gone: with SIGTERM it stops in order, with SIGKILL it does not know.
 * @throws {UserError} `DAEMON_STAYS` when it has not ended after 10 s
 */
export async function stopDaemon(node: LabNode, daemon: ProcessRecord, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (!isRunning(daemon)) return;
  killQuietly(daemon.pid, signal);
  const deadline = Date.now() + STOP_TIMEOUT_MS;
  while (isRunning(daemon)) {
    if (Date.now() > deadline) {
      throw new UserError({
        code: 'DAEMON_STAYS',
        message: `the daemon of ${node.name} (pid ${daemon.pid}) does not end`,
        remedy: `homeproxy lab daemon ${node.name} kill`,
        exitStatus: 5,
      });
    }
    await delay(5); // not our child: no event tells its end
  }
}

function killQuietly(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw new BugError(`kill ${pid}`, error);
  }
}
