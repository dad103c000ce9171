import { existsSync, mkdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  BpfLink,
  type BpfObject,
  programInfo,
  tcAttach,
  tcDetach,
  tcQuery,
  tcRemoveClsact,
  xdpQuery,
} from '../../addon/lib/index.js';
import type { TcDirection, TcFilter } from '../../addon/lib/types.js';
import { UserError } from '../errors.js';
import { type Link, readLink } from '../system/ip.js';
import { countTcFilters } from '../system/tc.js';

export type AttachChoice = 'auto' | 'xdp' | 'xdp-generic' | 'tc';

export interface UplinkStatus {
  readonly interface: string;
  readonly ifindex: number;
  readonly mode: 'xdp-native' | 'xdp-generic' | 'tc';
  /** Why this mode. */
  readonly reason: string;
}

/** Our place among tc filters: "hp" as a number. Whoever else is there keeps it. */
const PRIORITY = 0x6870;
const HANDLE = 1;
/** All our programs are named so; it is how we know our own filters again. */
const OURS = /^hp_/;

/** Where the attachments leave their traces: links in bpffs, what we must put back in the run folder. */
export interface AttachmentFolders {
  readonly pins: string;
  readonly run: string;
}

/** Attaches the uplink programs to one interface, or replaces those of a previous daemon between two packets. */
export async function attachUplink(
  object: BpfObject,
  folders: AttachmentFolders,
  name: string,
  choice: AttachChoice,
): Promise<UplinkStatus> {
  const link = await readLink(name);
  if (chooseXdp(link, choice).mode !== 'tc') requireFreeXdp(folders, link); // before anything is attached
  attachFilter(object, folders, link.ifindex, 'ingress', 'hp_ingress');
  attachFilter(object, folders, link.ifindex, 'egress', 'hp_egress');
  const { mode, reason } = attachXdp(object, folders, link, choice);
  return { interface: name, ifindex: link.ifindex, mode, reason };
}

/** Attaches one of our tc programs to a device. @throws {UserError} `TC_TAKEN` when a foreign filter has our place. */
export function attachFilter(
  object: BpfObject,
  folders: AttachmentFolders,
  ifindex: number,
  direction: TcDirection,
  programName: string,
): void {
  const filter: TcFilter = { ifindex, direction, priority: PRIORITY, handle: HANDLE };
  const present = tcQuery(filter);
  if (present !== undefined && !OURS.test(programInfo(present.programId).name)) {
    throw taken('TC_TAKEN', `a tc filter at priority ${PRIORITY} of interface ${ifindex}`, present.programId);
  }
  const program = object.program(programName);
  try {
    const { createdClsact } = tcAttach({ ...filter, program, replace: present !== undefined });
    if (createdClsact) writeFileSync(clsactMark(folders, ifindex), '', { mode: 0o600 });
  } finally {
    program.close();
  }
}

/**
 * Takes our programs off an uplink and puts back what we changed. The clsact qdisc goes if we made it and nobody else has a
 * filter there. An interface that is gone has taken everything with it. @returns what was removed, in words.
 */
export async function detachUplink(folders: AttachmentFolders, name: string, ifindex: number): Promise<string[]> {
  const removed: string[] = [];
  const pin = xdpPin(folders, name);
  if (existsSync(pin)) {
    takeOff(pin);
    removed.push(`XDP program of ${name}`);
  }
  const detached = (['ingress', 'egress'] as const).filter((direction) => detachFilter(ifindex, direction));
  removed.push(...detached.map((direction) => `tc ${direction} program of ${name}`));
  const mark = clsactMark(folders, ifindex);
  if (existsSync(mark)) {
    if (detached.length > 0 && (await countTcFilters(name)) === 0) tcRemoveClsact(ifindex);
    rmSync(mark);
  }
  return removed;
}

/** Takes our tc program off a device. @returns whether there was one. */
export function detachFilter(ifindex: number, direction: TcDirection): boolean {
  const filter = { ifindex, direction, priority: PRIORITY, handle: HANDLE };
  const present = queryFilter(filter);
  if (present === undefined || !OURS.test(programInfo(present.programId).name)) return false;
  return tcDetach(filter);
}

/** Our place on an interface; also undefined when the interface is gone. */
function queryFilter(filter: TcFilter): { programId: number } | undefined {
  try {
    return tcQuery(filter);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENODEV') return undefined;
    throw error;
  }
}

function attachXdp(
  object: BpfObject,
  folders: AttachmentFolders,
  link: Link,
  choice: AttachChoice,
): { mode: UplinkStatus['mode']; reason: string } {
  const pin = xdpPin(folders, link.ifname);
  const wanted = chooseXdp(link, choice);
  if (wanted.mode === 'tc') {
    if (existsSync(pin)) takeOff(pin);
    return wanted;
  }
  const program = object.program('hp_xdp');
  try {
    const modeNow = existsSync(pin) ? xdpMode(link.ifindex) : undefined;
    if (modeNow !== undefined && modeNow !== wanted.mode)
      takeOff(pin); // the settings ask for the other mode now
    else if (modeNow !== undefined && updatePinned(pin, link.ifindex, program)) return wanted;
    const attached = program.attachXdp(link.ifindex, { mode: wanted.mode === 'xdp-native' ? 'native' : 'generic' });
    mkdirSync(join(folders.pins, 'links'), { recursive: true, mode: 0o700 });
    attached.pin(pin);
    attached.close();
    return wanted;
  } catch (error) {
    const code = (error as { code?: string }).code;
    if (choice !== 'auto' || error instanceof UserError || (code !== 'EOPNOTSUPP' && code !== 'EINVAL')) throw error;
    return { mode: 'tc', reason: `auto: its driver has no native XDP (${code})` };
  } finally {
    program.close();
  }
}

/** @throws {UserError} `XDP_TAKEN` when somebody else's program is on the interface. */
function requireFreeXdp(folders: AttachmentFolders, link: Link): void {
  const present = xdpQuery(link.ifindex);
  if (present === undefined) return;
  const pin = xdpPin(folders, link.ifname);
  if (existsSync(pin) && pinnedProgram(pin) === present.programId) return;
  throw taken('XDP_TAKEN', `the XDP hook of ${link.ifname}`, present.programId);
}

function pinnedProgram(pin: string): number {
  const link = BpfLink.openPinned(pin);
  try {
    return link.info().programId;
  } finally {
    link.close();
  }
}

function chooseXdp(link: Link, choice: AttachChoice): { mode: UplinkStatus['mode']; reason: string } {
  if (choice === 'xdp') return { mode: 'xdp-native', reason: 'as configured' };
  if (choice === 'xdp-generic') return { mode: 'xdp-generic', reason: 'as configured' };
  if (choice === 'tc') return { mode: 'tc', reason: 'as configured' };
  // veth_xdp_rcv_skb loses the partial checksum that a local sender left to offload; nothing tells us whether it does
  if (link.linkinfo?.info_kind === 'veth') {
    return { mode: 'tc', reason: 'auto: native XDP on veth loses partial checksums of local senders' };
  }
  return { mode: 'xdp-native', reason: 'auto: the driver has native XDP' };
}

/** Replaces the program of a link that a previous daemon pinned. @returns false when the link is dead and was removed. */
function updatePinned(pin: string, ifindex: number, program: { readonly fd: number }): boolean {
  const link = BpfLink.openPinned(pin);
  try {
    if (link.info().ifindex === ifindex) {
      link.update(program);
      return true;
    }
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOLINK') throw error;
  } finally {
    link.close();
  }
  unlinkSync(pin);
  return false;
}

/** Takes a pinned link's program off at once; without the detach it comes off some time after the last reference is gone. */
function takeOff(pin: string): void {
  const link = BpfLink.openPinned(pin);
  try {
    link.detach();
  } finally {
    link.close();
    unlinkSync(pin);
  }
}

function xdpMode(ifindex: number): UplinkStatus['mode'] {
  const mode = xdpQuery(ifindex)?.mode;
  if (mode === undefined) return 'tc';
  return mode === 'generic' ? 'xdp-generic' : 'xdp-native';
}

function xdpPin({ pins }: AttachmentFolders, name: string): string {
  return join(pins, 'links', `xdp-${name.replaceAll('.', '_')}`); // bpffs forbids dots in names
}

function clsactMark({ run }: AttachmentFolders, ifindex: number): string {
  return join(run, `clsact-${ifindex}`);
}

function taken(code: string, place: string, programId: number): UserError {
  const { name } = programInfo(programId);
  return new UserError({
    code,
    message: `${place} is taken by the program "${name}" (id ${programId}), which is not ours`,
    remedy: 'detach it, or set `attach: tc` for that interface',
    exitStatus: 7,
  });
}
