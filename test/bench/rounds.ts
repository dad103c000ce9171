import { type BpfProgram, runBatch } from '../../addon/lib/index.js';
import { shuffle } from '../fault/chance.js';
import { type FrameKind, type Random, randomFrames } from './frames.js';
import { Durations, type Figure, figureOf } from './statistics.js';

/** One program on one kind of packet: one number of the result. */
export interface Point {
  readonly name: string;
  readonly program: BpfProgram;
  /** It and others like it, in turn: where in memory a program lies makes it some nanoseconds faster or slower. */
  readonly copies?: readonly BpfProgram[];
  readonly frames: FrameKind;
  readonly flows: number;
  /** What the program must answer to every packet: otherwise something else than meant was measured. */
  readonly verdict: number;
  /** The point whose program returns at once: what all the others are net of. */
  readonly base: string;
}

export interface Rounds {
  readonly count: number;
  /** Of each point in each round. */
  readonly runs: number;
}

/** Medians of all runs by point, and of each round. */
export class Measurement {
  private readonly all = new Map<string, Durations>();
  private readonly medians = new Map<string, number[]>();
  private readonly bases = new Map<string, string>();

  constructor(points: readonly Point[]) {
    for (const point of points) {
      this.all.set(point.name, new Durations());
      this.medians.set(point.name, []);
      this.bases.set(point.name, point.base);
    }
  }

  add(point: string, durationsNs: Uint32Array): void {
    this.all.get(point)?.add(durationsNs);
    this.medians.get(point)?.push(new Durations().add(durationsNs).quantile(0.5));
  }

  /** Nanoseconds of one run with all that measuring adds. */
  gross(point: string): number {
    return this.all.get(point)?.quantile(0.5) ?? Number.NaN;
  }

  /**
   * Nanoseconds of one run, net of the program that returns at once in the same round: what slows the machine down for a
   * while slows both.
   */
  net(point: string): Figure {
    return figureOf(this.netByRound(point));
  }

  /** One point's net cost over another's, each pair from the same round. */
  ratio(point: string, to: string): Figure {
    const divisors = this.netByRound(to);
    const { low, high } = figureOf(this.netByRound(point).map((ns, round) => ns / (divisors[round] ?? Number.NaN)));
    return { value: this.net(point).value / this.net(to).value, low, high };
  }

  get runsEach(): number {
    return Math.min(...[...this.all.values()].map((durations) => durations.runs));
  }

  private netByRound(point: string): number[] {
    const bases = this.medians.get(this.bases.get(point) ?? '') ?? [];
    return (this.medians.get(point) ?? []).map((ns, round) => ns - (bases[round] ?? Number.NaN));
  }
}

/**
 * Runs every point in every round, in another order each time, on packets of flows at random. The first round only warms up.
 * @throws {Error} when a program answers otherwise than its point says.
 */
export function measure(points: readonly Point[], rounds: Rounds, random: Random): Measurement {
  const measurement = new Measurement(points);
  for (let round = 0; round <= rounds.count; round++) {
    for (const point of shuffle(points, random)) {
      const packets = randomFrames(point.frames, point.flows, rounds.runs, random);
      const lengths = new Uint32Array(rounds.runs).fill(point.frames.template.length);
      const { program, copies = [program] } = point;
      const { verdicts, durationsNs } = runBatch(copies[round % copies.length] ?? program, { packets, lengths });
      const wrong = verdicts.find((verdict) => verdict !== point.verdict);
      if (wrong !== undefined) throw new Error(`${point.name}: the program answered ${wrong}, not ${point.verdict}`);
      if (round > 0) measurement.add(point.name, durationsNs);
    }
  }
  return measurement;
}
