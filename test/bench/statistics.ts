/** Durations above this are interrupts and the like; they count as this long. */
const LONGEST_NS = 8191;
/** Clocks of virtual machines advance in steps of up to 10 ns: a duration of n stands for anything 5 ns around it. */
const HALF_STEP_NS = 5;

/** Durations in whole nanoseconds, counted. */
export class Durations {
  private readonly counts = new Uint32Array(LONGEST_NS + 1);
  private total = 0;

  add(durationsNs: Uint32Array): this {
    for (const ns of durationsNs) {
      const index = Math.min(ns, LONGEST_NS);
      this.counts[index] = (this.counts[index] ?? 0) + 1;
    }
    this.total += durationsNs.length;
    return this;
  }

  get runs(): number {
    return this.total;
  }

  /** The duration below which that share of the runs lies, finer than the clock's steps. */
  quantile(share: number): number {
    const wanted = share * this.total;
    const density = this.density();
    let below = 0;
    for (let cell = 0; cell < density.length; cell++) {
      const here = density[cell] ?? 0;
      if (here > 0 && below + here >= wanted) return cell - HALF_STEP_NS + (wanted - below) / here;
      below += here;
    }
    return LONGEST_NS;
  }

  /** Runs by nanosecond, each spread evenly over the clock's step around it; the first cell is -HALF_STEP_NS. */
  private density(): Float64Array {
    const step = 2 * HALF_STEP_NS;
    const density = new Float64Array(this.counts.length + step);
    this.counts.forEach((runs, ns) => {
      if (runs > 0) for (let cell = ns; cell < ns + step; cell++) density[cell] = (density[cell] ?? 0) + runs / step;
    });
    return density;
  }
}

/** Of numbers in any order; the mean of the middle two where there is no middle one. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)] ?? 0, sorted[Math.ceil(at)] ?? 0];
  return low + (high - low) * (at - Math.floor(at));
}

/** A figure with its spread: the middle half of the rounds that it was measured in. */
export interface Figure {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** The median of what the rounds say. */
export function figureOf(rounds: readonly number[]): Figure {
  return { value: quantile(rounds, 0.5), low: quantile(rounds, 0.25), high: quantile(rounds, 0.75) };
}
