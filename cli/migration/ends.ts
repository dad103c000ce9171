import { asHomeproxyError, type ErrorDocument } from '../errors.js';
import type { Course } from './course.js';
import type { NodeName } from './messages.js';
import type { MigrationSummary, Phase } from './records.js';

/** From the home's point of view: `away` from it, `onward` from host to host, `back` to it. */
export const DIRECTIONS = ['away', 'onward', 'back'] as const;
export type Direction = (typeof DIRECTIONS)[number];

/**
 * - `committed`: the process runs at the destination.
 * - `rolled-back`: it had stood still, and runs where it was.
 * - `refused`: it ended before the process had stood still.
 */
export const OUTCOMES = ['committed', 'rolled-back', 'refused'] as const;

/** How a migration of this home's processes has ended: for logs and metrics, which nothing waits for. */
export interface MigrationEnd {
  readonly outcome: (typeof OUTCOMES)[number];
  readonly direction: Direction;
  readonly pid: number;
  readonly from: string;
  readonly to: string;
  readonly migration: string;
  /** Milliseconds that the process stood still; absent when it never did, or when a restart of the daemon fell into it. */
  readonly freezeMs?: number;
  /** Milliseconds until its home had sent on what it held meanwhile; absent as that is. */
  readonly stallMs?: number;
  /** Milliseconds of each phase that has ended. */
  readonly phases: Partial<Record<Phase, number>>;
  readonly bytesMoved: number;
  /** Of one that was committed, unless a restart of the daemon fell into it. */
  readonly summary?: MigrationSummary;
  /** Why it was not committed. */
  readonly error?: ErrorDocument;
  /** The policy that asked for it; absent: somebody did, or it was refused before it began. */
  readonly policy?: string;
}

/** Nodes, or their names. */
interface Ways<Node = NodeName> {
  readonly home: Node;
  readonly from: Node;
  readonly to: Node;
}

export function directionBetween({ home, from, to }: Ways<NodeName | string>): Direction {
  const name = (node: NodeName | string): string => (typeof node === 'string' ? node : node.name);
  if (name(from) === name(home)) return 'away';
  return name(to) === name(home) ? 'back' : 'onward';
}

/** The end of a migration that was refused. */
export function refusalOf(ways: Ways, migration: string, pid: number, error: unknown): MigrationEnd {
  return {
    outcome: 'refused',
    direction: directionBetween(ways),
    migration,
    pid,
    from: ways.from.name,
    to: ways.to.name,
    phases: {},
    bytesMoved: 0,
    error: asHomeproxyError(error).toDocument(),
  };
}

/** The end of a migration that had begun. */
export function endOf(
  home: NodeName,
  course: Course,
  how: { summary: MigrationSummary } | { error: ErrorDocument },
): MigrationEnd {
  const phases = course.watch.durations;
  const whole = course.cutShort !== true;
  const frozen = whole && course.frozenAt > 0 && course.resumedAt > course.frozenAt;
  const { summary, error } = { summary: undefined, error: undefined, ...how };
  return {
    outcome: error === undefined ? 'committed' : course.frozenAt > 0 ? 'rolled-back' : 'refused',
    direction: directionBetween({ home, from: course.source.node, to: course.destination.node }),
    pid: course.description.homePid,
    from: course.source.node.name,
    to: course.destination.node.name,
    migration: course.migration,
    phases,
    bytesMoved: course.bytesMoved,
    ...(frozen ? { freezeMs: course.resumedAt - course.frozenAt, stallMs: course.forwardedAt - course.frozenAt } : {}),
    ...(summary !== undefined && whole ? { summary } : {}),
    ...(error === undefined ? {} : { error }),
    ...(course.policy === undefined ? {} : { policy: course.policy }),
  };
}
