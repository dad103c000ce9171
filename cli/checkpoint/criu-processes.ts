import { listProcesses, type ProcessStamp, readProcess, readText, stampAlive, stampProcess } from '../system/procfs.js';

/**
 * The processes of one run of CRIU, which the folder of its images names: CRIU, what entered the pod for it, its half restored
 * children.
 */
export function criuProcesses(images: string): number[] {
  return listProcesses().filter((pid) => pid !== process.pid && belongs(pid, images));
}

/** The outermost process of a run: when it ends, the run is over. */
export function criuOf(images: string): ProcessStamp | undefined {
  const pids = new Set(criuProcesses(images));
  const outermost = [...pids].find((pid) => !pids.has(readProcess(pid)?.parent ?? 0));
  return outermost === undefined ? undefined : stampProcess(outermost);
}

/**
 * Kills every process of a run, those too that one of them forks while we look: a killed task forks no more.
 * @param outermost leads a process group of the run's own. One that is in the midst of an exec has no command line by which it
 * could be found (proc_pid_cmdline(5)), and on a busy machine that takes a while: the group has it all the same.
 */
export function endCriuOf(images: string, outermost?: ProcessStamp): void {
  if (outermost !== undefined && stampAlive(outermost)) signal(-outermost.pid);
  const killed = new Set<number>();
  for (let found = true; found; ) {
    found = false;
    for (const pid of criuProcesses(images)) {
      if (killed.has(pid)) continue;
      killed.add(pid);
      found = true;
      signal(pid);
    }
  }
}

function signal(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function belongs(pid: number, images: string): boolean {
  return (readText(`/proc/${pid}/cmdline`) ?? '').split('\0').includes(images);
}
