import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What a pager (`addon/src/pager.cc`) says of itself. */
export interface PagerState {
  /** `waiting`: no process was handed over to it. `complete`: nothing is missing any more. */
  readonly stage: 'waiting' | 'serving' | 'complete';
  /** Pid of the process that serves, and of the one that would go on in its place. */
  readonly serving: number;
  readonly standingBy: number;
  /** Pages that were to come when the process began to run, and those that are missing now. */
  readonly later: number;
  readonly missing: number;
  /** How often a thread has waited for a page. */
  readonly faults: number;
}

export const PAGER_STATE = 'pager.state';
const STAGES = ['waiting', 'serving', 'complete'] as const;
const NUMBERS = 6;
const NUMBER_BYTES = 8;

/** @returns undefined when no pager was started in that folder. */
export function readPagerState(folder: string): PagerState | undefined {
  let numbers: Buffer;
  try {
    numbers = readFileSync(join(folder, PAGER_STATE));
  } catch {
    return undefined;
  }
  if (numbers.length < NUMBERS * NUMBER_BYTES) return undefined;
  const number = (index: number): number => Number(numbers.readBigUInt64LE(index * NUMBER_BYTES));
  const stage = STAGES[number(0)] ?? 'waiting';
  const [serving, standingBy, later, missing, faults] = [1, 2, 3, 4, 5].map(number) as [
    number,
    number,
    number,
    number,
    number,
  ];
  return { stage, serving, standingBy, later, missing, faults };
}
