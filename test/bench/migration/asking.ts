import type { LabNode } from '../../../cli/lab/lab-node.js';
import { NodeCommand } from '../../lab/node-command.js';

const CONNECT_MS = 60_000;
/** Longer than any freeze that is measured. */
const ANSWER_MS = 180_000;

/** The client of a ballast, `asking.c`, in a node of a lab. */
export class Asking {
  private constructor(private readonly command: NodeCommand) {}

  static async start(
    node: LabNode,
    program: string,
    server: string,
    port: number,
    connections: number,
  ): Promise<Asking> {
    const command = new NodeCommand(node, [program, server, String(port), String(connections)]);
    await command.printed(/^connected\n/, CONNECT_MS);
    return new Asking(command);
  }

  /** From now on the longest answer is looked for. */
  async mark(): Promise<void> {
    await this.say('mark');
  }

  /** Milliseconds that the longest answer has taken since the mark. */
  async longest(): Promise<number> {
    return Number((await this.say('longest'))[1]);
  }

  /** Asks on all connections but the first. @returns the right answers */
  async all(): Promise<number> {
    return Number((await this.say('all'))[1]);
  }

  /** Every 10 ms or so since the start: milliseconds since the epoch, and what work had been done. */
  get series(): (readonly [atMs: number, units: number])[] {
    return this.command.stdout
      .slice(0, this.command.stdout.lastIndexOf('\n'))
      .split('\n')
      .filter((line) => line.startsWith('work '))
      .map((line) => line.split(' ').slice(1).map(Number))
      .map(([atMs = 0, units = 0]) => [atMs, units] as const);
  }

  async close(): Promise<void> {
    this.command.finishInput();
    await this.command.ended;
  }

  private async say(word: string): Promise<string[]> {
    const answers = (text: string): string[] =>
      text.split('\n').filter((line) => /^(marked|longest|all) .*$/.test(line));
    const before = answers(this.command.stdout.slice(0, this.command.stdout.lastIndexOf('\n') + 1)).length;
    this.command.write(`${word}\n`);
    const whole = (text: string): string[] => answers(text.slice(0, text.lastIndexOf('\n') + 1));
    await this.command.printed((text) => whole(text).length > before, ANSWER_MS);
    return (whole(this.command.stdout).at(-1) ?? '').split(' ');
  }
}
