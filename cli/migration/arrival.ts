import { join } from 'node:path';
import type { SurveyedStream } from '../../addon/lib/index.js';
import type { Surroundings } from '../checkpoint/criu.js';
import type { CriuSession } from '../checkpoint/criu-session.js';
import type { FreezerRecord } from '../checkpoint/freezer.js';
import type { Windows } from '../checkpoint/half-closed.js';
import { UserError } from '../errors.js';
import type { ArrivingMemory } from '../memory/arriving.js';
import { readSocketDefaults, type SocketDefaults } from '../process/socket-survey.js';
import { Cgroup } from '../system/cgroup.js';
import { type ArrivedOptions, readOptions } from './carried-options.js';
import type { Arriving } from './carrying.js';
import type { HomeListeners } from './home-listeners.js';
import type { NodeName, PrepareDestinationRequest } from './messages.js';
import type { ArrivalRecord } from './records.js';
import type { Resident } from './residents.js';
import type { Site } from './site.js';

/** A process that is coming to this node. */
export interface Arrival {
  record: ArrivalRecord;
  /** Undefined when this node is its home: it becomes an ordinary process here. */
  resident: Resident | undefined;
  session: CriuSession | undefined;
  /** Set when it has much memory, which does not come in images. */
  memory: ArrivingMemory | undefined;
  receiving: boolean;
  /** Its preparation, while that goes on. */
  preparing: Promise<void> | undefined;
  /** What comes of its files; undefined when none travel, and after a restart of the daemon. */
  files: Arriving | undefined;
  /** How its connections are restored; undefined until they are, and after a restart of the daemon. */
  streams: Promise<SurveyedStream[] | undefined> | undefined;
  /** Of its half-closed connections, from its images; undefined until those came, and after a restart of the daemon. */
  windows: Promise<Windows> | undefined;
  /** What new sockets have where it will be, asked before the freeze; undefined after a restart of the daemon. */
  defaults: SocketDefaults | undefined;
  /** Options of its sockets; undefined as with {@link windows}. */
  options: Promise<ArrivedOptions> | undefined;
  /** Those of its listeners that stayed here, its home, while it was away; undefined until it is restored. */
  listeners: HomeListeners | undefined;
  /** It has all its memory, or never will: fulfilled then; undefined until it runs. */
  whole: Promise<void> | undefined;
  /** What could not be set again on its sockets, in words. */
  notKept: readonly string[];
  /** CRIU has let it go, and it is heard. */
  runs: boolean;
}

/** What an arrival begins with. */
export const NEW_ARRIVAL = {
  resident: undefined,
  session: undefined,
  memory: undefined,
  receiving: false,
  preparing: undefined,
  files: undefined,
  streams: undefined,
  windows: undefined,
  defaults: undefined,
  options: undefined,
  listeners: undefined,
  whole: undefined,
  notKept: [],
  runs: false,
};

/** At home: where CRIU and the tree that it restores are members, so that all of them can be found, and ended, together. */
export function homeNursery({ migration, cgroup = '' }: PrepareDestinationRequest): FreezerRecord {
  const origin = new Cgroup(cgroup).nearestExisting();
  return { path: origin.child(`homeproxy-${migration}`).path, origins: [[0, origin.path]] };
}

/** Where CRIU restores it. */
export function surroundingsOf({ record, resident }: Arrival): Surroundings {
  const cgroupProcs = join(record.nursery.path, 'cgroup.procs');
  if (resident === undefined) return { cgroupProcs };
  const { init, root } = resident.pod;
  return { podInit: init.pid, ownRoot: root !== undefined, cgroupProcs };
}

/** Of its sockets, from its images, for the namespace where they will be. */
export function optionsOf(arrival: Pick<Arrival, 'record' | 'resident' | 'defaults'>): Promise<ArrivedOptions> {
  return readOptions(arrival.record.images, arrival.defaults ?? defaultsFor(arrival));
}

/** What new sockets have where it will be. */
export function defaultsFor({ resident }: Pick<Arrival, 'resident'>): SocketDefaults {
  return readSocketDefaults(resident?.pod.init.pid ?? 'self');
}

/** A checkpoint is hardly larger than the memory that was resident when the home looked; the rest is headroom. */
export function limitOf({ description }: PrepareDestinationRequest): number {
  return 2 * description.residentBytes + (256 << 20);
}

/** Room for its images and as much again, which becomes its memory: beyond this a freeze is long anyway. In bytes. */
const MAX_RESERVE_BYTES = 128 << 20;

/** How much room to take for its images before they come. In bytes. */
export function roomOf({ description }: PrepareDestinationRequest): number {
  return Math.min(2 * description.residentBytes, MAX_RESERVE_BYTES);
}

export function copyLost(log: readonly string[]): UserError {
  return new UserError({
    code: 'COPY_LOST',
    message: ['CRIU ended at the destination before the process ran there', ...log].join('\n  '),
    exitStatus: 6,
  });
}

export function notExpected(node: NodeName, peer: string, migration: string): UserError {
  return new UserError({
    code: 'NOT_EXPECTED',
    message: `${node.name} does not expect the images of ${migration} from ${peer}`,
    remedy: 'start the migration again',
    exitStatus: 6,
  });
}

/** The answer to a request that an abort has overtaken. */
export function gaveUp(migration: string): UserError {
  return new UserError({ code: 'ABORTED', message: `${migration} was given up meanwhile`, exitStatus: 6 });
}

/**
 * Epochs fence: what this node has heard of a process is never overtaken by something older.
 * @throws {UserError} `STALE_EPOCH`, `ALREADY_HERE`.
 */
export function refuseStale({ node, journal, residents }: Site, { twin, epoch }: PrepareDestinationRequest): void {
  const { epochs } = journal;
  const known = epochs.get(twin) ?? 0;
  if (epoch <= known) {
    throw new UserError({
      code: 'STALE_EPOCH',
      message: `${node.name} knows epoch ${known} of ${twin}; it does not take epoch ${epoch}`,
      remedy: 'if the home node was rebuilt, run `homeproxy recover` there',
      exitStatus: 6,
    });
  }
  if (residents.find(twin) !== undefined) {
    throw new UserError({
      code: 'ALREADY_HERE',
      message: `a copy of ${twin} is on ${node.name} already`,
      remedy: 'if the home node was rebuilt, run `homeproxy recover` there',
      exitStatus: 6,
    });
  }
  epochs.put(twin, epoch);
}
