import type { LabNode } from '../../cli/lab/lab-node.js';
import type { Attempt } from './new-connections-main.js';
import { type NodeCommand, startProgram } from './node-command.js';

export interface AttemptsResult {
  /** Those that ended, in the order of their end. */
  readonly attempts: readonly Attempt[];
  /** Those that had no answer 10 s after the stop. */
  readonly unanswered: number;
}

/** A client that keeps opening new connections to a Redis, each for one request. */
export class NewConnections {
  private constructor(private readonly command: NodeCommand) {}

  static async start(client: LabNode, host: string, port: number, everyMs = 10): Promise<NewConnections> {
    const command = startProgram(client, 'test/lab/new-connections-main.js', [host, String(port), String(everyMs)]);
    await command.printed(/\n/);
    return new NewConnections(command);
  }

  async stop(): Promise<AttemptsResult> {
    this.command.finishInput();
    const { stdout, stderr, status } = await this.command.ended;
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Attempt | { unanswered: number });
    const last = lines.at(-1);
    if (status !== 0 || last === undefined || !('unanswered' in last)) throw new Error(`it ended early: ${stderr}`);
    return { attempts: lines.filter((line): line is Attempt => 'startedAt' in line), unanswered: last.unanswered };
  }
}

/** The attempts that failed, or were not answered, in words; empty when all is well. */
export function failuresOf({ attempts, unanswered }: AttemptsResult): string[] {
  const failed = attempts.filter(({ failure }) => failure !== null);
  const words = failed.map(({ failure, startedAt, endedAt }) => {
    return `${failure} after ${(endedAt - startedAt).toFixed(0)} ms, started at ${startedAt.toFixed(0)}`;
  });
  return unanswered > 0 ? [...words, `${unanswered} without an answer`] : words;
}
