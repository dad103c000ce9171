import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type BpfObject,
  BpfProgram,
  programInfo,
  tcAttach,
  tcDetach,
  tcQuery,
  tcRemoveClsact,
} from '../../addon/lib/index.js';
import type { ProgramInfo, TcDirection, TcFilter } from '../../addon/lib/types.js';
import { readLinks } from '../system/ip.js';
import { countTcFilters } from '../system/tc.js';
import type { AttachmentFolders } from './attachment-folders.js';
import { Changes } from './changes.js';
import { taken } from './taken.js';

/** Our place among tc filters: "hp" as a number. Whoever else is there keeps it. */
const PRIORITY = 0x6870;
const HANDLE = 1;
/** Our programs by name: it is how we know our own filters again. */
const OURS = new Set(['hp_ingress', 'hp_egress', 'hp_pod', 'hp_replay', 'hp_loopback']);

/** @throws {UserError} `TC_TAKEN` when a foreign filter has our place. Changes nothing. */
export function requireFreePlace(ifindex: number, direction: TcDirection): void {
  ownProgram(place(ifindex, direction));
}

/** Attaches one of our tc programs to a device as a filter. @throws {UserError} `TC_TAKEN` when a foreign one has our place. */
export function attachFilter(
  object: BpfObject,
  folders: AttachmentFolders,
  ifindex: number,
  direction: TcDirection,
  programName: string,
  changes = new Changes(),
): void {
  const filter = place(ifindex, direction);
  const present = ownProgram(filter);
  const previous = present === undefined ? undefined : changes.hold(BpfProgram.openById(present));
  const program = object.program(programName);
  try {
    const { createdClsact } = tcAttach({ ...filter, program, replace: previous !== undefined });
    if (createdClsact) writeFileSync(clsactMark(folders, ifindex), '', { mode: 0o600 });
  } finally {
    program.close();
  }
  changes.undoBy(async () => {
    if (previous !== undefined) tcAttach({ ...filter, program: previous, replace: true });
    else if (detachFilter(ifindex, direction)) await removeOwnClsact(folders, ifindex);
  });
}

/** Takes our filter off a device, so that it can be put back. Its qdisc stays: see {@link removeOwnClsact}. */
export function withdrawFilter(ifindex: number, direction: TcDirection, changes: Changes): void {
  const present = findFilter(ifindex, direction);
  if (present === undefined) return;
  const filter = place(ifindex, direction);
  const program = changes.hold(BpfProgram.openById(present.id));
  tcDetach(filter);
  changes.undoBy(() => {
    tcAttach({ ...filter, program });
  });
}

/** Takes our filter off a device. @returns whether there was one. */
export function detachFilter(ifindex: number, direction: TcDirection): boolean {
  return findFilter(ifindex, direction) !== undefined && tcDetach(place(ifindex, direction));
}

/** Our filter on a device; undefined also when the device is gone. */
export function findFilter(ifindex: number, direction: TcDirection): ProgramInfo | undefined {
  try {
    const present = tcQuery(place(ifindex, direction));
    const info = present === undefined ? undefined : programInfo(present.programId);
    return info !== undefined && OURS.has(info.name) ? info : undefined;
  } catch (error) {
    if ((error as { code?: string }).code === 'ENODEV') return undefined;
    throw error;
  }
}

/**
 * Takes the clsact qdisc away if we made it and nobody has a filter there any more. At the end only: while the kernel does so,
 * everything that is sent over the device is lost (qdisc_graft -> dev_deactivate -> noop_qdisc); without filters it costs nothing.
 */
export async function removeOwnClsact(folders: AttachmentFolders, ifindex: number): Promise<void> {
  const mark = clsactMark(folders, ifindex);
  if (!existsSync(mark)) return;
  const link = (await readLinks()).find((each) => each.ifindex === ifindex);
  if (link !== undefined && (await countTcFilters(link.ifname)) > 0) return;
  if (link !== undefined) tcRemoveClsact(ifindex);
  rmSync(mark);
}

/** Is there while a clsact qdisc is that we made. */
export function clsactMark({ run }: AttachmentFolders, ifindex: number): string {
  return join(run, `clsact-${ifindex}`);
}

function place(ifindex: number, direction: TcDirection): TcFilter {
  return { ifindex, direction, priority: PRIORITY, handle: HANDLE };
}

/** The id of our program in a place; undefined when nothing is there. @throws {UserError} `TC_TAKEN` */
function ownProgram(filter: TcFilter): number | undefined {
  const present = tcQuery(filter);
  if (present === undefined || OURS.has(programInfo(present.programId).name)) return present?.programId;
  throw taken(
    'TC_TAKEN',
    `a tc filter at priority ${PRIORITY} of interface ${filter.ifindex}`,
    present.programId,
    'detach it',
  );
}
