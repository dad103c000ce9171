import type { ChildProcess } from 'node:child_process';
import type { LabNode } from '../../cli/lab/lab-node.js';

/** How long one line may take: the longest compiles the addon on a machine that does other things as well. */
const LIMIT_MS = 240_000;
const PROMPT = /\n@@(\d+)@@ /;

/** An interactive shell of root on a terminal, at which a reader types. */
export class Terminal {
  readonly #child: ChildProcess;
  readonly #onOutput = new Set<() => void>();
  #output = '';
  #ended = false;

  /** @param start starts a program, its standard streams pipes; @param environment the shell's beyond what a login gives it */
  constructor(start: (command: readonly string[]) => ChildProcess, environment: Readonly<Record<string, string>>) {
    const shell = "cd && stty -echo && PS1='\\n@@$?@@ ' PS2= exec bash --noprofile --norc --noediting -i";
    const login = { HOME: '/root', LANG: 'C.UTF-8', SHELL: '/bin/bash', TERM: 'dumb', USER: 'root', ...environment };
    const variables = Object.entries(login).map(([name, value]) => `${name}=${value}`);
    this.#child = start([
      'env',
      '--ignore-environment',
      ...variables,
      'script',
      '--quiet',
      '--command',
      shell,
      '/dev/null',
    ]);
    this.#child.stdin?.on('error', () => undefined); // it may have ended: what waits for its output says so
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#output += chunk.toString().replaceAll('\r', '');
        this.#look();
      });
    }
    this.#child.once('close', () => {
      this.#ended = true;
      this.#look();
    });
  }

  /** One on a node of a lab. */
  static on(node: LabNode, path: string): Terminal {
    return new Terminal((command) => node.spawn(command, ['pipe', 'pipe', 'pipe']), { PATH: path });
  }

  /** What it shows since the last line was typed. */
  get output(): string {
    return this.#output;
  }

  /** Waits for the prompt. @returns the exit status of what ran, and what it printed */
  async prompt(): Promise<{ status: number; output: string }> {
    const [shown, status] = await this.printed(PROMPT);
    return { status: Number(status), output: this.#output.slice(0, this.#output.indexOf(shown)) };
  }

  /** Types at the prompt, and does not wait for what it does. */
  type(text: string): void {
    this.#output = '';
    this.#child.stdin?.write(`${text}\n`);
  }

  /** Ctrl-D: the shell ends. */
  close(): void {
    this.#child.stdin?.end();
  }

  /** Waits until it has printed something that matches. @throws {Error} when it ends without, or takes too long */
  async printed(wanted: RegExp): Promise<RegExpExecArray> {
    return await new Promise((resolve, reject) => {
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        this.#onOutput.delete(look);
        act();
      };
      const fail = (what: string) => settle(() => reject(new Error(`${what} without ${wanted}:\n${this.#output}`)));
      const timer = setTimeout(() => fail(`${LIMIT_MS / 1000} s`), LIMIT_MS);
      const look = (): void => {
        const match = wanted.exec(this.#output);
        if (match !== null) settle(() => resolve(match));
        else if (this.#ended) fail('the terminal has closed');
      };
      this.#onOutput.add(look);
      look();
    });
  }

  #look(): void {
    for (const look of [...this.#onOutput]) look();
  }
}
