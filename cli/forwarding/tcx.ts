import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type BpfObject, BpfProgram, programInfo, tcxQuery } from '../../addon/lib/index.js';
import type { ProgramInfo, TcDirection } from '../../addon/lib/types.js';
import type { AttachmentFolders } from './attachment-folders.js';
import type { Changes } from './changes.js';
import { attachPinned, LINKS, readPinned, takeOff, updatePinned } from './pinned-link.js';

const PIN = /^tcx-(\d+)-(ingress|egress)$/;

/** One of our tc programs that a pinned link of tcx keeps on an interface. */
export interface TcxLink {
  readonly pin: string;
  /** 0 when the interface is gone from this network namespace. */
  readonly ifindex: number;
  readonly direction: TcDirection;
  readonly program: ProgramInfo;
}

/** Attaches one of our tc programs to a device by tcx, before all others; or replaces that of a previous daemon between two packets. */
export function attachTcx(
  object: BpfObject,
  folders: AttachmentFolders,
  ifindex: number,
  direction: TcDirection,
  programName: string,
  changes: Changes,
): void {
  const pin = tcxPin(folders, ifindex, direction);
  const present = findTcx(folders, ifindex, direction);
  const previous = present === undefined ? undefined : changes.hold(BpfProgram.openById(present.id));
  const program = object.program(programName);
  try {
    if (previous === undefined) attachPinned(pin, () => program.attachTcx(ifindex, direction));
    else updatePinned(pin, program);
  } finally {
    program.close();
  }
  changes.undoBy(() => (previous === undefined ? takeOff(pin) : updatePinned(pin, previous)));
}

/** Takes our link off a device, so that it can be put back. */
export function withdrawTcx(
  folders: AttachmentFolders,
  ifindex: number,
  direction: TcDirection,
  changes: Changes,
): void {
  const present = findTcx(folders, ifindex, direction);
  if (present === undefined) return;
  const pin = tcxPin(folders, ifindex, direction);
  const program = changes.hold(BpfProgram.openById(present.id));
  takeOff(pin);
  changes.undoBy(() => attachPinned(pin, () => program.attachTcx(ifindex, direction)));
}

/** Takes our link off a device. @returns whether there was one. */
export function detachTcx(folders: AttachmentFolders, ifindex: number, direction: TcDirection): boolean {
  if (findTcx(folders, ifindex, direction) === undefined) return false;
  takeOff(tcxPin(folders, ifindex, direction));
  return true;
}

/** Our program on a device by tcx. A link whose interface is gone is removed. */
export function findTcx(folders: AttachmentFolders, ifindex: number, direction: TcDirection): ProgramInfo | undefined {
  const pin = tcxPin(folders, ifindex, direction);
  const present = readPinned(pin);
  if (present === undefined) return undefined;
  if (isOn(present.id, ifindex, direction)) return programInfo(present.programId);
  takeOff(pin);
  return undefined;
}

/** All of our links of tcx. */
export function tcxLinks(folders: AttachmentFolders): TcxLink[] {
  return pinNames(folders).flatMap((name) => {
    const [, told, direction] = PIN.exec(name) ?? [];
    const pin = join(folders.pins, LINKS, name);
    const present = direction === undefined ? undefined : readPinned(pin);
    if (present === undefined) return [];
    const side = direction as TcDirection;
    const ifindex = isOn(present.id, Number(told), side) ? Number(told) : 0;
    return [{ pin, direction: side, ifindex, program: programInfo(present.programId) }];
  });
}

/** Removes what is pinned of an interface that is gone. @returns false while it is there. */
export function forgetTcx(folders: AttachmentFolders, ifindex: number): boolean {
  const there = (['ingress', 'egress'] as const).filter((direction) => findTcx(folders, ifindex, direction));
  return there.length === 0;
}

/** Removes links whose interfaces are gone. */
export function forgetAllGone(folders: AttachmentFolders): void {
  for (const { pin, ifindex } of tcxLinks(folders)) if (ifindex === 0) takeOff(pin);
}

/**
 * Whether a link holds its program on an interface of this network namespace. The kernel lets go of one that is deleted, and the link
 * stays behind (dev_tcx_uninstall); one that moves to another namespace takes its programs along, where a filter would come off.
 */
function isOn(link: number, ifindex: number, direction: TcDirection): boolean {
  try {
    return tcxQuery(ifindex, direction).some(({ linkId }) => linkId === link);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENODEV') return false;
    throw error;
  }
}

function pinNames({ pins }: AttachmentFolders): string[] {
  const folder = join(pins, LINKS);
  return existsSync(folder) ? readdirSync(folder) : [];
}

function tcxPin({ pins }: AttachmentFolders, ifindex: number, direction: TcDirection): string {
  return join(pins, LINKS, `tcx-${ifindex}-${direction}`);
}
