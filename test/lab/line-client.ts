import type { LabNode } from '../../cli/lab/lab-node.js';
import { NodeCommand } from './node-command.js';

const ANSWER_LIMIT_MS = 15_000;

/** One persistent connection from a node to a server that answers each line with a line. */
export class LineClient {
  private constructor(private readonly command: NodeCommand) {}

  static async connect(node: LabNode, host: string, port: number): Promise<LineClient> {
    const command = new NodeCommand(node, [process.execPath, '-e', RELAY, host, String(port)]);
    await command.printed(/^connected \d+\n/);
    return new LineClient(command);
  }

  /** Of its own end. */
  get port(): number {
    return Number(/^connected (\d+)\n/.exec(this.command.stdout)?.[1]);
  }

  /** @throws {Error} when there is no answer in time, by default 15 s, or the connection has ended */
  async ask(line: string, limitMs = ANSWER_LIMIT_MS): Promise<string> {
    const lines = this.command.stdout.split('\n').length;
    this.command.write(`${line}\r\n`);
    await this.command.printed((text) => text.split('\n').length > lines, limitMs);
    return this.command.stdout.trimEnd().split('\n').at(-1) ?? '';
  }

  /** Says a line and does not wait for the answer. Not to be mixed with {@link ask}. */
  say(line: string): void {
    this.command.write(`${line}\r\n`);
  }

  async close(): Promise<void> {
    this.command.finishInput();
    await this.command.ended;
  }
}

const RELAY = `
const [host, port] = process.argv.slice(1);
const socket = require('net').connect(Number(port), host, () => console.log('connected', socket.localPort));
socket.on('error', (error) => { console.error(error.code); process.exit(1); });
socket.on('end', () => process.exit(1));
process.stdin.pipe(socket, { end: false });
process.stdin.on('end', () => process.exit(0));
socket.pipe(process.stdout);
`;
