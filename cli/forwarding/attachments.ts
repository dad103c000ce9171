import { existsSync, mkdirSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  BpfLink,
  type BpfObject,
  BpfProgram,
  programInfo,
  tcAttach,
  tcDetach,
  tcQuery,
  tcRemoveClsact,
  xdpQuery,
} from '../../addon/lib/index.js';
import type { ProgramInfo, TcDirection, TcFilter, XdpMode } from '../../addon/lib/types.js';
import { UserError } from '../errors.js';
import { type Link, readLink, readLinks } from '../system/ip.js';
import { countTcFilters } from '../system/tc.js';
import { Changes } from './changes.js';
import { type AttachChoice, type AttachMode, chooseHook, fallBack, type HookChoice } from './hook-choice.js';

export interface UplinkStatus {
  readonly interface: string;
  readonly ifindex: number;
  readonly mode: AttachMode;
  /** Why this mode. */
  readonly reason: string;
}

/** Our place among tc filters: "hp" as a number. Whoever else is there keeps it. */
const PRIORITY = 0x6870;
const HANDLE = 1;
/** Our programs by name: it is how we know our own filters again. */
const OURS = new Set(['hp_xdp', 'hp_ingress', 'hp_egress', 'hp_pod', 'hp_replay', 'hp_loopback']);

/** Where the attachments leave their traces: links in bpffs, what we must put back in the run folder. */
export interface AttachmentFolders {
  readonly pins: string;
  readonly run: string;
}

/** @throws {UserError} `XDP_TAKEN`, `TC_TAKEN` when somebody else's program is where ours would go. Changes nothing. */
export function requireFree(folders: AttachmentFolders, link: Link, choice: AttachChoice): void {
  if (chooseHook(link, choice).mode !== 'tc') requireFreeXdp(folders, link);
  for (const direction of ['ingress', 'egress'] as const) ownProgram(place(link.ifindex, direction));
}

/** Attaches the uplink programs to one interface, or replaces those of a previous daemon between two packets. */
export async function attachUplink(
  object: BpfObject,
  folders: AttachmentFolders,
  name: string,
  choice: AttachChoice,
  changes: Changes,
): Promise<UplinkStatus> {
  const link = await readLink(name);
  // tc first: whatever XDP does not have by then, tc decides
  attachFilter(object, folders, link.ifindex, 'ingress', 'hp_ingress', changes);
  attachFilter(object, folders, link.ifindex, 'egress', 'hp_egress', changes);
  const { mode, reason } = attachXdp(object, folders, link, choice, changes);
  return { interface: name, ifindex: link.ifindex, mode, reason };
}

/** Attaches one of our tc programs to a device. @throws {UserError} `TC_TAKEN` when a foreign filter has our place. */
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

/** Takes our tc program off a device. @returns whether there was one. */
export function detachFilter(ifindex: number, direction: TcDirection): boolean {
  return findFilter(ifindex, direction) !== undefined && tcDetach(place(ifindex, direction));
}

/** Our program on a device; undefined also when the device is gone. */
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

/** Takes the clsact qdisc away if we made it and nobody has a filter there any more. */
export async function removeOwnClsact(folders: AttachmentFolders, ifindex: number): Promise<void> {
  const mark = clsactMark(folders, ifindex);
  if (!existsSync(mark)) return;
  const link = (await readLinks()).find((each) => each.ifindex === ifindex);
  if (link !== undefined && (await countTcFilters(link.ifname)) > 0) return;
  if (link !== undefined) tcRemoveClsact(ifindex);
  rmSync(mark);
}

/** Takes a pinned link's program off at once; without the detach it comes off some time after the last reference is gone. */
export function takeOff(pin: string): void {
  const link = BpfLink.openPinned(pin);
  try {
    link.detach();
  } finally {
    link.close();
    unlinkSync(pin);
  }
}

export function xdpPin({ pins }: AttachmentFolders, name: string): string {
  return join(pins, 'links', `xdp-${name.replaceAll('.', '_')}`); // bpffs forbids dots in names
}

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

function attachXdp(
  object: BpfObject,
  folders: AttachmentFolders,
  link: Link,
  choice: AttachChoice,
  changes: Changes,
): HookChoice {
  const pin = xdpPin(folders, link.ifname);
  const wanted = chooseHook(link, choice);
  const present = ownXdp(pin, link.ifindex);
  if (wanted.mode === 'tc') {
    if (present !== undefined) changes.atLast(() => takeOff(pin));
    return wanted;
  }
  const previous = present === undefined ? undefined : changes.hold(BpfProgram.openById(present.programId));
  const program = object.program('hp_xdp');
  try {
    if (present?.mode === wanted.mode) {
      updatePinned(pin, program);
      changes.undoBy(() => {
        if (previous !== undefined) updatePinned(pin, previous);
      });
      return wanted;
    }
    if (present !== undefined && previous !== undefined) {
      takeOff(pin); // the settings ask for the other mode now; tc has its packets meanwhile
      changes.undoBy(() => attachPinned(previous, link.ifindex, modeFor(present.mode), pin));
    }
    attachPinned(program, link.ifindex, modeFor(wanted.mode), pin);
    changes.undoBy(() => takeOff(pin));
    return wanted;
  } catch (error) {
    const fallback = choice === 'auto' ? fallBack(error) : undefined;
    if (fallback === undefined) throw error;
    return fallback;
  } finally {
    program.close();
  }
}

/** What our pinned link holds on an interface. A link whose interface is gone, or came again as another, is removed. */
function ownXdp(pin: string, ifindex: number): { readonly programId: number; readonly mode: AttachMode } | undefined {
  if (!existsSync(pin)) return undefined;
  const link = BpfLink.openPinned(pin);
  try {
    const { ifindex: attachedTo, programId } = link.info();
    const state = attachedTo === ifindex ? xdpQuery(ifindex) : undefined;
    if (state?.programId === programId) {
      return { programId, mode: state.mode === 'generic' ? 'xdp-generic' : 'xdp-native' };
    }
  } finally {
    link.close();
  }
  unlinkSync(pin);
  return undefined;
}

function modeFor(mode: AttachMode): XdpMode {
  return mode === 'xdp-generic' ? 'generic' : 'native';
}

/** Attaches and pins under a name of its own first: a pin in our place is always one of a program that is attached. */
function attachPinned(program: BpfProgram, ifindex: number, mode: XdpMode, pin: string): void {
  const staged = `${pin}-new`;
  mkdirSync(join(pin, '..'), { recursive: true, mode: 0o700 });
  rmSync(staged, { force: true });
  const link = program.attachXdp(ifindex, { mode });
  try {
    link.pin(staged);
    renameSync(staged, pin);
  } catch (error) {
    rmSync(staged, { force: true });
    link.detach();
    throw error;
  } finally {
    link.close();
  }
}

/** Between two packets. */
function updatePinned(pin: string, program: { readonly fd: number }): void {
  const link = BpfLink.openPinned(pin);
  try {
    link.update(program);
  } finally {
    link.close();
  }
}

function requireFreeXdp(folders: AttachmentFolders, link: Link): void {
  const present = xdpQuery(link.ifindex);
  if (present === undefined || ownXdp(xdpPin(folders, link.ifname), link.ifindex) !== undefined) return;
  const remedy = 'detach it, or set `attach: tc` for that interface';
  throw taken('XDP_TAKEN', `the XDP hook of ${link.ifname}`, present.programId, remedy);
}

function taken(code: string, where: string, programId: number, remedy: string): UserError {
  const { name } = programInfo(programId);
  const message = `${where} is taken by the program "${name}" (id ${programId}), which is not ours`;
  return new UserError({ code, message, remedy, exitStatus: 7 });
}
