import type { Direction } from '../migration/ends.js';
import type { Heading } from './destinations.js';

/** How many moves are remembered: as many as `limits.moves` may be, and the journal keeps. */
const KEPT_MOVES = 1000;
const FIRST_BACK_OFF_MS = 30_000;
const LONGEST_BACK_OFF_MS = 30 * 60_000;

/** A move that was begun: by a policy, or by somebody else. */
export interface Move {
  readonly pid: number;
  /** Undefined: somebody moved it by hand. */
  readonly policy: string | undefined;
  readonly direction: Direction;
  readonly from: string;
  readonly to: string;
  /** When it began, in milliseconds since the epoch. */
  readonly at: number;
  /** When it was over. */
  readonly endedAt?: number;
  readonly outcome: 'running' | 'moved' | 'failed';
  readonly error?: string;
}

/** What the engine must know of the past. */
export interface History {
  /** The oldest first. */
  readonly moves: readonly Move[];
  /** Which policy has sent a process away that is away now. */
  readonly senders: ReadonlyMap<number, string>;
}

export const NO_HISTORY: History = { moves: [], senders: new Map() };

/** The past, as it is made. */
export class Chronicle implements History {
  #moves: Move[] = [];
  readonly senders = new Map<number, string>();

  /** @param past what happened before, the oldest first */
  constructor(past: readonly Move[] = []) {
    for (const move of past) this.add(move);
  }

  get moves(): readonly Move[] {
    return this.#moves;
  }

  begin(move: Omit<Move, 'outcome' | 'endedAt' | 'error'>): void {
    this.add({ ...move, outcome: 'running' });
  }

  /** The move of a process that is running has ended; without one, nothing happens. */
  end(pid: number, endedAt: number, error?: string): void {
    const index = this.#moves.findLastIndex((move) => move.pid === pid && move.outcome === 'running');
    const move = this.#moves[index];
    if (move === undefined) return;
    const ended: Move =
      error === undefined ? { ...move, endedAt, outcome: 'moved' } : { ...move, endedAt, outcome: 'failed', error };
    this.#moves[index] = ended;
    this.settle(ended);
  }

  /** A move that has begun, or is over already. */
  add(move: Move): void {
    this.#moves.push(move);
    if (this.#moves.length > KEPT_MOVES) this.#moves = this.#moves.slice(-KEPT_MOVES);
    this.settle(move);
  }

  /** The policy that makes a process leave its home is its sender until it is back; by hand, it has none. */
  private settle({ outcome, pid, policy, direction }: Move): void {
    if (outcome !== 'moved') return;
    if (direction === 'back' || (direction === 'away' && policy === undefined)) this.senders.delete(pid);
    else if (policy !== undefined) this.senders.set(pid, policy);
  }
}

/** The last time that a process came somewhere; undefined: not as far as anybody remembers. */
export function lastArrival({ moves }: History, pid: number): number | undefined {
  const last = moves.findLast((move) => move.pid === pid && move.outcome === 'moved');
  return last?.endedAt ?? last?.at;
}

/** Until when a process whose migrations failed is left alone; undefined: the last one did not fail. */
export function backOffEnd({ moves }: History, pid: number): number | undefined {
  let failures = 0;
  let last: Move | undefined;
  for (let index = moves.length - 1; index >= 0; index--) {
    const move = moves[index];
    if (move?.pid !== pid || move.outcome === 'running') continue;
    if (move.outcome === 'moved') break;
    failures++;
    last ??= move;
  }
  if (last === undefined) return undefined;
  const wait = Math.min(FIRST_BACK_OFF_MS * 2 ** Math.min(failures - 1, 20), LONGEST_BACK_OFF_MS);
  return (last.endedAt ?? last.at) + wait;
}

/** Processes that are on their way. */
export function underway({ moves }: History): Heading[] {
  return moves.filter(({ outcome }) => outcome === 'running');
}
