import { unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { type BpfObject, BpfProgram, xdpQuery } from '../../addon/lib/index.js';
import type { XdpMode } from '../../addon/lib/types.js';
import { type Link, readLink } from '../system/ip.js';
import type { AttachmentFolders } from './attachment-folders.js';
import type { Changes } from './changes.js';
import { attachClassifier, type ClassifierChoice, chooseClassifier } from './classifier.js';
import { type AttachChoice, type AttachMode, chooseHook, fallBack, type HookChoice } from './hook-choice.js';
import { attachPinned, LINKS, readPinned, takeOff, updatePinned } from './pinned-link.js';
import { taken } from './taken.js';
import { requireFreePlace } from './tc-filter.js';

export interface UplinkStatus {
  readonly interface: string;
  readonly ifindex: number;
  readonly mode: AttachMode;
  /** Why this mode. */
  readonly reason: string;
  /** How the tc programs are attached, which every mode has. */
  readonly classifier: ClassifierChoice;
}

/** @throws {UserError} `XDP_TAKEN`, `TC_TAKEN` when somebody else's program is where ours would go. Changes nothing. */
export function requireFree(folders: AttachmentFolders, link: Link, choice: AttachChoice): void {
  if (chooseHook(link, choice).mode !== 'tc') requireFreeXdp(folders, link);
  if (chooseClassifier(folders).by === 'tcx') return; // there is a place for everybody
  for (const direction of ['ingress', 'egress'] as const) requireFreePlace(link.ifindex, direction);
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
  attachClassifier(object, folders, link.ifindex, 'ingress', 'hp_ingress', changes);
  attachClassifier(object, folders, link.ifindex, 'egress', 'hp_egress', changes);
  const { mode, reason } = attachXdp(object, folders, link, choice, changes);
  return { interface: name, ifindex: link.ifindex, mode, reason, classifier: chooseClassifier(folders) };
}

export function xdpPin({ pins }: AttachmentFolders, name: string): string {
  return join(pins, LINKS, `xdp-${name.replaceAll('.', '_')}`); // bpffs forbids dots in names
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
      changes.undoBy(() => attachPinned(pin, () => previous.attachXdp(link.ifindex, { mode: modeFor(present.mode) })));
    }
    attachPinned(pin, () => program.attachXdp(link.ifindex, { mode: modeFor(wanted.mode) }));
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
  const present = readPinned(pin);
  if (present === undefined) return undefined;
  const state = present.ifindex === ifindex ? xdpQuery(ifindex) : undefined;
  if (state?.programId === present.programId) {
    return { programId: state.programId, mode: state.mode === 'generic' ? 'xdp-generic' : 'xdp-native' };
  }
  unlinkSync(pin);
  return undefined;
}

function modeFor(mode: AttachMode): XdpMode {
  return mode === 'xdp-generic' ? 'generic' : 'native';
}

function requireFreeXdp(folders: AttachmentFolders, link: Link): void {
  const present = xdpQuery(link.ifindex);
  if (present === undefined || ownXdp(xdpPin(folders, link.ifname), link.ifindex) !== undefined) return;
  const remedy = 'detach it, or set `attach: tc` for that interface';
  throw taken('XDP_TAKEN', `the XDP hook of ${link.ifname}`, present.programId, remedy);
}
