import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { Cgroup } from '../system/cgroup.js';
import { type ProcessStamp, stampAlive, stampProcess } from '../system/procfs.js';
import { projectFile } from '../system/project.js';

/** How far and how long a tree was slowed down. */
export interface Slowed {
  /** Of its time that it had in the end. */
  readonly percent: number;
  readonly ms: number;
}

/**
 * Slows a tree down: its cgroup is frozen for a part of every 50 ms. That takes no controller, no setting of anybody's and nobody
 * else's time, and it slows down also what writes much with little processor time, which a quota (`cpu.max`) would not. A process of
 * its own turns the freezer on and off: when the daemon is killed, the tree runs on at its own pace at once.
 */
export class Throttle {
  private child: ChildProcess | undefined;
  /** Fulfilled when nothing stops the tree any more. */
  private gone: Promise<void> = Promise.resolve();
  private percent = 100;
  private beganAt: number | undefined;
  private endedAt: number | undefined;
  private over = false;
  private timer: NodeJS.Timeout | undefined;

  /**
   * @param cgroup of the tree, and nobody else's
   * @param told.began with the process that does it, before anything is slowed down: what has to be known after a crash
   * @param told.lost that process has ended by itself, and nothing is slowed down any more
   */
  constructor(
    private readonly cgroup: string,
    private readonly told: { began(process: ProcessStamp): void; lost(): void },
  ) {}

  /** Ends what a daemon that was killed has left, if it has not ended by itself. */
  static adopt(cgroup: string, process: ProcessStamp): void {
    if (!stampAlive(process)) return;
    killQuietly(process.pid);
    for (const deadline = performance.now() + KILL_MS; stampAlive(process) && performance.now() < deadline; ) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
    letRun(cgroup);
  }

  /** Gives the tree so many percent of its time. @returns false: not any more, or there is no process to do it */
  slowTo(percent: number): boolean {
    if (this.over) return false;
    this.child ??= this.start();
    if (this.child.pid === undefined) return false;
    this.child.stdin?.write(`${percent}\n`);
    this.percent = percent;
    this.beganAt ??= performance.now();
    return true;
  }

  /** Gives the tree all its time again, for good. When this has returned, nothing of it comes later. */
  async lift(): Promise<void> {
    this.over = true;
    clearTimeout(this.timer);
    this.child?.ref();
    this.child?.kill('SIGKILL');
    await this.gone;
  }

  /** The same, if nobody has done it by then. */
  liftAfter(ms: number): void {
    this.timer = setTimeout(() => void this.lift().catch(() => undefined), ms).unref();
  }

  /** Undefined: it was not slowed down. */
  get slowed(): Slowed | undefined {
    if (this.beganAt === undefined) return undefined;
    return { percent: this.percent, ms: Math.round((this.endedAt ?? performance.now()) - this.beganAt) };
  }

  private start(): ChildProcess {
    const program = projectFile('dist/cli/checkpoint/throttle-main.js');
    const child = spawn(process.execPath, [program, this.cgroup], { stdio: ['pipe', 'ignore', 'ignore'] });
    child.stdin?.on('error', () => undefined); // its end says more
    child.unref(); // a daemon that ends is not kept by it
    (child.stdin as Socket | null)?.unref();
    const ended = new Promise<void>((resolve) => {
      child.once('exit', () => resolve()).once('error', () => resolve());
    });
    this.gone = ended.then(() => {
      if (!this.over) this.told.lost();
      this.over = true;
      this.endedAt = performance.now();
      letRun(this.cgroup); // once, and before anybody who waits for us can freeze it for good
    });
    this.gone.catch(() => undefined); // heard by who lifts it
    if (child.pid !== undefined) this.told.began(stampProcess(child.pid));
    return child;
  }
}

const KILL_MS = 2000;

function letRun(path: string): void {
  const cgroup = new Cgroup(path);
  if (cgroup.exists) cgroup.setFrozen(false);
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended
  }
}
