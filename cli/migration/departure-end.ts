import { closeDoor } from '../checkpoint/criu-door.js';
import { scatter } from '../checkpoint/freezer.js';
import { wipeImageFolder } from '../checkpoint/image-folder.js';
import { destroyPod, podAlive, treeEnded } from '../pod/pod.js';
import { removeObjects } from '../process/sysv.js';
import { Cgroup } from '../system/cgroup.js';
import { noteStopped } from './connection-notes.js';
import { controlOf, type Departure, destroyTree, holdAfterKill, NONE, tooLate } from './departure.js';
import type { ParkCounts } from './messages.js';
import { dropNames, removeShared } from './shared-objects.js';
import type { Site } from './site.js';
import { reached } from './steps.js';

/** The copy at the destination is the process: this one ends, unheard, when nothing of it is wanted any more. May be repeated. */
export async function destroyCopy(site: Site, departure: Departure): Promise<ParkCounts> {
  const { record, session, pages, memory, later, resident } = departure;
  const { migration } = record.request;
  resident?.control.raise(record.request.epoch);
  const counts = (await resident?.control.tunnel(resident.home)) ?? NONE;
  await reached('source', 'forwarded', migration);
  if (later !== undefined) {
    await reached('source', 'memory-following', migration);
    await later.acknowledged; // until then there is no other copy of what is missing there
    await reached('source', 'memory-acknowledged', migration);
  }
  session?.go('post-dump');
  await reached('source', 'let-end', migration);
  await session?.end(site.timeouts.commitMs);
  pages?.close();
  memory?.release();
  await reached('source', 'ended', migration);
  // CRIU ends the tree; one that was killed meanwhile did not.
  if (resident === undefined) await destroyTree(record);
  else {
    departure.removing = destroyPod(resident.pod);
    departure.removing.catch(() => undefined); // heard in `finish`: the kernel takes 50 ms for its network, and nobody has to wait
    if (!treeEnded(resident.pod)) await departure.removing;
  }
  if (record.sysv !== undefined) await removeObjects(record.sysv.own);
  if (resident === undefined) removeShared(record.sharedObjects);
  await noteStopped(site, record);
  wipeImageFolder(record.images);
  await reached('source', 'wiped', migration);
  return later === undefined ? counts : { ...counts, laterBytes: later.sent };
}

/** This copy is the process: it runs on, with its connections. */
export async function letRunOn(site: Site, departure: Departure): Promise<void> {
  const { record, session, pages, sending, resident } = departure;
  const { migration } = record.request;
  const held = session?.passed('pre-dump') === true;
  controlOf(site, departure)?.openEgress(resident?.home); // it runs as soon as CRIU lets go of it, and what it says counts again
  sending?.giveUp(tooLate(migration));
  pages?.discard();
  departure.memory?.giveUp(tooLate(migration));
  await departure.throttle?.lift();
  departure.later?.giveUp(tooLate(migration));
  departure.gate?.close();
  session?.stop();
  const status = (await session?.end(site.timeouts.freezeMs, site.timeouts.transferMs)) ?? null;
  pages?.close();
  if (resident?.pod.root !== undefined && podAlive(resident.pod)) closeDoor(resident.pod.init.pid);
  await reached('source', 'vetoed', migration);
  if (status === null && held) {
    holdAfterKill(record); // perhaps; or it was adopted, and nobody knows
  }
  dropNames(record.localPids);
  await reached('source', 'repaired', migration);
  if (resident === undefined) scatter(record.freezer);
  else {
    const pod = new Cgroup(record.freezer.path);
    if (pod.exists) pod.setFrozen(false);
    await resident.control.deliver(resident.home);
  }
  await reached('source', 'runs-again', migration);
  if (session?.passed('post-dump') === true) await noteStopped(site, record);
  wipeImageFolder(record.images);
}
