// SPDX-License-Identifier: Apache-2.0
/*
 * Some units can only be tested against a real kernel. Their test files start themselves again in namespaces of their own, so
 * that nothing they make is seen outside or stays behind.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Cgroup, unifiedMount } from '../../cli/system/cgroup.js';
import { listProcesses } from '../../cli/system/procfs.js';

const VARIABLE = 'HOMEPROXY_UNIT_TEST_WORLD';

/**
 * Runs the test file again inside; returns only there.
 * @param processes also a pid namespace and a /run of its own, with an init that reaps. Without it all the machine's
 * processes can be seen.
 * @returns false when this is not root, and the caller must skip.
 */
export function enterPrivateWorld({ processes }: { processes: boolean }): boolean {
  if (process.env[VARIABLE] !== undefined) {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
    process.on('exit', endStrays);
    return true;
  }
  if (process.getuid?.() !== 0) return false;
  const namespaces = [
    '--net',
    '--mount',
    '--ipc',
    ...(processes ? ['--pid', '--fork', '--kill-child', '--mount-proc'] : []),
  ];
  const init = processes ? ['catatonit', '--'] : [];
  const arrange = `ip link set lo up${processes ? ' && mount -t tmpfs -o mode=755 tmpfs /run' : ''} && exec "$@"`;
  const node = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const inside = spawnSync('unshare', [...namespaces, 'sh', '-c', arrange, 'sh', ...init, ...node], {
    stdio: 'inherit',
    env: { ...process.env, [VARIABLE]: 'private' },
  });
  process.exit(inside.status ?? 1);
}

/** Ends whoever else is in our world: what left its process group, as a new session does, is not reached by {@link Subject.kill}. */
function endStrays(): void {
  const ours = worldOf(process.pid);
  for (const pid of listProcesses()) if (pid !== process.pid && worldOf(pid) === ours) killQuietly(pid);
}

function worldOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/ipc`);
  } catch {
    return undefined; // gone, or more privileged than we are: not one of ours
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // gone
  }
}

export function ip(...lines: readonly string[]): void {
  for (const line of lines) execFileSync('ip', line.split(' '));
}

const subjects = new Set<Subject>();
process.on('exit', endSubjects);

/** Ends all programs that tests have left running: for `test.after`, because a running one keeps the test file running. */
export function endSubjects(): void {
  for (const subject of subjects) subject.kill();
}

/** A small Python program to be looked at, frozen or moved: it says lines on its standard output, if that is a pipe. */
export class Subject {
  private readonly lines: string[] = [];
  private wake: () => void = () => undefined;

  private constructor(private readonly child: ChildProcess) {
    subjects.add(this);
    if (child.stdout === null) return;
    createInterface({ input: child.stdout }).on('line', (line) => {
      this.lines.push(line);
      this.wake();
    });
  }

  /** A program that says what it has to say to us by a pipe, which it then holds. */
  static speaking(source: string, ...args: readonly string[]): Subject {
    return Subject.start(source, args, 'pipe');
  }

  /** A program that holds nothing of ours. It may leave a word in a file. */
  static silent(source: string, ...args: readonly string[]): Subject {
    return Subject.start(source, args, 'ignore');
  }

  private static start(source: string, args: readonly string[], output: 'pipe' | 'ignore'): Subject {
    // what the session that runs the tests may have left open is not the program's
    const python = ['-I', '-S', '-c', `import os\nos.closerange(3, 4096)\n${source}`, ...args];
    return new Subject(spawn('python3', python, { stdio: ['ignore', output, 'ignore'], detached: true, cwd: '/' }));
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** The next line it says. */
  async says(): Promise<string> {
    for (;;) {
      const line = this.lines.shift();
      if (line !== undefined) return line;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  /** With all that it has started. */
  kill(): void {
    subjects.delete(this);
    killQuietly(-this.pid);
  }

  async ended(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, 'exit');
  }
}

/** A cgroup for one test file; what is left of it at the end is killed and removed. */
export function testCgroup(name: string): Cgroup {
  const cgroup = new Cgroup(
    `${unifiedMount()}/homeproxy-test-${name}-${process.pid}-${Date.now().toString(36)}`,
  ).create();
  process.on('exit', () => {
    if (!cgroup.exists) return;
    writeFileSync(`${cgroup.path}/cgroup.kill`, '1');
    for (let attempt = 0; attempt < 100; attempt++) {
      try {
        execFileSync('find', [cgroup.path, '-depth', '-type', 'd', '-exec', 'rmdir', '{}', ';'], { stdio: 'ignore' });
        return;
      } catch {
        execFileSync('sleep', ['0.02']);
      }
    }
  });
  return cgroup;
}

/** Waits for what no event tells. */
export async function until(what: string, condition: () => boolean, withinMs = 30_000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function remove(path: string): void {
  rmSync(path, { recursive: true, force: true });
}
