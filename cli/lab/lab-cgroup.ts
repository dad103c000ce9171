import { existsSync, readdirSync, rmdirSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ExternalError } from '../errors.js';
import { unifiedMount } from '../system/cgroup.js';
import { readProcess, readText } from '../system/procfs.js';

const TOP = 'homeproxy-lab';
const EMPTY_TIMEOUT_MS = 20_000;
/** Most reap at once, some every second or two, and a machine whose pid 1 never does has zombies whatever we do. */
const REAP_TIMEOUT_MS = 2500;

/** The cgroup that holds every process of a lab, those that its own processes start included. */
export function labCgroup(lab: string): string {
  return join(unifiedMount(), TOP, lab);
}

/**
 * Ends every process below a cgroup, waits until the last is gone and removes the cgroup. Namespaces, mounts and network
 * interfaces of those processes go with them. An absent cgroup is fine.
 * @param options.reaped also wait until no zombie is left of them: that is up to their parents, in the end to pid 1
 * @throws {ExternalError} `LAB_PROCESSES` when a process cannot be ended
 */
export async function killCgroup(path: string, options: { reaped?: boolean } = {}): Promise<void> {
  if (existsSync(path)) {
    const killed = members(path);
    writeFileSync(join(path, 'cgroup.kill'), '1');
    await emptied(path);
    removeTree(path);
    if (options.reaped === true) await reaped(killed);
  }
  try {
    rmdirSync(join(path, '..')); // the last lab takes the common parent with it
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'EBUSY' && code !== 'ENOTEMPTY' && code !== 'ENOENT') throw error;
  }
}

async function emptied(path: string): Promise<void> {
  const events = join(path, 'cgroup.events');
  const populated = (): boolean => /^populated 1$/m.test(readText(events) ?? '');
  await new Promise<void>((resolve, reject) => {
    const watcher = watch(events, () => {
      if (!populated()) finish();
    });
    const timer = setTimeout(() => {
      finish(
        new ExternalError({
          code: 'LAB_PROCESSES',
          message: `processes of the lab do not end: ${members(path).join(' ')}`,
          command: `kill -9 (cgroup ${path})`,
        }),
      );
    }, EMPTY_TIMEOUT_MS);
    function finish(error?: Error): void {
      watcher.close();
      clearTimeout(timer);
      if (error === undefined) resolve();
      else reject(error);
    }
    if (!populated()) finish();
  });
}

async function reaped(pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + REAP_TIMEOUT_MS;
  while (pids.some((pid) => readProcess(pid)?.state === 'Z') && Date.now() < deadline) await delay(5);
}

function members(path: string): number[] {
  const own = (readText(join(path, 'cgroup.procs')) ?? '').split('\n').filter((line) => line !== '');
  return [...own.map(Number), ...children(path).flatMap(members)];
}

function removeTree(path: string): void {
  for (const child of children(path)) removeTree(child);
  rmdirSync(path);
}

function children(path: string): string[] {
  return readdirSync(path, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(path, entry.name));
}
