import { availableParallelism } from 'node:os';
import type { Line } from '../../addon/lib/index.js';
import { BEHIND_NICE, giveWay, ownSession, sessionsCompete } from '../system/priority.js';

/**
 * Bytes per second that are copied in any case: to send so many takes a tenth of the machine's processors at most, and who copies
 * less waits for something else, or has so many before it that the copying would take for ever.
 */
const LEAST_RATE = (128 << 20) * availableParallelism();
/** So much of a limit is not waited for. */
const OF_LIMIT = 0.5;
const TICK_MS = 20;
/** So many milliseconds of that rate may a copying be ahead of it, or behind, for it to count. */
const CREDIT_MS = 125;
/** Where even the daemon's main thread has waited for so long, those behind get nothing: the copying goes as the freeze would. */
const STARVED_MS = 100;

/** Whether a copying that goes behind others gets on. */
export class Headway {
  private at: number;
  private readonly most: number;
  private credit: number;

  /** @param leastRate bytes per second that are enough. @param at milliseconds. @param passed bytes so far */
  constructor(
    private readonly leastRate: number,
    at: number,
    private passed: number,
  ) {
    this.at = at;
    this.most = (leastRate * CREDIT_MS) / 1000;
    this.credit = this.most;
  }

  /** To be asked every 20 ms. @returns `over`: who asks comes too late, and it should not go behind others any more */
  next(at: number, passed: number): 'behind' | 'ahead' | 'over' {
    const ms = at - this.at;
    if (ms > TICK_MS + STARVED_MS) return 'over';
    const credit = this.credit + passed - this.passed - (this.leastRate * ms) / 1000;
    this.credit = Math.min(Math.max(credit, -this.most), this.most);
    [this.at, this.passed] = [at, passed];
    return this.credit > 0 ? 'behind' : 'ahead';
  }
}

/**
 * Copying that goes behind whatever else runs on the machine, the process that is copied among it, as long as it gets on: its
 * threads, the daemon's session with them, and the CRIU that takes what comes.
 */
export class Deference {
  private timer: NodeJS.Timeout | undefined;
  private headway: Headway | undefined;
  private goOn: (() => void) | undefined;

  /** @param pids processes that take part in it. @param enough bytes after which it is over. @param limit bytes per second that pass at most */
  constructor(
    private readonly line: Pick<Line, 'setNice' | 'passed'>,
    private readonly options: {
      readonly pids?: readonly number[];
      readonly enough?: number;
      readonly limit?: number | undefined;
    } = {},
  ) {}

  /** Whether it is not over yet, even where it has precedence for a moment. */
  get lasts(): boolean {
    return this.timer !== undefined;
  }

  begin(): void {
    const leastRate = Math.min(LEAST_RATE, (this.options.limit ?? Number.POSITIVE_INFINITY) * OF_LIMIT);
    this.headway = new Headway(leastRate, performance.now(), this.line.passed);
    this.timer ??= setInterval(() => this.look(), TICK_MS).unref();
    this.wait();
  }

  /** Everything is as it was. May be repeated. */
  end(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.hasten();
  }

  private look(): void {
    const { passed } = this.line;
    const next = this.headway?.next(performance.now(), passed) ?? 'over';
    if (next === 'over' || passed >= (this.options.enough ?? Number.POSITIVE_INFINITY)) this.end();
    else if (next === 'behind') this.wait();
    else this.hasten();
  }

  private wait(): void {
    if (this.goOn !== undefined) return;
    this.goOn = giveWay(this.options.pids ?? []);
    this.line.setNice(sessionsCompete() ? undefined : BEHIND_NICE);
    ownSession.giveWay(this);
  }

  private hasten(): void {
    ownSession.goOn(this);
    if (this.goOn === undefined) return;
    this.line.setNice(undefined);
    this.goOn();
    this.goOn = undefined;
  }
}
