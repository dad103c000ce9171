import { connect, type Socket } from 'node:net';
import { encodeRequest, ProtocolFault, type Reply, ReplyParser } from './resp.js';
import { epochNow, type SampleRecorder } from './samples.js';
import { type Faults, SequenceCheck } from './sequence.js';

export interface ConnectionOptions {
  readonly host: string;
  readonly port: number;
  /** Must not exist yet. */
  readonly key: string;
  /** Time between a reply and the next request. */
  readonly paceMs: number;
  /** Requests under way at once. */
  readonly inFlight: number;
}

/**
 * One persistent connection that increments a key of its own and checks every reply. It never reconnects: when the
 * connection ends before we end it, that is a reset.
 */
export class VerifyingConnection {
  private readonly parser = new ReplyParser();
  private readonly check = new SequenceCheck();
  private readonly request: Buffer;
  private readonly timers = new Set<NodeJS.Timeout>();
  private stopping = false;
  private over = false;
  private wake: (() => void) | undefined;

  /** Why the connection ended though we did not end it. */
  resetReason: string | undefined;
  /** Requests that were answered by their own reply. */
  replies = 0;

  private constructor(
    private readonly socket: Socket,
    private readonly options: ConnectionOptions,
    private readonly samples: SampleRecorder,
  ) {
    this.request = encodeRequest('INCR', options.key);
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.receive(chunk));
    socket.on('error', (error: NodeJS.ErrnoException) => this.ended(error.code ?? error.message));
    socket.on('end', () => this.ended('closed by the server'));
    socket.on('close', () => this.ended('closed'));
  }

  /** Connects, or rejects with the system's error (ECONNREFUSED, ...). */
  static open(options: ConnectionOptions, samples: SampleRecorder): Promise<VerifyingConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: options.host, port: options.port });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new VerifyingConnection(socket, options, samples));
      });
    });
  }

  start(): void {
    for (let count = 0; count < this.options.inFlight; count++) this.send();
  }

  /** Sends no more; resolves when every reply has come, or after `graceMs` (what has not come by then is lost). */
  async stop(graceMs: number): Promise<void> {
    this.stopping = true;
    this.forgetTimers();
    if (!this.over && this.check.waits) {
      await new Promise<void>((resolve) => {
        const limit = setTimeout(resolve, graceMs);
        this.wake = () => {
          clearTimeout(limit);
          resolve();
        };
      });
    }
    this.over = true;
    this.socket.destroy();
  }

  /** A request under way counts as lost: meant to be read after {@link stop}. */
  get faults(): Faults {
    return this.check.faults;
  }

  /** When the requests without a reply were sent, in epoch milliseconds. */
  get waiting(): number[] {
    return this.check.waiting;
  }

  private send(): void {
    this.check.request(epochNow());
    this.socket.write(this.request);
  }

  private sendLater(): void {
    if (this.options.paceMs <= 0) {
      this.send();
      return;
    }
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.send();
    }, this.options.paceMs);
    this.timers.add(timer);
  }

  private receive(chunk: Buffer): void {
    if (this.over) return;
    const now = epochNow();
    try {
      for (const reply of this.parser.push(chunk)) this.take(reply, now);
    } catch (error) {
      if (!(error instanceof ProtocolFault)) throw error;
      this.check.unexpected();
      this.ended(error.message);
    }
    if (!this.check.waits) this.wake?.();
  }

  private take(reply: Reply, now: number): void {
    if (reply.kind !== 'integer') {
      this.check.unexpected();
      return;
    }
    const sentAt = this.check.reply(reply.value);
    if (sentAt === undefined) return;
    this.replies++;
    this.samples.add(now, now - sentAt);
    if (!this.stopping) this.sendLater();
  }

  private ended(reason: string): void {
    if (this.over) return;
    this.over = true;
    this.resetReason = reason;
    this.forgetTimers();
    this.socket.destroy();
    this.wake?.();
  }

  private forgetTimers(): void {
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
  }
}
