import { type ChildProcess, spawn } from 'node:child_process';
import { Lab, type LabOptions } from '../../cli/lab/lab.js';
import { projectFile } from '../../cli/system/project.js';

const mine = new Set<string>();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    void downAll().finally(() => process.exit(130));
  });
}

/** A name that no other test, and no user, gives a lab; {@link downAll} takes it down. */
export function labName(purpose: string): string {
  const name = `test-${purpose}-${process.pid}`;
  mine.add(name);
  return name;
}

/** A lab without daemons. */
export async function bareLab(purpose: string, options: Partial<LabOptions> = {}): Promise<Lab> {
  return await Lab.up({ daemons: false, ...options, name: labName(purpose) });
}

/** Takes down every lab whose name came from {@link labName}. */
export async function downAll(): Promise<void> {
  for (const name of mine) await Lab.down(name, { reaped: false });
}

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running `homeproxy` command. */
export class Command {
  readonly child: ChildProcess;
  readonly #ended: Promise<Outcome>;
  #stdout = '';
  #stderr = '';

  constructor(args: readonly string[], input = '') {
    this.child = spawn(process.execPath, [projectFile('cli/bin/run.js'), ...args], { stdio: 'pipe' });
    this.child.stdin?.on('error', () => undefined).end(input);
    this.child.stdout?.on('data', (chunk: Buffer) => {
      this.#stdout += chunk.toString();
    });
    this.child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
    this.#ended = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (status) => resolve({ status, stdout: this.#stdout, stderr: this.#stderr }));
    });
  }

  get ended(): Promise<Outcome> {
    return this.#ended;
  }

  /** Waits until it has printed `text`. @throws {Error} when it ends without */
  async printed(text: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const look = (): void => {
        if (this.#stdout.includes(text) || this.#stderr.includes(text)) resolve();
      };
      this.child.stdout?.on('data', look);
      this.child.stderr?.on('data', look);
      this.child.once('close', () => reject(new Error(`ended without "${text}":\n${this.#stdout}${this.#stderr}`)));
      look();
    });
  }
}

/** Runs a `homeproxy` command to its end. */
export async function homeproxy(args: readonly string[], input = ''): Promise<Outcome> {
  return await new Command(args, input).ended;
}
