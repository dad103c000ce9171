import type { LabNode } from '../../cli/lab/lab-node.js';
import { type NodeCommand, startProgram } from './node-command.js';

export interface DatagramsResult {
  readonly sent: number;
  /** Never answered. */
  readonly lost: number;
  /** Answered more than once. */
  readonly repeated: number;
  /** Answered after a later one. */
  readonly outOfOrder: number;
  /** They were not the datagrams that the server had to see at that moment: one before was lost, repeated or late. */
  readonly wrong: number;
}

const EVERY_MS = 10;

/** Numbered datagrams from a node to a `datagrams` server, every answer checked. */
export class Datagrams {
  private constructor(
    readonly name: string,
    private readonly command: NodeCommand,
  ) {}

  /** @param ownPort for a server whose socket is connected to it */
  static async start(node: LabNode, host: string, port: number, ownPort = 0): Promise<Datagrams> {
    const args = [host, String(port), String(EVERY_MS), String(ownPort)];
    const command = startProgram(node, 'test/lab/datagrams-main.js', args);
    await command.printed(/^ready\n/);
    return new Datagrams(`${host} port ${port}`, command);
  }

  async stop(): Promise<DatagramsResult> {
    this.command.finishInput();
    const { stdout, stderr, status } = await this.command.ended;
    if (status !== 0) throw new Error(`the client of ${this.name} ended with ${status}: ${stdout}${stderr}`);
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as DatagramsResult;
  }
}
