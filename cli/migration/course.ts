import { UserError } from '../errors.js';
import { type CarriedMemory, inFreeze } from '../memory/carried.js';
import type { ProcessDescription } from '../process/description.js';
import { ownSession } from '../system/priority.js';
import type {
  CopyRequest,
  DestinationParticipant,
  FreezeResponse,
  NodeName,
  ParkCounts,
  PrepareDestinationResponse,
  SourceParticipant,
  TransferResponse,
} from './messages.js';
import type { MigrationRecord, MigrationSummary } from './records.js';
import { interrupted, refuse } from './refusals.js';
import { Stopwatch, wallClock } from './stopwatch.js';
import type { Twin } from './twins.js';

interface CourseParts {
  readonly migration: string;
  readonly twin: Twin;
  /** As it was last looked at. */
  description: ProcessDescription;
  readonly source: SourceParticipant;
  readonly destination: DestinationParticipant;
  readonly watch: Stopwatch;
  readonly epoch: number;
  /** Aborted by the user. */
  readonly signal: AbortSignal | undefined;
  readonly maxFreezeMs: number;
  /** What copying ahead works for. */
  readonly freezeBudgetMs: number;
  /** Memory is sent no faster, in bytes per second. */
  readonly bandwidthLimit?: number | undefined;
  /** It may be slowed down to so many percent of its pace; undefined: it may not. */
  readonly throttle?: number | undefined;
  /** Its memory is copied while it runs; undefined: yes. */
  readonly copyAhead?: boolean | undefined;
  /** Some of its memory may follow when it runs; undefined: no. */
  readonly postCopy?: boolean | undefined;
  /** What it has closed may be lost; undefined: no. */
  readonly resetClosing?: boolean | undefined;
  /** A crash fell into it: when it was frozen, and for how long, is not known. */
  readonly cutShort?: boolean;
  /** The policy that asked for it; undefined: somebody did. */
  readonly policy: string | undefined;
}

/** One migration on its way; the coordinator's steps share it. */
export interface Course
  extends Omit<CourseParts, 'signal' | 'maxFreezeMs' | 'freezeBudgetMs' | 'bandwidthLimit' | 'throttle'> {
  /** For whoever copies its memory ahead, in milliseconds. */
  readonly limits: NonNullable<CopyRequest['limits']>;
  readonly startedAt: number;
  /** The destination takes the images of connections in one. */
  together: boolean;
  bytesMoved: number;
  /** How its memory goes, once that is known. */
  memory: CarriedMemory | undefined;
  /** What is not as it was, in words. */
  notKept: readonly string[];
  frozenAt: number;
  resumedAt: number;
  /** When its home had sent on what it held. */
  forwardedAt: number;
  /** The process is stopped now: from here its time is limited. */
  freezeBegins(): void;
  /** Result of a step; rejects at once when the user, or the limit of the freeze, ends the migration meanwhile. */
  unlessStopped<Result>(step: Promise<Result>): Promise<Result>;
  throwIfStopped(): void;
  /** Decided, one way or the other: nobody can stop it any more. */
  settle(): void;
  /** It has ended. */
  over(): void;
}

/** A migration that begins now. */
export function startCourse(begun: CourseParts): Course {
  const { signal, maxFreezeMs, freezeBudgetMs, bandwidthLimit, throttle, ...parts } = begun;
  const stopped = new AbortController();
  const onAbort = (): void => stopped.abort(interrupted());
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  let timer: NodeJS.Timeout | undefined;
  return {
    ...parts,
    startedAt: wallClock(),
    limits: { budgetMs: freezeBudgetMs, maxFreezeMs, bandwidthLimit, throttle, later: parts.postCopy === true },
    together: false,
    bytesMoved: 0,
    memory: parts.copyAhead === false ? inFreeze('ASKED') : undefined,
    notKept: [],
    frozenAt: 0,
    resumedAt: 0,
    forwardedAt: 0,
    freezeBegins() {
      this.frozenAt = wallClock();
      ownSession.hurry(this);
      timer = setTimeout(() => stopped.abort(tooLong(maxFreezeMs)), maxFreezeMs);
    },
    async unlessStopped(step) {
      step.catch(() => undefined); // when it is left behind, its failure is no news; unheard, it would end the daemon
      stopped.signal.throwIfAborted();
      let give: (reason: unknown) => void = () => undefined;
      const ended = new Promise<never>((_resolve, reject) => {
        give = reject;
      });
      const onStop = (): void => give(stopped.signal.reason);
      stopped.signal.addEventListener('abort', onStop, { once: true });
      try {
        return await Promise.race([step, ended]);
      } finally {
        stopped.signal.removeEventListener('abort', onStop);
      }
    },
    throwIfStopped() {
      stopped.signal.throwIfAborted();
    },
    settle() {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    },
    over() {
      ownSession.calm(this);
    },
  };
}

/** A migration that the journal shows unfinished. */
export function interruptedByRestart(
  record: MigrationRecord,
  twin: Twin,
  participants: {
    source(node: NodeName): SourceParticipant;
    destination(node: NodeName): DestinationParticipant;
  },
): Course {
  const course = startCourse({
    migration: record.migration,
    twin,
    description: record.description,
    source: participants.source(record.from),
    destination: participants.destination(record.to),
    watch: new Stopwatch(undefined),
    epoch: record.epoch,
    signal: undefined,
    maxFreezeMs: 0,
    freezeBudgetMs: 0,
    cutShort: true,
    policy: record.policy,
  });
  return { ...course, startedAt: record.startedAt, frozenAt: record.state === 'preparing' ? 0 : record.startedAt };
}

/** The destination has made room for it. @throws {UserError} `REFUSED`; `NO_POST_COPY`: what was asked for is not known there */
export function accepted(course: Course, { verdicts, later, together }: PrepareDestinationResponse): void {
  refuse(course.description.homePid, verdicts);
  course.together = together === true;
  if (course.limits.later !== true || later === true) return;
  throw new UserError({
    code: 'NO_POST_COPY',
    message: `homeproxy on ${course.destination.node.name} is older: memory cannot follow the process there`,
    remedy: 'update it there, or move without --mode post-copy',
    exitStatus: 3,
  });
}

/** Counts what has travelled. */
export function travelled(course: Course, { bytes, memory }: TransferResponse): void {
  course.bytesMoved += bytes;
  course.memory = memory ?? course.memory;
}

/** Its connections are these too, and this is what it loses. */
export function joined(course: Course, { accepted, notKept }: FreezeResponse): void {
  course.notKept = notKept;
  course.description = { ...course.description, flows: [...course.description.flows, ...accepted] };
}

function tooLong(limitMs: number): UserError {
  return new UserError({
    code: 'FREEZE_TOO_LONG',
    message: `it would have stood still for more than ${limitMs} ms`,
    remedy: 'allow more with --max-freeze or timeouts.maxFreezeMs, or move it when it uses less memory',
    exitStatus: 6,
  });
}

/** The result, from the home's park queue and that of the node it left. */
export function summaryOf(course: Course, home: ParkCounts, away: ParkCounts): MigrationSummary {
  const phases = course.watch.durations;
  return {
    migration: course.migration,
    pid: course.description.homePid,
    from: course.source.node.name,
    to: course.destination.node.name,
    outcome: 'committed',
    freezeMs: hundredths(course.resumedAt - course.frozenAt),
    stallMs: hundredths(course.forwardedAt - course.frozenAt),
    totalMs: hundredths(Object.values(phases).reduce((sum, ms) => sum + ms, 0)),
    phases,
    connections: course.description.connections,
    parkedPackets: home.parked + away.parked,
    replayedPackets: home.replayed + away.replayed,
    droppedPackets: home.dropped + away.dropped,
    bytesMoved: course.bytesMoved,
    notKept: course.notKept,
    ...(course.memory === undefined ? {} : { memory: course.memory }),
    startedAt: course.startedAt,
    frozenAt: course.frozenAt,
    resumedAt: course.resumedAt,
  };
}

function hundredths(ms: number): number {
  return Math.round(ms * 100) / 100;
}
