import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { ExternalError, fromDocument } from '../errors.js';
import type { LabNode } from '../lab/lab-node.js';
import { lastLines } from '../system/command.js';
import { projectFile } from '../system/project.js';
import { type ClientEvent, clientEvent } from './client-events.js';

type EventOf<Kind extends ClientEvent['event']> = Extract<ClientEvent, { event: Kind }>;

const STOP_LIMIT_MS = 20_000;

/** A load process in a lab node, seen from outside: its events, and the way to end it. */
export class LoadClient {
  private readonly events = new Map<ClientEvent['event'], ClientEvent>();
  private readonly ended: Promise<void>;
  private complaint = '';
  private onReady: (() => void) | undefined;

  private constructor(
    private readonly child: ChildProcess,
    private readonly name: string,
  ) {
    child.stdin?.on('error', () => undefined); // EPIPE: its end says more
    child.stderr?.on('data', (chunk: Buffer) => {
      this.complaint = (this.complaint + chunk.toString()).slice(-4000);
    });
    if (child.stdout !== null) createInterface(child.stdout).on('line', (line) => this.take(line));
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => {
        this.complaint += error.message;
        resolve();
      });
      child.once('close', () => resolve());
    });
  }

  /**
   * Starts `dist/cli/demo/<name>.js` in the node and waits until it is ready.
   * @throws {HomeproxyError} what it reported, or `DEMO_LOAD` when it ended without a word
   */
  static async start(node: LabNode, name: string, args: readonly string[]): Promise<LoadClient> {
    const program = projectFile(`dist/cli/demo/${name}.js`);
    const client = new LoadClient(node.spawn([process.execPath, program, ...args], ['pipe', 'pipe', 'pipe']), name);
    const ready = new Promise<void>((resolve) => {
      client.onReady = resolve;
    });
    await Promise.race([ready, client.ended]);
    client.event('ready');
    return client;
  }

  /** The last event of that kind, if one came. */
  latest<Kind extends ClientEvent['event']>(kind: Kind): EventOf<Kind> | undefined {
    return this.events.get(kind) as EventOf<Kind> | undefined;
  }

  /**
   * The last event of that kind.
   * @throws {HomeproxyError} why there is none
   */
  event<Kind extends ClientEvent['event']>(kind: Kind): EventOf<Kind> {
    const event = this.latest(kind);
    if (event !== undefined) return event;
    const failure = this.latest('error');
    if (failure !== undefined) {
      const { remedy, command, log, ...error } = failure.error;
      throw fromDocument({
        ...error,
        ...(remedy === undefined ? {} : { remedy }),
        ...(command === undefined ? {} : { command }),
        ...(log === undefined ? {} : { log }),
      });
    }
    throw new ExternalError({
      code: 'DEMO_LOAD',
      message: `the demo's ${this.name} ended before it had a result`,
      command: this.child.spawnargs.join(' '),
      log: lastLines(this.complaint, 8),
    });
  }

  /** Asks it to end, and waits until it has told its result. */
  async stop(): Promise<void> {
    this.child.stdin?.end('stop\n');
    const limit = setTimeout(() => this.child.kill('SIGKILL'), STOP_LIMIT_MS);
    await this.ended;
    clearTimeout(limit);
  }

  private take(line: string): void {
    const parsed = clientEvent.safeParse(parseJson(line));
    if (!parsed.success) {
      this.complaint += `${line}\n`;
      return;
    }
    this.events.set(parsed.data.event, parsed.data);
    if (parsed.data.event === 'ready') this.onReady?.();
  }
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined; // not ours: kept as a complaint
  }
}
