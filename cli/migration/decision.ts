import type { ArrivalRecord, MigrationState } from './records.js';

/*
 * What a node does with what its journal says, after a crash as in the ordinary course. Pure functions on records, so that a test
 * can play every history of crashes against them.
 */

/**
 * What the coordinator does about a migration.
 * - `forward`: the destination's copy is the process.
 * - `back`: the source's copy is the process, and the source must hear it.
 * - `tell`: the source's copy runs; only the destination has not heard that it may clean up.
 */
export type Direction = 'forward' | 'back' | 'tell' | 'none';

export function directionOf(state: MigrationState['state']): Direction {
  switch (state) {
    case 'preparing':
    case 'freezing':
    case 'reverting':
      return 'back';
    case 'committed':
      return 'forward';
    case 'reverted':
      return 'tell';
    case 'done':
    case 'rolled-back':
      return 'none';
  }
}

/** What CRIU's hooks tell about a copy at its destination. */
export interface RestoreEvidence {
  /** It stood whole at `post-restore`. */
  readonly restored: boolean;
  /** It came to `pre-resume`: it runs, or will as soon as it is let go. */
  readonly certain: boolean;
}

/**
 * What the destination does when it hears of the commit.
 * - `release`: let CRIU finish, then let it run. - `run`: it runs, or is about to: let it be heard.
 * - `lost`: it never ran and never will.
 */
export function fateOf(
  outcome: ArrivalRecord['outcome'],
  { restored, certain }: RestoreEvidence,
): 'release' | 'run' | 'lost' {
  if (outcome === 'lost') return 'lost';
  if (outcome === 'running' || certain) return 'run';
  return restored ? 'release' : 'lost';
}
