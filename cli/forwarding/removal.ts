import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BpfLink } from '../../addon/lib/index.js';
import { type Link, readLinks } from '../system/ip.js';
import {
  type AttachmentFolders,
  clsactMark,
  detachFilter,
  findFilter,
  removeOwnClsact,
  takeOff,
  xdpPin,
} from './attachments.js';
import { restoreLoopback } from './loopback.js';
import { ownMapIds } from './pinned-maps.js';

const MARK = /^clsact-\d+$/;

/**
 * Takes everything of ours off every interface and removes pins and maps, whoever of us attached it: what is there counts,
 * not what is configured by now. Other people's programs and their qdisc stay. @returns what was removed, in words.
 */
export async function removeDatapath(folders: AttachmentFolders): Promise<string[]> {
  const removed: string[] = [];
  const links = await readLinks();
  const owned = ownMapIds(folders.pins);
  for (const pin of pinnedLinks(folders)) {
    const ifindex = attachedTo(pin);
    takeOff(pin);
    const name = links.find((link) => link.ifindex === ifindex)?.ifname;
    if (name !== undefined) removed.push(`XDP program of ${name}`);
  }
  for (const link of links) removed.push(...(await removeFilters(folders, link, owned)));
  await restoreLoopback(folders);
  if (existsSync(folders.run)) {
    for (const mark of readdirSync(folders.run).filter((name) => MARK.test(name))) rmSync(join(folders.run, mark));
  }
  if (!existsSync(folders.pins)) return removed;
  rmSync(folders.pins, { recursive: true, force: true });
  return [...removed, `pinned maps in ${folders.pins}`];
}

/** Takes our programs off interfaces that are no uplinks any more, by the settings. */
export async function removeFromOthers(
  folders: AttachmentFolders,
  uplinks: readonly { readonly ifindex: number }[],
  owned: ReadonlySet<number>,
): Promise<void> {
  for (const link of await readLinks()) {
    if (uplinks.some(({ ifindex }) => ifindex === link.ifindex)) continue;
    if (findFilter(link.ifindex, 'ingress')?.name !== 'hp_ingress') continue; // not a pod's or a twin's either
    const removed = await removeFilters(folders, link, owned);
    const pin = xdpPin(folders, link.ifname);
    if (removed.length > 0 && existsSync(pin)) takeOff(pin);
  }
}

/** @param owned the maps by which our programs are known from those of another installation. */
async function removeFilters(
  folders: AttachmentFolders,
  { ifname, ifindex }: Link,
  owned: ReadonlySet<number>,
): Promise<string[]> {
  const detached = (['ingress', 'egress'] as const).filter(
    (direction) =>
      findFilter(ifindex, direction)?.mapIds.some((id) => owned.has(id)) && detachFilter(ifindex, direction),
  );
  if (detached.length > 0) {
    await removeOwnClsact(folders, ifindex);
    rmSync(clsactMark(folders, ifindex), { force: true }); // with filters of others on it, it is theirs now
  }
  return detached.map((direction) => `tc ${direction} program of ${ifname}`);
}

function pinnedLinks({ pins }: AttachmentFolders): string[] {
  const folder = join(pins, 'links');
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
}

function attachedTo(pin: string): number {
  const link = BpfLink.openPinned(pin);
  try {
    return link.info().ifindex;
  } finally {
    link.close();
  }
}
