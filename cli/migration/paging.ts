import type { Line } from '../../addon/lib/index.js';
import { wipeImageFolder } from '../checkpoint/image-folder.js';
import { UserError } from '../errors.js';
import { LaterPages } from '../memory/later-pages.js';
import { allHasCome, endPager, pagerLives, readPagerState } from '../memory/pager.js';
import { signRecord } from '../memory/records.js';
import { Cgroup } from '../system/cgroup.js';
import { readTree } from '../system/procfs.js';
import type { Arrival } from './arrival.js';
import type { ArrivalRecord, DepartureRecord } from './records.js';
import type { ImageRoad } from './sending.js';

/** Sends what a departed process is still to have. @returns undefined when that is nothing */
export function laterPages(road: ImageRoad, { request, later, localPids }: DepartureRecord): LaterPages | undefined {
  if (later === undefined) return undefined;
  const { destination, migration } = request;
  return new LaterPages(
    (feed, signal) => road.sendLater(destination, migration, feed, signal),
    localPids[0] ?? 0,
    later.bandwidthLimit,
  );
}

/**
 * Joins a line from the source with the pager of a process that has come from there.
 * @param ran it came, and was whole, before. @returns false: nothing of that is known. @throws {UserError} `PAGER_LOST`: what was missing can never come any more
 */
export async function takeLater(
  arrival: Arrival | undefined,
  peer: string,
  line: Line,
  ran: () => boolean,
): Promise<boolean> {
  if (arrival === undefined) {
    if (ran()) await line.write(signRecord('done'));
    return ran();
  }
  const { request, images, outcome } = arrival.record;
  if (request.source.name !== peer || request.later !== true) return false;
  if (readPagerState(images)?.stage === 'complete') await line.write(signRecord('done'));
  else if (outcome === 'lost' || !pagerLives(images)) throw pagerLost(images);
  else await line.exchange(images);
  return true;
}

/** Removes the images. A pager that finds its folder gone ends when it is told to. */
export function wipeArrival({ images }: ArrivalRecord): void {
  const pager = readPagerState(images);
  wipeImageFolder(images);
  endPager(images, pager);
}

/** The restored process will get what it is missing. @throws {UserError} `PAGER_LOST` */
export function requirePager({ record: { request, images } }: Arrival): void {
  if (request.later === true && readPagerState(images)?.stage === 'serving' && !pagerLives(images))
    throw pagerLost(images);
}

/**
 * Waits until the process has all its memory. One that lost its pager on the way is ended at once: it would find zeros where
 * something is missing, and nobody could tell.
 */
export async function untilWhole({ record, resident }: Arrival): Promise<void> {
  const { request, images } = record;
  if (request.later !== true || (await allHasCome(images))) return;
  const pod = resident === undefined ? undefined : new Cgroup(resident.pod.cgroup);
  if (pod?.exists === true) pod.kill();
  if (pod !== undefined) return;
  for (const pid of readTree(request.description.homePid)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // it has ended
    }
  }
}

function pagerLost(folder: string): UserError {
  return new UserError({
    code: 'PAGER_LOST',
    message: `the pager of ${folder} was killed before all memory had come`,
    exitStatus: 6,
  });
}
