import { createHash } from 'node:crypto';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { type NodeCommand, startProgram } from '../lab/node-command.js';
import type { Errand, HttpLoadOptions, HttpLoadResult } from './http-requests.js';

/** The verifying HTTP client in the lab's client node. */
export class HttpLoad {
  private constructor(private readonly command: NodeCommand) {}

  /** @returns once every connection has had a reply */
  static async start(client: LabNode, options: HttpLoadOptions): Promise<HttpLoad> {
    const command = startProgram(client, 'test/apps/http-load-main.js', [JSON.stringify(options)]);
    await command.printed(/^ready$/m);
    return new HttpLoad(command);
  }

  /** Waits until so many more replies have come. @throws {Error} when they do not */
  async goesOn(replies: number): Promise<void> {
    const wanted = lastNumber(this.command.stdout) + replies;
    await this.command.printed((text) => lastNumber(text) >= wanted);
  }

  /** Ends it and waits for the last replies. */
  async stop(): Promise<HttpLoadResult> {
    this.command.finishInput();
    const { status, stdout, stderr } = await this.command.ended;
    if (status !== 0) throw new Error(`the HTTP client ended with ${status}: ${stderr}`);
    return JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as HttpLoadResult;
  }
}

/** A GET of a file with that content. */
export function fileErrand(path: string, content: Buffer): Errand {
  return { path, sha256: createHash('sha256').update(content).digest('hex') };
}

/** Of the last whole line. */
function lastNumber(text: string): number {
  return Number(/(?:^|\n)(\d+)\n[^\n]*$/.exec(text.slice(-200))?.[1] ?? 0);
}
