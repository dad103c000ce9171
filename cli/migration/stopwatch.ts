import type { CopyProgress } from '../memory/carried.js';
import type { Phase, PhaseEvent } from './records.js';

/** Measures the phases of one migration on the monotonic clock; one phase ends where the next begins. */
export class Stopwatch {
  private readonly started = performance.now();
  private readonly measured: Partial<Record<Phase, number>> = {};
  private current: { readonly phase: Phase; readonly since: number } | undefined;

  constructor(private readonly onPhase: ((event: PhaseEvent) => void) | undefined) {}

  begin(phase: Phase): void {
    this.end();
    const now = performance.now();
    this.current = { phase, since: now };
    this.onPhase?.({ phase, atMs: now - this.started });
  }

  /** How far the phase that goes on is. */
  tell(copied: CopyProgress): void {
    if (this.current === undefined) return;
    this.onPhase?.({ phase: this.current.phase, atMs: performance.now() - this.started, copied });
  }

  end(): void {
    if (this.current === undefined) return;
    this.measured[this.current.phase] = Math.round((performance.now() - this.current.since) * 100) / 100;
    this.current = undefined;
  }

  /** The phase that goes on, and for how long it has. */
  get running(): { readonly phase: Phase; readonly ms: number } | undefined {
    return this.current && { phase: this.current.phase, ms: performance.now() - this.current.since };
  }

  /** Milliseconds of each finished phase. */
  get durations(): Partial<Record<Phase, number>> {
    return { ...this.measured };
  }
}

/** Milliseconds since the epoch, with the resolution of the monotonic clock. */
export function wallClock(): number {
  return performance.timeOrigin + performance.now();
}
