import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** How long a process has after each signal before the next one, in ms. Tests clean up on SIGINT. */
const escalation: readonly (readonly [NodeJS.Signals, number])[] = [
  ['SIGINT', 20_000],
  ['SIGTERM', 5_000],
  ['SIGKILL', 5_000],
];

/** A program in a process group of its own, so that all it started can be ended and left-overs are seen. */
export class ProcessGroup {
  readonly #child: ChildProcess;
  readonly #chunks: Buffer[] = [];
  readonly #exited: Promise<void>;
  readonly #closed: Promise<void>;
  #ending = false;
  #hurry = new AbortController();

  constructor(program: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env });
    this.#child.stdout?.on('data', (chunk: Buffer) => this.#chunks.push(chunk));
    this.#child.stderr?.on('data', (chunk: Buffer) => this.#chunks.push(chunk));
    this.#exited = new Promise((resolve, reject) => {
      this.#child.once('exit', () => resolve());
      this.#child.once('error', reject);
    });
    this.#closed = new Promise((resolve) => this.#child.once('close', () => resolve()));
  }

  get exited(): Promise<void> {
    return this.#exited;
  }

  get output(): string {
    return Buffer.concat(this.#chunks).toString();
  }

  get status(): number | null {
    return this.#child.exitCode;
  }

  get signal(): NodeJS.Signals | null {
    return this.#child.signalCode;
  }

  /** Asks the group to end, ever more firmly; a second call goes on to the next signal at once. */
  async end(): Promise<void> {
    if (this.#ending) {
      this.#hurry.abort();
      return;
    }
    this.#ending = true;
    for (const [signal, patienceMs] of escalation) {
      if (!this.#send(signal)) return;
      this.#hurry = new AbortController();
      const patience = sleep(patienceMs, undefined, { signal: this.#hurry.signal, ref: false }).catch(() => undefined);
      await Promise.race([this.#exited, patience]);
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    }
  }

  /**
   * After the exit: ends what is still there of the group and returns what was left behind in words.
   * Processes that are just ending get a moment.
   */
  async sweep(): Promise<string[]> {
    const faults: string[] = [];
    const deadline = Date.now() + 2_000;
    let left = this.#members();
    while (left.length > 0 && Date.now() < deadline) {
      await sleep(20);
      left = this.#members();
    }
    if (left.length > 0) {
      faults.push(`it left processes behind: ${left.join(', ')}`);
      this.#send('SIGKILL');
    }
    const open = Symbol();
    if ((await Promise.race([this.#closed, sleep(1_000, open, { ref: false })])) === open) {
      faults.push('a process it started still holds its output open');
      this.#child.stdout?.destroy();
      this.#child.stderr?.destroy();
    }
    return faults;
  }

  /** The living processes of the group, as `pid (name)`. Zombies do not count: not every container's pid 1 reaps. */
  #members(): string[] {
    if (!this.#send(0)) return [];
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .flatMap((pid) => {
        try {
          const stat = /^\d+ (\(.*\)) (\S) \d+ (\d+) /s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'));
          const [name, state, group] = stat?.slice(1) ?? [];
          return Number(group) === this.#child.pid && state !== 'Z' && state !== 'X' ? [`${pid} ${name}`] : [];
        } catch {
          return []; // ended meanwhile
        }
      });
  }

  #send(signal: NodeJS.Signals | 0): boolean {
    const { pid } = this.#child;
    if (pid === undefined) return false;
    try {
      return process.kill(-pid, signal);
    } catch {
      return false; // ESRCH: nobody is left
    }
  }
}
