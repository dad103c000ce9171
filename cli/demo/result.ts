import type { NoiseResult } from './client-events.js';
import type { Picture } from './picture.js';

/** One migration of the demo, as the daemon tells it, and the stall that the client saw. Times in milliseconds. */
export interface DemoMigration {
  readonly from: string;
  readonly to: string;
  readonly outcome: string;
  readonly freezeMs: number;
  readonly stallMs: number;
  readonly phases: Readonly<Record<string, number>>;
  readonly connections: number;
  readonly parkedPackets: number;
  readonly replayedPackets: number;
  readonly droppedPackets: number;
  readonly totalMs: number;
  readonly bytesMoved: number;
  /** Epoch milliseconds. */
  readonly startedAt: number;
  readonly frozenAt: number;
  readonly resumedAt: number;
}

/** The JSON contract of `homeproxy demo --json`. */
export interface DemoResult {
  readonly migrations: readonly DemoMigration[];
  /** Replies that were checked. */
  readonly replies: number;
  readonly lostReplies: number;
  readonly resets: number;
  readonly repeatedReplies: number;
  readonly outOfOrderReplies: number;
  readonly wrongReplies: number;
  readonly connections: number;
  readonly medianMs: number;
  readonly redis: { readonly pid: number; readonly residentBytes: number };
  readonly noise: NoiseResult;
  /** What should not have happened, in words; empty when the demo holds what it promises. */
  readonly violations: readonly string[];
}

export interface DemoOutcome {
  readonly result: DemoResult;
  readonly picture: Picture;
}

/** Each promise of the demo that the figures break, in words. */
export function violationsOf(result: Omit<DemoResult, 'violations'>, resetReasons: readonly string[]): string[] {
  const { lostReplies, repeatedReplies, outOfOrderReplies, wrongReplies, resets, noise } = result;
  const violations: string[] = [];
  const expectNone = (count: number, words: string): void => {
    if (count > 0) violations.push(`${count} ${words}`);
  };
  expectNone(lostReplies, 'replies were lost');
  expectNone(repeatedReplies, 'replies came twice');
  expectNone(outOfOrderReplies, 'replies came out of order');
  expectNone(wrongReplies, 'replies were wrong');
  expectNone(resets, `connections were reset (${resetReasons.join(', ')})`);
  expectNone(noise.failures, `runs of redis-benchmark failed (${noise.failureLog.join(' | ')})`);
  for (const { from, to, outcome } of result.migrations) {
    if (outcome !== 'committed') violations.push(`the move ${from} → ${to} was ${outcome}`);
  }
  return violations;
}
