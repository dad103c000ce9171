import type { FreezerRecord } from '../checkpoint/freezer.js';
import type { Labels } from '../config/labels.js';
import type { ErrorDocument } from '../errors.js';
import type { HomecomingRecord } from '../files/homecoming.js';
import type { PortBlock } from '../forwarding/port-block.js';
import type { CarriedMemory, CopyProgress } from '../memory/carried.js';
import type { PodRecord } from '../pod/pod.js';
import type { Listener, ProcessDescription } from '../process/description.js';
import type { FileIdentity } from '../process/shared-memory.js';
import type { SysvFindings } from '../process/sysv.js';
import type { ProcessStamp } from '../system/procfs.js';
import type { Carry, NodeName, PrepareDestinationRequest, PrepareSourceRequest } from './messages.js';

/** What the home node keeps of each of its processes that is, or is about to be, away. */
export interface TwinRecord {
  readonly twin: string;
  readonly description: ProcessDescription;
  /** Datapath binding on this node. */
  readonly binding: number;
  /** The node where it runs now. */
  readonly location: NodeName;
  readonly epoch: number;
  readonly departedAt: number;
  /** The cgroup that its root was in when it left. */
  readonly cgroup: string;
  /** The effective user of its root when it left; absent when this node's memory was lost. */
  readonly uid?: number;
  /** Its labels when it left; absent: it had none, or this node's memory was lost. */
  readonly labels?: Labels;
  /** Ports of what it opens while it is away; absent: the settings want none. */
  readonly block?: PortBlock;
  /** Its files travel with it, and these paths besides. */
  readonly carry?: Carry;
}

/** What a care-of host keeps of each process that lives here for another home. */
export interface ResidentRecord {
  readonly twin: string;
  readonly home: NodeName;
  readonly description: ProcessDescription;
  readonly binding: number;
  readonly pod: PodRecord;
  readonly epoch: number;
  /** `held`: restored or being restored, neither runs nor is heard. `running`: this copy is the process. */
  readonly state: 'held' | 'running';
  /** The migration that brings it here, while `held`. */
  readonly migration: string;
  readonly arrivedAt: number;
  /** Its lease at home, from which sockets in the pod get their ports. */
  readonly block?: PortBlock | undefined;
}

/** What a source keeps while one of its processes is leaving, to undo or finish after a crash. */
export interface DepartureRecord {
  readonly request: PrepareSourceRequest;
  /** The home node of the process, which decides. */
  readonly home: string;
  /** CRIU, once it was started and that was written down. */
  readonly criu: ProcessStamp | undefined;
  readonly images: string;
  readonly freezer: FreezerRecord;
  /** The tree's pids as this node sees them, the root first. */
  readonly localPids: readonly number[];
  /** Local ports of its internet sockets. */
  readonly ports: readonly number[];
  /** Its listeners; absent from a former version's record. */
  readonly listening?: readonly Listener[];
  /** Ports of what it opens while it is away from home. */
  readonly block?: PortBlock | undefined;
  /** What it uses of this node's System V objects, to remove once it has left; absent from a former version's record. */
  readonly sysv?: Pick<SysvFindings, 'own' | 'semaphoresSeen'>;
  /** Its objects in /dev/shm that were copied, to remove here once it has left. */
  readonly sharedObjects?: readonly FileIdentity[];
  /** What slows it down, or did. */
  readonly throttle?: ProcessStamp;
  /** Memory of it is sent when it runs elsewhere, and its copy here is kept until all has come. */
  readonly later?: {
    readonly bandwidthLimit: number | undefined;
    readonly bytes: number;
  };
}

/** What a destination keeps of a process that is coming, until it runs here or is given up. */
export interface ArrivalRecord {
  readonly request: PrepareDestinationRequest;
  readonly images: string;
  /** cgroup in which it is restored: that of its pod, or one of its own below the one that it left. */
  readonly nursery: FreezerRecord;
  /** CRIU, once it was started and that was written down. */
  readonly criu: ProcessStamp | undefined;
  readonly received: boolean;
  /**
   * - `held`: neither runs nor is heard.
   * - `running`: committed, and CRIU had come so far that nothing can stop it from running here.
   * - `lost`: committed, but CRIU had ended before; it never ran here and never will.
   */
  readonly outcome: 'held' | 'running' | 'lost';
  /** What its files change at home, once they are here. */
  readonly homecoming?: HomecomingRecord;
  /** Objects in /dev/shm that are made for it at home. */
  readonly sharedObjects?: readonly FileIdentity[];
}

/** Phases of a migration, in order. Their durations are what the summary shows. */
export const PHASES = [
  'inspect',
  'prepare',
  'drain',
  'dump',
  'transfer',
  'restore',
  'commit',
  'resume',
  'replay',
  'finish',
] as const;
export type Phase = (typeof PHASES)[number];

/**
 * The coordinator's state of one migration. Each is durable before the next step acts.
 * - `preparing`: nothing is frozen; a crash leaves only things to remove.
 * - `freezing`: the process may be parked and frozen; a crash is rolled back.
 * - `committed`: the decision is made, the destination's copy is the process; a crash is rolled forward. One way leads back:
 *   the destination answers `COPY_LOST`, its word that the copy there never ran and never will, while the source still holds.
 * - `reverting`: decided against; the source is told until it has answered.
 * - `reverted`: the process runs where it was; the destination is told until it has answered.
 * - `done`: nothing is left to do. Without `summary` when a crash cut it short: its times are not known.
 * - `rolled-back`: the process runs where it was; `error` says why it did not move.
 */
export type MigrationState =
  | { readonly state: 'preparing' }
  | { readonly state: 'freezing' }
  | { readonly state: 'committed' }
  | { readonly state: 'reverting'; readonly error: ErrorDocument }
  | { readonly state: 'reverted'; readonly error: ErrorDocument }
  | { readonly state: 'done'; readonly summary?: MigrationSummary }
  | { readonly state: 'rolled-back'; readonly error: ErrorDocument };

export type MigrationRecord = MigrationState & {
  readonly migration: string;
  readonly twin: string;
  readonly pid: number;
  readonly comm: string;
  readonly binding: number;
  readonly from: NodeName;
  readonly to: NodeName;
  readonly epoch: number;
  readonly description: ProcessDescription;
  readonly startedAt: number;
  readonly phases: Partial<Record<Phase, number>>;
  /** The policy that asked for it; absent: somebody did. */
  readonly policy?: string;
};

/** The result of a migration that was committed: the JSON contract of `homeproxy migrate` and `recall`. */
export interface MigrationSummary {
  readonly migration: string;
  readonly pid: number;
  readonly from: string;
  readonly to: string;
  readonly outcome: 'committed';
  /** From the moment the process was stopped until it ran at the destination, on the coordinator's clock. */
  readonly freezeMs: number;
  /**
   * From that moment until its home had sent on what it held meanwhile: longer than this no packet has waited there. Absent in
   * journals of older versions.
   */
  readonly stallMs?: number | undefined;
  readonly totalMs: number;
  readonly phases: Partial<Record<Phase, number>>;
  readonly connections: number;
  readonly parkedPackets: number;
  readonly replayedPackets: number;
  readonly droppedPackets: number;
  readonly bytesMoved: number;
  /** What the process does not have as it was, in words; absent in journals of older versions. */
  readonly notKept?: readonly string[] | undefined;
  /** How its memory went with it; absent in journals of older versions. */
  readonly memory?: CarriedMemory | undefined;
  /** Milliseconds since the epoch, with fractions. */
  readonly startedAt: number;
  readonly frozenAt: number;
  readonly resumedAt: number;
}

/** Progress of a running migration, one event when a phase begins. */
export interface PhaseEvent {
  readonly phase: Phase;
  readonly atMs: number;
  /** Set where the phase is not new, but has come so far. */
  readonly copied?: CopyProgress;
}
