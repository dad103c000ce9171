import { setTimeout as pause } from 'node:timers/promises';
import type { Line } from '../../addon/lib/index.js';
import { asHomeproxyError } from '../errors.js';
import type { SendMemory } from './departing.js';

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;

/** The destination's word that nothing of this copy is wanted any more. */
const FINAL = new Set(['NOT_EXPECTED', 'PAGER_LOST']);

/**
 * Memory of a copy that stands still here, for the process that runs elsewhere: sent until all has come there, over as many lines
 * as it takes. What is missing is known there alone, and told anew over each.
 */
export class LaterPages {
  /** Fulfilled when nothing of the copy is wanted any more; rejected with the reason of {@link giveUp}. */
  readonly acknowledged: Promise<void>;
  private readonly cut = new AbortController();

  /** @param pid whose memory; it stands still. @param limit most bytes per second that nobody waits for */
  constructor(send: SendMemory, pid: number, limit: number | undefined) {
    this.acknowledged = this.sendAll(send, (line) => line.serveLater(pid, limit ?? 0));
    this.acknowledged.catch(() => undefined); // it may be given up before anybody waits for it
  }

  /** The copy here is the process. */
  giveUp(reason: Error): void {
    this.cut.abort(reason);
  }

  private async sendAll(send: SendMemory, serve: (line: Line) => Promise<number>): Promise<void> {
    const { signal } = this.cut;
    for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
      try {
        let all = false; // an answer without the pager's own word says nothing of the pages
        const feed = async (line: Line): Promise<void> => {
          await serve(line);
          all = true;
        };
        await send(feed, signal);
        if (all) return;
      } catch (error) {
        signal.throwIfAborted();
        if (FINAL.has(asHomeproxyError(error).code)) return;
      }
      await pause(wait, undefined, { signal, ref: false }).catch(() => undefined);
      signal.throwIfAborted();
    }
  }
}
