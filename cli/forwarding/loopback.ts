import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BpfObject } from '../../addon/lib/index.js';
import { LoopbackMark } from './abi.gen.js';
import { decodeAddress, encodeAddress } from './address.js';
import type { AttachmentFolders } from './attachment-folders.js';
import type { Changes } from './changes.js';
import { attachClassifier, chooseClassifier, detachClassifier, findClassifier } from './classifier.js';
import { attachFilter, clsactMark, detachFilter, removeOwnClsact } from './tc-filter.js';

const LOOPBACK_IFINDEX = 1;
/** The loopback addresses at which a process that is away is reached from its home. */
export const LOOPBACK_ADDRESSES = ['127.0.0.1', '::1'] as const;
/**
 * What comes from a process that is away is put into `lo`, from one of this node's own addresses: the kernel takes that only
 * when it is told to (Documentation/networking/ip-sysctl.rst). On `lo` nothing else can come so.
 */
const SETTINGS = ['accept_local', 'route_localnet'] as const;

/** The address by which the datapath knows a loopback address of a node: see bpf/loopback.h. @param home the node's address */
export function loopbackName(home: string, loopback: string): string {
  const [first = 0, ...rest] = encodeAddress(home).word;
  const mark = loopback.includes(':') ? LoopbackMark.mark_ipv6 : LoopbackMark.mark_ipv4;
  const swapped = Buffer.alloc(4);
  swapped.writeUInt32BE(mark);
  return decodeAddress({ word: [(first ^ swapped.readUInt32LE()) >>> 0, ...rest] });
}

/** The same for one of the loopback addresses; any other address is itself. */
export function addressOf(home: string, address: string): string {
  return (LOOPBACK_ADDRESSES as readonly string[]).includes(address) ? loopbackName(home, address) : address;
}

/** Takes what this node's processes say to each other past our program, as long as one of them is away. */
export function watchLoopback(object: BpfObject, folders: AttachmentFolders): void {
  for (const name of SETTINGS) {
    if (readFileSync(settingOf(name), 'utf8').trim() !== '0') continue;
    writeFileSync(markOf(folders, name), '', { mode: 0o600 });
    writeFileSync(settingOf(name), '1');
  }
  if (isWatched(folders)) return;
  attachClassifier(object, folders, LOOPBACK_IFINDEX, 'egress', 'hp_loopback');
}

/**
 * After an adoption `lo` still runs the previous daemon's program, if any; it gets ours. Where tc programs become filters, this
 * makes the place for ours, once: while the kernel adds a clsact qdisc, or takes one away, everything that is sent over the device
 * is lost, and nobody is told (qdisc_graft -> dev_deactivate -> noop_qdisc). A filter, and a link of tcx, comes and goes without that.
 */
export function prepareLoopback(object: BpfObject, folders: AttachmentFolders, changes: Changes): void {
  const watched = isWatched(folders);
  if (watched) attachClassifier(object, folders, LOOPBACK_IFINDEX, 'egress', 'hp_loopback', changes);
  if (watched || chooseClassifier(folders).by === 'tcx') return;
  const ready = existsSync(clsactMark(folders, LOOPBACK_IFINDEX));
  attachFilter(object, folders, LOOPBACK_IFINDEX, 'egress', 'hp_loopback', changes);
  detachFilter(LOOPBACK_IFINDEX, 'egress');
  if (!ready) changes.undoBy(() => removeOwnClsact(folders, LOOPBACK_IFINDEX));
}

/** Nobody is away any more. A qdisc stays: see {@link prepareLoopback}. */
export function leaveLoopback(folders: AttachmentFolders): void {
  if (isWatched(folders)) detachClassifier(folders, LOOPBACK_IFINDEX, 'egress');
  restoreSettings(folders);
}

/** Leaves `lo` as it was before the first daemon, once our program is off it. */
export async function restoreLoopback(folders: AttachmentFolders): Promise<void> {
  restoreSettings(folders);
  await removeOwnClsact(folders, LOOPBACK_IFINDEX);
}

/** Puts back the settings of `lo` that we have changed. */
function restoreSettings(folders: AttachmentFolders): void {
  for (const name of SETTINGS) {
    const mark = markOf(folders, name);
    if (!existsSync(mark)) continue;
    writeFileSync(settingOf(name), '0');
    rmSync(mark);
  }
}

function isWatched(folders: AttachmentFolders): boolean {
  return findClassifier(folders, LOOPBACK_IFINDEX, 'egress')?.name === 'hp_loopback';
}

function settingOf(name: (typeof SETTINGS)[number]): string {
  return `/proc/sys/net/ipv4/conf/lo/${name}`;
}

function markOf({ run }: AttachmentFolders, name: string): string {
  return join(run, `lo-${name}`);
}
