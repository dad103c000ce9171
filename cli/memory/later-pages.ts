import { setTimeout as pause } from 'node:timers/promises';
import type { Line } from '../../addon/lib/index.js';
import { asHomeproxyError, type HomeproxyError } from '../errors.js';
import type { CopyProgress } from './carried.js';
import type { SendMemory } from './departing.js';

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;

/** The destination's word that nothing of this copy is wanted any more. */
const FINAL = new Set(['PAGER_LOST']);

/** A copy that stands still here, and whose memory a process elsewhere is to have. */
export interface StandingCopy {
  readonly pid: number;
  /** Bytes that were to follow when it was frozen. */
  readonly bytes: number;
  /** Most bytes per second that nobody waits for; undefined: no limit. */
  readonly limit: number | undefined;
  /** Whether it is still there. */
  there(): boolean;
}

/**
 * Memory of a copy that stands still here, for the process that runs elsewhere: sent until all has come there, over as many lines
 * as it takes. What is missing is known there alone, and told anew over each.
 */
export class LaterPages {
  /** Fulfilled when nothing of the copy is wanted any more, or it is gone; rejected with the reason of {@link giveUp}. */
  readonly acknowledged: Promise<void>;
  private last: HomeproxyError | undefined;
  /** Its code, if somebody was told. */
  private reported: string | undefined;
  private readonly cut = new AbortController();
  private readonly began = performance.now();
  private line: Pick<Line, 'later'> | undefined;
  /** Over lines that are no more. */
  private before = 0;
  private left: number;

  /** @param report told of a trouble that stays */
  constructor(
    private readonly send: SendMemory,
    private readonly copy: StandingCopy,
    private readonly report: (trouble: HomeproxyError) => void = () => undefined,
  ) {
    this.left = copy.bytes;
    this.acknowledged = this.sendAll();
    this.acknowledged.catch(() => undefined); // it may be given up before anybody waits for it
  }

  /** The copy here is the process. */
  giveUp(reason: Error): void {
    this.cut.abort(reason);
  }

  /** Why nothing is sent now; undefined: it is, or nothing is left to send. */
  get trouble(): HomeproxyError | undefined {
    return this.heard || this.left === 0 ? undefined : this.last;
  }

  /** The other end of the line has said what is missing there. */
  private get heard(): boolean {
    return (this.line?.later.missing ?? 0) > 0;
  }

  /** Bytes that were sent. */
  get sent(): number {
    return this.before + (this.line?.later.sent ?? 0);
  }

  /** Bytes that are missing there, as far as that is known here. */
  get missing(): number {
    const { missing, sent } = this.line?.later ?? { missing: 0, sent: 0 };
    if (missing > 0) this.left = Math.max(missing - sent, 0);
    return this.left;
  }

  get progress(): CopyProgress {
    const { missing } = this;
    const total = Math.max(this.copy.bytes, missing);
    const seconds = (performance.now() - this.began) / 1000;
    return {
      round: 0,
      bytes: total - missing,
      total,
      rate: seconds > 0 ? Math.round(this.sent / seconds) : 0,
      later: true,
    };
  }

  private async sendAll(): Promise<void> {
    const { signal } = this.cut;
    for (let wait = FIRST_PAUSE_MS; this.copy.there(); wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
      if (await this.sendOnce(signal)) return;
      await pause(wait, undefined, { signal, ref: false }).catch(() => undefined);
      signal.throwIfAborted();
    }
  }

  /** Over one line. @returns whether nothing more is wanted */
  private async sendOnce(signal: AbortSignal): Promise<boolean> {
    let all = false; // an answer without the pager's own word says nothing of the pages
    const feed = async (line: Line): Promise<void> => {
      this.line = line;
      await line.serveLater(this.copy.pid, this.copy.limit ?? 0);
      all = true;
    };
    try {
      await this.send(feed, signal);
      return all;
    } catch (error) {
      signal.throwIfAborted();
      const trouble = asHomeproxyError(error);
      const again = !this.heard && trouble.code === this.last?.code; // once is no news: a line was lost, or the move is put back
      if (again && this.reported !== trouble.code) this.report(trouble);
      this.reported = again ? trouble.code : undefined;
      this.last = trouble;
      return FINAL.has(trouble.code);
    } finally {
      this.left = all ? 0 : this.missing;
      this.before = this.sent;
      this.line = undefined;
    }
  }
}
