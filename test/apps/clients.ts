import type { LabNode } from '../../cli/lab/lab-node.js';
import { type NodeCommand, startProgram } from '../lab/node-command.js';

/** Clients of a server that check what they get, all in one program in the lab's client node. */
export class Clients<Result> {
  private constructor(private readonly command: NodeCommand) {}

  /**
   * @param program below `dist/`: it takes its options as JSON, prints `ready`, then numbers that grow, and its result as JSON when
   * its standard input ends
   * @returns once it is ready
   */
  static async start<Result>(client: LabNode, program: string, options: object): Promise<Clients<Result>> {
    const command = startProgram(client, program, [JSON.stringify(options)]);
    await command.printed(/^ready$/m);
    return new Clients<Result>(command);
  }

  /** Waits until its number has grown by so much. @throws {Error} when it does not */
  async goesOn(by: number): Promise<void> {
    const wanted = lastNumber(this.command.stdout) + by;
    await this.command.printed((text) => lastNumber(text) >= wanted);
  }

  /** Ends it and waits for what is still on its way. */
  async stop(): Promise<Result> {
    this.command.finishInput();
    const { status, stdout, stderr } = await this.command.ended;
    if (status !== 0) throw new Error(`the clients ended with ${status}: ${stderr}`);
    return JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Result;
  }
}

/** Of the last whole line. */
function lastNumber(text: string): number {
  return Number(/(?:^|\n)(\d+)\n[^\n]*$/.exec(text.slice(-200))?.[1] ?? 0);
}
