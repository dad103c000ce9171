import type { CriuSession } from '../checkpoint/criu-session.js';
import type { Gate } from '../checkpoint/gate.js';
import type { PagePipe } from '../checkpoint/page-pipe.js';
import { endRepair } from '../checkpoint/repair.js';
import type { Throttle } from '../checkpoint/throttle.js';
import { UserError } from '../errors.js';
import type { DepartingFiles } from '../files/departing-files.js';
import type { CarriedMemory } from '../memory/carried.js';
import type { DepartingMemory } from '../memory/departing.js';
import type { LaterPages } from '../memory/later-pages.js';
import type { ProcessDescription } from '../process/description.js';
import type { SocketDefaults } from '../process/socket-survey.js';
import { Cgroup } from '../system/cgroup.js';
import type { BindingControl } from './binding-control.js';
import { Ahead } from './difference.js';
import type { ParkCounts } from './messages.js';
import type { DepartureRecord } from './records.js';
import type { Resident } from './residents.js';
import type { Sending } from './sending.js';
import type { Site } from './site.js';

/** A process of this node that is leaving. */
export interface Departure {
  record: DepartureRecord;
  /** Undefined until CRIU was started. */
  session: CriuSession | undefined;
  /** What CRIU dumps of its memory; undefined until CRIU was started. */
  pages: PagePipe | undefined;
  /** What the destination was sent of its memory before the freeze. */
  ahead: Ahead;
  /** Where CRIU waits when it has stopped the process; undefined until CRIU was started, and after a restart of the daemon. */
  gate: Gate | undefined;
  /** Undefined when its files stay where they are, and after a restart of the daemon. */
  files: DepartingFiles | undefined;
  /** Large memory, which is not CRIU's. */
  memory: DepartingMemory | undefined;
  /** Bytes of it that were sent before the freeze. */
  memorySent: number;
  /** How that went. */
  carried: CarriedMemory | undefined;
  /** What may slow it down while it is copied; undefined: nothing, and after a restart of the daemon, which ends it. */
  throttle: Throttle | undefined;
  /** What is sent of it when the process runs elsewhere; undefined when that is nothing, or not known yet. */
  later: LaterPages | undefined;
  /** Most bytes per second of that; undefined: no limit. */
  pace: number | undefined;
  /** Undefined until the freeze, and after a restart of the daemon, which cuts it. */
  sending: Sending | undefined;
  /** As it was looked at last, at home; undefined before the drain, and after a restart of the daemon. */
  drained: ProcessDescription | undefined;
  /** What new sockets have where it is, asked before the freeze; undefined after a restart of the daemon. */
  defaults: SocketDefaults | undefined;
  /** Connections that are about to begin, and whose correspondents did not answer in time. */
  slow: ReadonlySet<string>;
  /** What the programs had let pass before all was held back that is not of a connection has come: {@link nothingUnderway}. */
  quiet: boolean;
  /** Names of connections that it has closed, and that may be lost: somebody has said so. */
  lost: ReadonlySet<string>;
  /** Set when it lives here for another home. */
  readonly resident: Resident | undefined;
  /** Its pod is being removed; undefined before it may be, and after a restart of the daemon. */
  removing: Promise<void> | undefined;
  /** It is put back: nothing may stop it again. */
  reverting: boolean;
  /** Its preparation, while that goes on. */
  preparing: Promise<void> | undefined;
}

/** What a departure begins with. */
export const IDLE = {
  ahead: new Ahead(Buffer.alloc(0)),
  gate: undefined,
  files: undefined,
  memory: undefined,
  memorySent: 0,
  carried: undefined,
  throttle: undefined,
  later: undefined,
  pace: undefined,
  sending: undefined,
  drained: undefined,
  defaults: undefined,
  slow: new Set<string>(),
  quiet: false,
  lost: new Set<string>(),
  removing: undefined,
  reverting: false,
  preparing: undefined,
};
export const NONE: ParkCounts = { parked: 0, replayed: 0, dropped: 0 };

/** Over the binding of a process of this node, or of one that lives here for another home. */
export function controlOf({ twins }: Pick<Site, 'twins'>, { record, resident }: Departure): BindingControl | undefined {
  return resident?.control ?? twins.byId(record.request.twin)?.control;
}

/** A CRIU that was killed has let the process go, its sockets in repair mode: nobody may read an error from them meanwhile. */
export function holdAfterKill({ freezer, localPids }: DepartureRecord): void {
  const cgroup = new Cgroup(freezer.path);
  if (cgroup.exists) cgroup.setFrozen(true);
  endRepair(localPids);
}

/** Kills what is left of a tree that CRIU did not: frozen, in repair mode, so that nothing is said on its connections. */
export async function destroyTree({ freezer }: DepartureRecord): Promise<void> {
  const cgroup = new Cgroup(freezer.path);
  if (!cgroup.exists) return;
  cgroup.kill();
  await cgroup.empty();
  cgroup.remove();
}

/** What a promise is fulfilled with by now; undefined when it is not yet. */
export async function settled<Result>(promise: Promise<Result>): Promise<Result | undefined> {
  return await Promise.race([promise, Promise.resolve(undefined)]);
}

/** The answer to a request that an abort has overtaken. */
export function tooLate(migration: string): UserError {
  return new UserError({ code: 'ABORTED', message: `${migration} was given up meanwhile`, exitStatus: 6 });
}
