import type { Samples } from './samples.js';

/** A migration as the pictures show it; times in epoch milliseconds. */
export interface PicturedMove {
  readonly from: string;
  readonly to: string;
  readonly startedAt: number;
  readonly endedAt: number;
  readonly frozenAt: number;
  readonly resumedAt: number;
  readonly freezeMs: number;
  readonly stallMs: number;
}

/** What both pictures (terminal and SVG) show: the client's view of a run. */
export interface Picture {
  readonly samples: Samples;
  readonly from: number;
  readonly to: number;
  readonly moves: readonly PicturedMove[];
}
