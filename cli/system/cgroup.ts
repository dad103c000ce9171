import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, watch, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { UserError } from '../errors.js';
import { readText } from './procfs.js';

/** Where cgroup v2 is mounted: not always at the top, hybrid systems have it below (`unified`). */
export function unifiedMount(): string {
  for (const line of (readText('/proc/self/mounts') ?? '').split('\n')) {
    const [, path, type] = line.split(' ');
    if (type === 'cgroup2' && path !== undefined) return path;
  }
  throw new UserError({
    code: 'NO_CGROUP2',
    message: 'cgroup v2 is not mounted on this machine',
    remedy: 'mount it: mount -t cgroup2 none /sys/fs/cgroup/unified',
    exitStatus: 7,
  });
}

/** A cgroup v2 directory. Only its own freezer and membership are touched: no controller is ever enabled. */
export class Cgroup {
  constructor(readonly path: string) {}

  /** The cgroup that a process is in, as seen from our cgroup namespace. */
  static of(pid: number): Cgroup {
    const relative = /^0::(.*)$/m.exec(readText(`/proc/${pid}/cgroup`) ?? '')?.[1] ?? '/';
    return new Cgroup(join(unifiedMount(), relative.replace(/ \(deleted\)$/, '')));
  }

  child(name: string): Cgroup {
    return new Cgroup(join(this.path, name));
  }

  /** This cgroup, or the nearest one above it that still exists (a service manager removes those that run empty). */
  nearestExisting(): Cgroup {
    const top = unifiedMount();
    let path = this.path.startsWith(top) ? this.path : top;
    while (path !== top && !existsSync(path)) path = dirname(path);
    return new Cgroup(path);
  }

  get exists(): boolean {
    return existsSync(this.path);
  }

  create(): this {
    mkdirSync(this.path, { recursive: true });
    return this;
  }

  /** Paths of the cgroups directly below. */
  children(): string[] {
    if (!this.exists) return [];
    const entries = readdirSync(this.path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(this.path, name));
  }

  /** Moves a whole process (all its threads) here; one that has ended meanwhile is no error. */
  add(pid: number): void {
    try {
      writeFileSync(join(this.path, 'cgroup.procs'), String(pid));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  processes(): number[] {
    const text = readText(join(this.path, 'cgroup.procs')) ?? '';
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map(Number);
  }

  /** Stops or lets go every task in it (kernel 5.2). A frozen task can still be killed, and CRIU can still trace it. */
  setFrozen(frozen: boolean): void {
    writeFileSync(join(this.path, 'cgroup.freeze'), frozen ? '1' : '0');
  }

  get frozen(): boolean {
    return this.exists && readFileSync(join(this.path, 'cgroup.freeze'), 'utf8').trim() === '1';
  }

  /** Kills every task in it, frozen ones too (cgroup.kill, kernel 5.14; before that one by one). */
  kill(): void {
    const file = join(this.path, 'cgroup.kill');
    if (existsSync(file)) writeFileSync(file, '1');
    else for (const pid of this.processes()) signalQuietly(pid);
  }

  /** Waits until no live task is in it: cgroup.events changes then, and inotify says so. */
  async empty(): Promise<void> {
    const events = join(this.path, 'cgroup.events');
    const populated = (): boolean => /^populated 1$/m.test(readText(events) ?? '');
    if (!populated()) return;
    await new Promise<void>((resolve) => {
      const watcher = watch(events, look);
      function look(): void {
        if (populated()) return;
        watcher.close();
        resolve();
      }
      look();
    });
  }

  /** Removes the empty directory; absent is fine. */
  remove(): void {
    try {
      rmdirSync(this.path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}

function signalQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended
  }
}
