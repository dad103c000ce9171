import { setTimeout as pause } from 'node:timers/promises';
import type { Line } from '../../addon/lib/index.js';
import type { PagePipe } from '../checkpoint/page-pipe.js';
import { readCodePages, readPrivateMemory } from '../checkpoint/private-memory.js';
import { Ahead } from './difference.js';
import { encodeImages } from './image-stream.js';
import { MAX_AHEAD_BYTES, type NodeName } from './messages.js';

/** How images reach another node. */
export interface ImageRoad {
  /** Opens the connection ahead, so that the freeze need not wait for a handshake. */
  open(to: NodeName): Promise<void>;
  /** Sends memory before the freeze. @returns how many bytes of it the destination keeps. */
  sendAhead(to: NodeName, migration: string, pages: AsyncIterable<Buffer>): Promise<number>;
  /** Sends large memory, from before the freeze until its end. @param signal its abort cuts the connection. */
  sendMemory(to: NodeName, migration: string, feed: (line: Line) => Promise<void>, signal: AbortSignal): Promise<void>;
  /** Sends large memory to a process that runs there already, until all has come. @param signal its abort cuts the connection. */
  sendLater(to: NodeName, migration: string, feed: (line: Line) => Promise<void>, signal: AbortSignal): Promise<void>;
  /** @param signal its abort cuts the connection. */
  send(to: NodeName, migration: string, images: AsyncIterable<Buffer>, signal: AbortSignal): Promise<void>;
}

export interface Load {
  readonly to: NodeName;
  readonly migration: string;
  /** Where CRIU writes the images. */
  readonly folder: string;
  /** The destination takes the images of connections in one. */
  readonly together: boolean;
  readonly pages: PagePipe;
  /** What the destination has of them. */
  readonly ahead: Ahead;
  /** Whose memory it is. */
  readonly pid: number;
}

const CHUNK_BYTES = 1 << 20;

/**
 * Sends a copy of a process's memory to where it will go, while it runs.
 * @param limit most bytes per second
 * @returns what the destination keeps of it, perhaps nothing.
 */
export async function sendAhead(
  road: ImageRoad,
  to: NodeName,
  migration: string,
  pid: number,
  limit = Number.POSITIVE_INFINITY,
): Promise<Ahead> {
  const began = performance.now();
  const pages = await readPrivateMemory(pid, MAX_AHEAD_BYTES);
  const chunks = async function* (): AsyncGenerator<Buffer> {
    for (let at = 0; at < pages.length; at += CHUNK_BYTES) {
      const early = began + (at / limit) * 1000 - performance.now();
      if (early > 0) await pause(early);
      yield pages.subarray(at, at + CHUNK_BYTES);
    }
  };
  const kept = pages.length === 0 ? 0 : await road.sendAhead(to, migration, chunks());
  return new Ahead(pages.subarray(0, kept));
}

/** The images of one departure on their way: the memory while CRIU dumps it, and all the rest when it has. */
export class Sending {
  /** Bytes that were sent, once the destination has them all. */
  readonly delivered: Promise<number>;
  private readonly cut = new AbortController();
  private readonly dumped: Promise<void>;
  private onDumped: () => void = () => undefined;
  private onFailure: (reason: unknown) => void = () => undefined;

  constructor(
    road: ImageRoad,
    private readonly load: Load,
  ) {
    this.dumped = new Promise((resolve, reject) => {
      this.onDumped = resolve;
      this.onFailure = reject;
    });
    this.delivered = this.start(road);
    this.delivered.catch(() => load.pages.discard()); // CRIU must not stand still for a network that is gone
    this.dumped.catch(() => undefined);
  }

  /** The dump is over; nothing changes in its folder any more. */
  complete(): void {
    this.load.pages.finish();
    this.onDumped();
  }

  /** Result of a step of the dump; the failure of the sending ends it at once. */
  async unlessItFails<Result>(step: Promise<Result>): Promise<Result> {
    return await Promise.race([step, this.delivered.then(() => step)]);
  }

  /** Cuts the connection, so that what has arrived is never taken for a checkpoint. */
  giveUp(reason: Error): void {
    this.onFailure(reason);
    this.cut.abort(reason);
  }

  private async start(road: ImageRoad): Promise<number> {
    const { to, migration, folder, together, pages, ahead, pid } = this.load;
    const { dumped } = this;
    let bytes = 0;
    const counted = async function* (): AsyncGenerator<Buffer> {
      const underway = { pages: pages.chunks(), ahead, code: () => readCodePages(pid), dumped };
      for await (const chunk of encodeImages(folder, underway, together)) {
        bytes += chunk.length;
        yield chunk;
      }
    };
    await road.send(to, migration, counted(), this.cut.signal);
    return bytes;
  }
}
