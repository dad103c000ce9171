import type { ChildProcess } from 'node:child_process';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { readChildren } from '../../cli/system/procfs.js';
import { projectFile } from '../../cli/system/project.js';

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What to wait for in the standard output, or in the standard error, so far. */
export type Wanted = RegExp | ((text: string) => boolean);

/** A command that runs in a node of a lab; it ends with its lab at the latest. */
export class NodeCommand {
  readonly #child: ChildProcess;
  readonly #ended: Promise<Outcome>;
  readonly #onOutput = new Set<() => void>();
  #stdout = '';
  #stderr = '';
  #over = false;

  constructor(node: LabNode, command: readonly string[]) {
    this.#child = node.spawn(command, ['pipe', 'pipe', 'pipe']);
    this.#child.stdin?.on('error', () => undefined); // it may end without reading
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#stdout += chunk.toString();
      this.#look();
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
      this.#look();
    });
    this.#ended = new Promise((resolve, reject) => {
      this.#child.once('error', reject);
      this.#child.once('close', (status) => {
        this.#over = true;
        this.#look();
        resolve({ status, stdout: this.#stdout, stderr: this.#stderr });
      });
    });
    this.#ended.catch(() => undefined); // whoever awaits it hears of it
  }

  get stdout(): string {
    return this.#stdout;
  }

  get stderr(): string {
    return this.#stderr;
  }

  get ended(): Promise<Outcome> {
    return this.#ended;
  }

  get running(): boolean {
    return !this.#over;
  }

  /** Waits until it has printed something that matches. @throws {Error} when it ends without, or takes too long */
  async printed(wanted: Wanted, timeoutMs = 20_000): Promise<void> {
    if (await this.printedOrEnded(wanted, timeoutMs)) return;
    throw new Error(`it ended without ${wanted}:\n${this.#stdout.slice(-2000)}${this.#stderr}`);
  }

  /** Waits for a text that matches or for its end. Returns whether there was such a text. */
  async printedOrEnded(wanted: Wanted, timeoutMs = 20_000): Promise<boolean> {
    const matches = typeof wanted === 'function' ? wanted : (text: string) => wanted.test(text);
    return await new Promise<boolean>((resolve, reject) => {
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        this.#onOutput.delete(look);
        act();
      };
      const look = (): void => {
        if (matches(this.#stdout) || matches(this.#stderr)) settle(() => resolve(true));
        else if (this.#over) settle(() => resolve(false));
      };
      const timer = setTimeout(
        () =>
          settle(() =>
            reject(new Error(`no ${wanted} in ${timeoutMs} ms:\n${this.#stdout.slice(-2000)}${this.#stderr}`)),
          ),
        timeoutMs,
      );
      this.#onOutput.add(look);
      look();
    });
  }

  write(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Closes its standard input, after a last text. */
  finishInput(text = ''): void {
    this.#child.stdin?.end(text);
  }

  /** The command's pid on this machine: what we started enters the node and stays as its parent. */
  get machinePid(): number | undefined {
    return this.#child.pid === undefined ? undefined : readChildren(this.#child.pid)[0];
  }

  /** Signals the command itself. Nothing happens when it has ended. */
  kill(signal: NodeJS.Signals): void {
    const pid = this.machinePid;
    if (pid !== undefined) killQuietly(pid, signal);
  }

  #look(): void {
    for (const look of [...this.#onOutput]) look();
  }
}

/** Sends a signal to a process that may have ended meanwhile. @param pid 0: of one that is known to have ended */
export function killQuietly(pid: number, signal: NodeJS.Signals): void {
  if (pid === 0) return; // to kill(2) that is our own group
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Starts a `homeproxy` command in a node, as its administrator would. */
export function startHomeproxy(node: LabNode, args: readonly string[]): NodeCommand {
  const command = new NodeCommand(node, [process.execPath, projectFile('cli/bin/run.js'), ...args]);
  command.finishInput();
  return command;
}

/** Runs a `homeproxy` command in a node to its end. */
export async function runHomeproxy(node: LabNode, args: readonly string[]): Promise<Outcome> {
  return await startHomeproxy(node, args).ended;
}

/** Starts a compiled program of ours (a path below `dist/`) in a node. */
export function startProgram(node: LabNode, program: string, args: readonly string[]): NodeCommand {
  return new NodeCommand(node, [process.execPath, projectFile(`dist/${program}`), ...args]);
}
