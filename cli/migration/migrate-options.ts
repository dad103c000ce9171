import type { Carry } from './messages.js';
import type { PhaseEvent } from './records.js';
import type { Site } from './site.js';

export interface MigrateOptions {
  /** Its name, chosen by whoever wants to know it beforehand. */
  readonly migration?: string;
  /** Aborted: the user asks for a rollback; ignored once the migration is committed. */
  readonly signal?: AbortSignal;
  readonly onPhase?: (event: PhaseEvent) => void;
  /** Longest freeze before the migration is rolled back, in milliseconds. Default: as configured. */
  readonly maxFreezeMs?: number;
  /** What copying memory ahead works for, in milliseconds. Default: as configured. */
  readonly freezeBudgetMs?: number;
  /** Memory is sent no faster, in bytes per second. Default: as configured. */
  readonly bandwidthLimit?: number | undefined;
  /** Where it would stand still for longer than `maxFreezeMs`, it is slowed down, to so many percent of its pace at the least. Default: never. */
  readonly throttle?: number | undefined;
  /** Memory is copied while the process runs, and only the rest in the freeze. Default true. */
  readonly copyAhead?: boolean;
  /** What is left of its memory when it is frozen follows when it runs at its destination. Default false. */
  readonly postCopy?: boolean | undefined;
  /** What it has closed and its correspondents have not taken is lost when it leaves a host, and does not keep it there. Default false. */
  readonly resetClosing?: boolean | undefined;
  /** The policy that asks for it. */
  readonly policy?: string;
  /** The user who asks, when it may only be about processes of his own. */
  readonly requester?: number;
  /** Its files travel with it. One that left so is always moved so. */
  readonly carry?: Carry | undefined;
}

/** What a question about a move has to say of it. */
export type Asked = Pick<MigrateOptions, 'requester' | 'carry' | 'resetClosing'>;

/** What a course is told of what was asked for, and where nothing was, of the node's settings. */
export function askedOf(
  options: MigrateOptions,
  { timeouts, bandwidthLimit }: Pick<Site, 'timeouts' | 'bandwidthLimit'>,
) {
  return {
    signal: options.signal,
    maxFreezeMs: options.maxFreezeMs ?? timeouts.maxFreezeMs,
    freezeBudgetMs: options.freezeBudgetMs ?? timeouts.freezeBudgetMs,
    bandwidthLimit: options.bandwidthLimit ?? bandwidthLimit,
    throttle: options.throttle,
    copyAhead: options.copyAhead,
    postCopy: options.postCopy,
    resetClosing: options.resetClosing,
    policy: options.policy,
  };
}
