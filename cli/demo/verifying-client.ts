import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ExternalError } from '../errors.js';
import { epochNow, SampleRecorder, type Samples } from './samples.js';
import { addFaults, type Faults } from './sequence.js';
import { VerifyingConnection } from './verifying-connection.js';

export interface VerifyingClientOptions {
  readonly host: string;
  readonly port: number;
  /** Persistent connections, each with a key of its own. */
  readonly connections: number;
  readonly paceMs: number;
  /** Requests under way at once on each connection. */
  readonly inFlight: number;
  /** How long a server that refuses is asked again. */
  readonly connectWithinMs: number;
  /** How long the last replies may take after {@link VerifyingClient.stop}. */
  readonly graceMs: number;
}

export const VERIFYING_DEFAULTS = {
  port: 6379,
  connections: 50,
  paceMs: 4,
  inFlight: 1,
  connectWithinMs: 10_000,
  graceMs: 5_000,
} as const;

export interface VerifyingResult extends Faults {
  readonly connections: number;
  readonly replies: number;
  /** Connections that ended though the client did not end them. */
  readonly resets: number;
  readonly resetReasons: readonly string[];
  /** When each lost reply's request was sent, in epoch milliseconds. */
  readonly unansweredSince: readonly number[];
  readonly startedAt: number;
  readonly endedAt: number;
}

/** What the client knows while it runs. */
export interface VerifyingProgress {
  readonly atMs: number;
  readonly replies: number;
  readonly resets: number;
  /** Longest latency since the last call, requests that still wait included. */
  readonly longestMs: number;
}

const RETRY_MS = 20;

/**
 * The correspondent of the demo: N persistent connections to a Redis that count, each for itself, and check every reply.
 * Nothing here reconnects or repeats a request, so whatever is lost on the way shows.
 */
export class VerifyingClient {
  private readonly recorder = new SampleRecorder();
  private connections: VerifyingConnection[] = [];
  private startedAt = 0;
  private seen = 0;

  constructor(private readonly options: VerifyingClientOptions) {}

  /**
   * Opens all connections; a server that refuses is asked again until `connectWithinMs` has passed.
   * @throws {ExternalError} `SERVER_UNREACHABLE`.
   */
  async open(): Promise<void> {
    const prefix = `verify:${randomBytes(4).toString('hex')}`;
    const deadline = epochNow() + this.options.connectWithinMs;
    for (let index = 0; index < this.options.connections; index++) {
      this.connections.push(await this.connect(`${prefix}:${index}`, deadline));
    }
  }

  start(): void {
    this.startedAt = epochNow();
    for (const connection of this.connections) connection.start();
  }

  /** Ends the load, waits for the last replies and closes everything. */
  async stop(): Promise<VerifyingResult> {
    await Promise.all(this.connections.map((connection) => connection.stop(this.options.graceMs)));
    const faults = this.connections.map((connection) => connection.faults);
    const resetReasons = this.connections.flatMap((connection) => connection.resetReason ?? []);
    return {
      connections: this.connections.length,
      replies: this.replies,
      ...faults.reduce(addFaults, { lost: 0, repeated: 0, outOfOrder: 0, wrong: 0 }),
      resets: resetReasons.length,
      resetReasons: [...new Set(resetReasons)],
      unansweredSince: this.connections.flatMap((connection) => connection.waiting),
      startedAt: this.startedAt,
      endedAt: epochNow(),
    };
  }

  get samples(): Samples {
    return this.recorder.samples;
  }

  progress(): VerifyingProgress {
    const now = epochNow();
    const latencies = this.recorder.samples.latencyMs;
    let longestMs = 0;
    for (let index = this.seen; index < latencies.length; index++)
      longestMs = Math.max(longestMs, latencies[index] ?? 0);
    this.seen = latencies.length;
    for (const connection of this.connections) {
      for (const sentAt of connection.waiting) longestMs = Math.max(longestMs, now - sentAt);
    }
    const resets = this.connections.filter((connection) => connection.resetReason !== undefined).length;
    return { atMs: now, replies: this.replies, resets, longestMs };
  }

  private get replies(): number {
    return this.connections.reduce((sum, connection) => sum + connection.replies, 0);
  }

  private async connect(key: string, deadline: number): Promise<VerifyingConnection> {
    for (;;) {
      try {
        return await VerifyingConnection.open({ ...this.options, key }, this.recorder);
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code ?? String(error);
        if (code === 'ECONNREFUSED' && epochNow() < deadline) {
          await sleep(RETRY_MS);
          continue;
        }
        const server = `${this.options.host}:${this.options.port}`;
        throw new ExternalError({
          code: 'SERVER_UNREACHABLE',
          message: `cannot connect to ${server}: ${code}`,
          command: `connect ${server}`,
          cause: error,
        });
      }
    }
  }
}
