import type { Line } from '../../addon/lib/index.js';
import { wipeImageFolder } from '../checkpoint/image-folder.js';
import { UserError } from '../errors.js';
import { LaterPages } from '../memory/later-pages.js';
import { allHasCome, endPager, pagerLives, readPagerState } from '../memory/pager.js';
import { PAGE_BYTES, signRecord } from '../memory/records.js';
import { Cgroup } from '../system/cgroup.js';
import { readProcess, readTree } from '../system/procfs.js';
import type { Arrival } from './arrival.js';
import type { Departure } from './departure.js';
import type { ArrivalRecord, DepartureRecord } from './records.js';
import type { ImageRoad } from './sending.js';
import type { Site } from './site.js';
import { reached } from './steps.js';

/** Sends what a departed process is still to have. @returns undefined when that is nothing */
export function laterPages(
  { report }: Pick<Site, 'report'>,
  road: ImageRoad,
  { request, later, localPids, freezer }: DepartureRecord,
): LaterPages | undefined {
  if (later === undefined) return undefined;
  const { destination, migration, pid: homePid } = request;
  const [pid = 0] = localPids;
  const cgroup = new Cgroup(freezer.path);
  return new LaterPages(
    (feed, signal) => road.sendLater(destination, migration, feed, signal),
    {
      pid,
      bytes: later.bytes,
      limit: later.bandwidthLimit,
      there: () => cgroup.exists && cgroup.processes().includes(pid), // the number may be another's, after a restart of the machine
    },
    ({ code, message }) =>
      report(
        { migration, pid: homePid, to: destination.name, code },
        `memory that a departed process lacks is kept here, for it could not be sent: ${message}`,
      ),
  );
}

/** A copy that is kept here, frozen, because the process that runs elsewhere lacks some of its memory yet. */
export interface Kept {
  readonly pid: number;
  readonly comm: string;
  /** The node where it runs. */
  readonly to: string;
  /** As far as that is known here. */
  readonly missingBytes: number;
  /** Why nothing is sent now, in words. */
  readonly trouble?: string;
}

export function keptOf(departures: Iterable<Pick<Departure, 'record' | 'later'>>): Kept[] {
  return [...departures].flatMap(({ record: { request, localPids }, later }) => {
    if (later === undefined || later.missing === 0) return [];
    const { pid, destination } = request;
    const comm = readProcess(localPids[0] ?? 0)?.comm ?? '?';
    const trouble = later.trouble === undefined ? {} : { trouble: later.trouble.message };
    return [{ pid, comm, to: destination.name, missingBytes: later.missing, ...trouble }];
  });
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
  else {
    await reached('destination', 'memory-joined', request.migration);
    await line.exchange(images);
  }
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
export async function untilWhole(site: Pick<Site, 'report'>, { record, resident }: Arrival): Promise<void> {
  const { request, images } = record;
  if (request.later !== true || (await allHasCome(images))) return;
  const { migration, description } = request;
  site.report({ migration, pid: description.homePid }, 'its pager was killed before all memory had come: it is ended');
  const pod = resident === undefined ? undefined : new Cgroup(resident.pod.cgroup);
  if (pod?.exists === true) pod.kill();
  if (pod !== undefined) return;
  for (const pid of readTree(description.homePid)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // it has ended
    }
  }
}

/** A process that runs here, and some of its memory is elsewhere yet. */
export interface Incomplete {
  readonly pid: number;
  readonly comm: string;
  /** The node where that is. */
  readonly from: string;
  readonly missingBytes: number;
}

export function incompleteOf(arrivals: readonly ArrivalRecord[]): Incomplete[] {
  return arrivals.flatMap(({ request, images, outcome }) => {
    const state = request.later === true && outcome === 'running' ? readPagerState(images) : undefined;
    if (state?.stage !== 'serving') return [];
    const { homePid: pid, comm } = request.description;
    return [{ pid, comm, from: request.source.name, missingBytes: state.missing * PAGE_BYTES }];
  });
}

function pagerLost(folder: string): UserError {
  return new UserError({
    code: 'PAGER_LOST',
    message: `the pager of ${folder} was killed before all memory had come`,
    exitStatus: 6,
  });
}
