import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Link, readLinks } from '../system/ip.js';
import type { AttachmentFolders } from './attachment-folders.js';
import { xdpPin } from './attachments.js';
import { findClassifier } from './classifier.js';
import { restoreLoopback } from './loopback.js';
import { finishPinned, LINKS, readPinned, takeOff } from './pinned-link.js';
import { ownMapIds } from './pinned-maps.js';
import { clsactMark, detachFilter, findFilter, removeOwnClsact } from './tc-filter.js';
import { type TcxLink, tcxLinks } from './tcx.js';

const MARK = /^clsact-\d+$/;

/**
 * Takes everything of ours off every interface and removes pins and maps, whoever of us attached it: what is there counts,
 * not what is configured by now. Other people's programs and their qdisc stay. @returns what was removed, in words.
 */
export async function removeDatapath(folders: AttachmentFolders): Promise<string[]> {
  const removed: string[] = [];
  const links = await readLinks();
  const owned = ownMapIds(folders.pins);
  finishPinned(folders.pins);
  const byTcx = tcxLinks(folders);
  for (const link of links) {
    removed.push(...removeTcx(byTcx, link));
    removed.push(...(await removeFilters(folders, link, owned)));
  }
  for (const pin of pinnedLinks(folders)) {
    const ifindex = readPinned(pin)?.ifindex;
    takeOff(pin);
    const name = links.find((link) => link.ifindex === ifindex)?.ifname;
    if (name !== undefined) removed.push(`XDP program of ${name}`);
  }
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
    if (findClassifier(folders, link.ifindex, 'ingress')?.name !== 'hp_ingress') continue; // not a pod's or a twin's either
    const removed = [...removeTcx(tcxLinks(folders), link), ...(await removeFilters(folders, link, owned))];
    const pin = xdpPin(folders, link.ifname);
    if (removed.length > 0 && existsSync(pin)) takeOff(pin);
  }
}

function removeTcx(links: readonly TcxLink[], { ifname, ifindex }: Link): string[] {
  const ours = links.filter((link) => link.ifindex === ifindex);
  for (const { pin } of ours) takeOff(pin);
  return ours.map(({ direction }) => `tc ${direction} program of ${ifname}`);
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
  if (detached.length > 0 || existsSync(clsactMark(folders, ifindex))) {
    await removeOwnClsact(folders, ifindex);
    rmSync(clsactMark(folders, ifindex), { force: true }); // with filters of others on it, it is theirs now
  }
  return detached.map((direction) => `tc ${direction} program of ${ifname}`);
}

function pinnedLinks({ pins }: AttachmentFolders): string[] {
  const folder = join(pins, LINKS);
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
}
