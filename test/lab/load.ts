import { type ClientEvent, clientEvent } from '../../cli/demo/client-events.js';
import { decodeSamples, type Samples } from '../../cli/demo/samples.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { type NodeCommand, startProgram } from './node-command.js';
import { REDIS_PORT } from './redis.js';

type ResultEvent = Extract<ClientEvent, { event: 'result' }>;

export interface LoadResult extends Omit<ResultEvent, 'event'> {
  readonly samples: Samples;
}

export interface LoadOptions {
  /** Default: Redis's. */
  readonly port?: number;
  readonly connections?: number;
  /** Requests under way at once on each connection; default 1. */
  readonly inFlight?: number;
  /** Time between a reply and the next request on each connection, in milliseconds. */
  readonly paceMs?: number;
  /** How long the last replies may take when it is stopped, in milliseconds. */
  readonly graceMs?: number;
}

/** The demo's verifying client in the lab's client node: persistent connections that check every reply. */
export class Load {
  private constructor(private readonly command: NodeCommand) {}

  static async start(client: LabNode, server: string, options: LoadOptions = {}): Promise<Load> {
    const { port = REDIS_PORT, connections = 50, inFlight = 1, paceMs = 4, graceMs = 10_000 } = options;
    const command = startProgram(client, 'cli/demo/verifying-client-main.js', [
      '--host',
      server,
      '--port',
      String(port),
      '--connections',
      String(connections),
      '--in-flight',
      String(inFlight),
      '--pace',
      String(paceMs),
      '--grace',
      String(graceMs),
    ]);
    await command.printed(/"event":"ready"/);
    return new Load(command);
  }

  /** Replies so far, as of the last whole second. */
  get progress(): { replies: number; resets: number; longestMs: number; atMs: number } {
    const seconds = events(this.command.stdout).filter((event) => event.event === 'second');
    return seconds.at(-1) ?? { replies: 0, resets: 0, longestMs: 0, atMs: 0 };
  }

  /** Waits for the client's next report, at most a second and a bit away. */
  async nextSecond(): Promise<{ replies: number; resets: number; longestMs: number; atMs: number }> {
    const count = secondsIn(this.command.stdout);
    await this.command.printed((text) => secondsIn(text) > count);
    return this.progress;
  }

  /** Ends the load, waits for the last replies and returns what came of it. */
  async stop(): Promise<LoadResult> {
    this.command.finishInput('stop\n');
    const { status, stdout, stderr } = await this.command.ended;
    const all = events(stdout);
    const result = all.find((event) => event.event === 'result');
    const samples = all.find((event) => event.event === 'samples');
    if (status !== 0 || result === undefined || samples === undefined) {
      throw new Error(`the verifying client ended with ${status}: ${stdout.slice(-2000)}${stderr}`);
    }
    return { ...result, samples: decodeSamples(samples) };
  }
}

/** What is wrong with a load, as `assert.equal(faultsOf(result), NO_FAULTS)` shows it. */
export function faultsOf({ lost, repeated, outOfOrder, wrong, resets, resetReasons }: LoadResult): typeof NO_FAULTS {
  return { lost, repeated, outOfOrder, wrong, resets, resetReasons };
}

export const NO_FAULTS = {
  lost: 0,
  repeated: 0,
  outOfOrder: 0,
  wrong: 0,
  resets: 0,
  resetReasons: [] as readonly string[],
};

/** How many whole lines of that kind there are. */
function secondsIn(text: string): number {
  return text.slice(0, text.lastIndexOf('\n') + 1).split('"event":"second"').length - 1;
}

function events(text: string): ClientEvent[] {
  const end = text.lastIndexOf('\n');
  return text
    .slice(0, Math.max(0, end))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => clientEvent.parse(JSON.parse(line)));
}
