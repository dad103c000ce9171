import { copyFileSync } from 'node:fs';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { projectFile } from '../../cli/system/project.js';
import { startServer } from './c-program.js';
import { LineClient } from './line-client.js';
import { NodeCommand } from './node-command.js';

const PROGRAM = '/run/socket-agent.py';
const COMMAND = ['python3', '-I', '-S', PROGRAM];
const ANSWER_LIMIT_MS = 60_000;

type Reply = { readonly answer: unknown } | { readonly error: string };

/** A program that does with its sockets what it is told (`socket-agent.py`). */
export class SocketAgent {
  private constructor(
    private readonly say: (line: string) => Promise<string>,
    /** In its node; 0 for one that never moves. */
    readonly pid: number,
  ) {}

  /** One that is told over the network, so that it can move. @param client where it is told from */
  static async serve(node: LabNode, client: LabNode, port: number): Promise<SocketAgent> {
    copyFileSync(projectFile('test/lab/socket-agent.py'), node.path(PROGRAM));
    const pid = await startServer(node, [...COMMAND, String(port)], port);
    const line = await LineClient.connect(client, node.address, port);
    return new SocketAgent((text) => line.ask(text), pid);
  }

  /** One that stays. */
  static start(node: LabNode): SocketAgent {
    copyFileSync(projectFile('test/lab/socket-agent.py'), node.path(PROGRAM));
    const command = new NodeCommand(node, COMMAND);
    let lines = 0;
    const say = async (text: string): Promise<string> => {
      const before = lines++;
      command.write(`${text}\n`);
      await command.printed((printed) => printed.split('\n').length > before + 1, ANSWER_LIMIT_MS);
      return command.stdout.split('\n')[before] ?? '';
    };
    return new SocketAgent(say, 0);
  }

  /** Calls a function of the program. @throws {Error} with what the system said to it */
  async do<Answer = unknown>(name: string, ...args: readonly unknown[]): Promise<Answer> {
    const reply = JSON.parse(await this.say(JSON.stringify([name, ...args]))) as Reply;
    if ('error' in reply) throw new Error(`${name}: ${reply.error}`);
    return reply.answer as Answer;
  }
}
