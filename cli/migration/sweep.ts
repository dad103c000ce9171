import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { endCriuOf } from '../checkpoint/criu-processes.js';
import { wipeImageFolder } from '../checkpoint/image-folder.js';
import { carriedFolders } from '../files/carried-folder.js';
import { wipeTree } from '../files/wipe.js';
import { heldTap, PARK_PREFIX } from '../forwarding/park-queue.js';
import { podCgroups, removePodCgroup } from '../pod/pod.js';
import { listProcesses } from '../system/procfs.js';
import type { Forwarding } from './binding-control.js';
import type { Journal } from './journal.js';
import type { Site } from './site.js';

/**
 * Removes what a daemon had made and was killed before it could write it down, and what it had struck off its records and was
 * killed before it could remove it. Records come first, and everything that none of them names is ours and superfluous.
 * A journal that was made anew while bindings were left (its folder was lost) proves nothing: then nothing is removed before
 * `homeproxy recover`.
 * @returns what was removed, in words; undefined when the journal is not complete.
 */
export async function sweep(
  journal: Journal,
  { datapath }: Forwarding,
  place: Pick<Site, 'imageRoot' | 'carriedRoot'>,
): Promise<string[] | undefined> {
  const { tables } = datapath;
  const { imageRoot } = place;
  if (!journal.complete) {
    if ([...tables.bindings.entries()].length > 0) return undefined;
    journal.declareComplete();
  }
  const removed: string[] = [];
  const residents = journal.residents.all();
  const bindings = new Set([...journal.twins.all(), ...residents].map(({ binding }) => binding));

  const images = new Set([...journal.departures.all(), ...journal.arrivals.all()].map((record) => record.images));
  for (const name of existsSync(imageRoot) ? readdirSync(imageRoot) : []) {
    const folder = join(imageRoot, name);
    if (images.has(folder)) continue;
    endCriuOf(folder);
    wipeImageFolder(folder);
    removed.push(`images ${name}`);
  }

  const pods = new Set(residents.map(({ pod }) => pod.cgroup));
  for (const cgroup of podCgroups().filter((path) => !pods.has(path))) {
    await removePodCgroup(cgroup);
    removed.push(`pod ${cgroup}`);
  }

  const roots = new Set(residents.map(({ pod }) => pod.root));
  for (const folder of carriedFolders(place).filter((path) => !roots.has(path))) {
    wipeTree(folder);
    removed.push(`files ${folder}`);
  }
  const twins = new Set(journal.twins.ids());
  for (const id of journal.carried.ids()) if (!twins.has(id)) journal.carried.delete(id);

  for (const id of journal.queues.ids()) if (!bindings.has(Number(id))) journal.queues.delete(id);
  const holders = new Set(journal.queues.all().map(({ holder }) => holder.pid));
  for (const pid of listProcesses()) {
    if (holders.has(pid) || !isHolder(pid)) continue;
    process.kill(pid, 'SIGKILL'); // the TAP goes with its last descriptor
    removed.push(`park queue of process ${pid}`);
  }

  // A binding's state is made before it and removed after it.
  for (const id of new Set([...tables.bindings.entries(), ...tables.parkStates.entries()].map(([number]) => number))) {
    if (bindings.has(id)) continue;
    tables.removeBinding(id);
    removed.push(`binding ${id}`);
  }
  const devices = new Set([
    ...journal.queues.all().map(({ ifindex }) => ifindex),
    ...residents.map(({ pod }) => pod.hostIfindex),
  ]);
  for (const [ifindex] of [...tables.devices.entries()]) if (!devices.has(ifindex)) datapath.removeDevice(ifindex);
  return removed;
}

function isHolder(pid: number): boolean {
  try {
    if (!readlinkSync(`/proc/${pid}/exe`).endsWith('/sleep')) return false;
  } catch {
    return false; // gone, or a kernel thread
  }
  return heldTap(pid)?.startsWith(PARK_PREFIX) === true;
}
