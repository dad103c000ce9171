import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { unifiedMount } from '../../cli/system/cgroup.js';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';

/** cgroup v1, which hybrid systems have for the controllers. */
const FIRST = '/sys/fs/cgroup/memory';
const LIMIT = String(12 << 20);

/** Processes in a cgroup that has a fifth of the memory that they read all the time. */
export class MemoryHog {
  private constructor(
    private readonly cgroup: string,
    private readonly folder: string,
    private readonly child: ChildProcess,
  ) {}

  /** @param name of the cgroup, below the top */
  static async start(name: string): Promise<MemoryHog> {
    const folder = mkdtempSync('/var/tmp/hp-hog-'); // of a disk: what a tmpfs holds cannot be dropped
    const program = join(folder, 'memory-hog');
    await run('clang', ['-O2', '-Wall', '-o', program, projectFile('test/lab/memory-hog.c')]);
    const cgroup = limitedCgroup(name);
    // The inner shell goes there before it becomes the program, so that all of its pages are counted there. Where the limit is hard
    // (cgroup v1) and the disk slow, the kernel may kill it for what it is just reading (137): then it begins anew.
    const inner = 'echo 0 >"$1/cgroup.procs" && exec "$2" "$3" 64 4';
    const outer = 'while sh -c "$0" sh "$@"; [ $? = 137 ]; do :; done';
    const child = spawn('sh', ['-c', outer, inner, cgroup, program, join(folder, 'file')], { stdio: 'inherit' });
    return new MemoryHog(cgroup, folder, child);
  }

  async end(): Promise<void> {
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL'); // its children die with it
    await ended;
    for (const deadline = Date.now() + 10_000; ; await new Promise((resolve) => setTimeout(resolve, 20))) {
      try {
        rmdirSync(this.cgroup);
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
      }
    }
    rmSync(this.folder, { recursive: true });
  }
}

function limitedCgroup(name: string): string {
  const hasFirst = existsSync(join(FIRST, 'memory.limit_in_bytes'));
  const top = hasFirst ? FIRST : unifiedMount();
  if (!hasFirst && !readFileSync(join(top, 'cgroup.subtree_control'), 'utf8').includes('memory')) {
    writeFileSync(join(top, 'cgroup.subtree_control'), '+memory');
  }
  const cgroup = join(top, name);
  mkdirSync(cgroup);
  writeFileSync(join(cgroup, hasFirst ? 'memory.limit_in_bytes' : 'memory.high'), LIMIT);
  return cgroup;
}
