/** What is wrong with the replies of one connection, or of many. */
export interface Faults {
  /** Requests whose own reply never came. */
  readonly lost: number;
  /** Numbers that had come before. */
  readonly repeated: number;
  /** Numbers that came after a later one. */
  readonly outOfOrder: number;
  /** Errors, and numbers that nobody asked for. */
  readonly wrong: number;
}

/**
 * Judges the replies to INCR of a key that nobody else changes: the n-th request must be answered by n, once, before
 * n + 1. Whatever else comes answers no request, so the request that it stands in for stays open and is lost as well.
 */
export class SequenceCheck {
  private requested = 0;
  private highest = 0;
  private readonly open = new Map<number, number>();
  private repeated = 0;
  private outOfOrder = 0;
  private wrong = 0;

  /** A request is written. */
  request(sentAt: number): void {
    this.open.set(++this.requested, sentAt);
  }

  /** A number came. Returns when its request was sent, or undefined when it answers none. */
  reply(value: number): number | undefined {
    const sentAt = this.open.get(value);
    if (sentAt === undefined) {
      if (value >= 1 && value <= this.requested) this.repeated++;
      else this.wrong++;
      return undefined;
    }
    this.open.delete(value);
    if (value < this.highest) this.outOfOrder++;
    else this.highest = value;
    return sentAt;
  }

  /** Something came that is no number. */
  unexpected(): void {
    this.wrong++;
  }

  /** When the requests were sent that have no reply yet. */
  get waiting(): number[] {
    return [...this.open.values()];
  }

  get waits(): boolean {
    return this.open.size > 0;
  }

  /** The faults if no more replies come: every open request is lost. */
  get faults(): Faults {
    return { lost: this.open.size, repeated: this.repeated, outOfOrder: this.outOfOrder, wrong: this.wrong };
  }
}

export function addFaults(a: Faults, b: Faults): Faults {
  return {
    lost: a.lost + b.lost,
    repeated: a.repeated + b.repeated,
    outOfOrder: a.outOfOrder + b.outOfOrder,
    wrong: a.wrong + b.wrong,
  };
}
