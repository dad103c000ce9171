import { Throttle } from '../checkpoint/throttle.js';
import { UserError } from '../errors.js';
import { type CarriedMemory, inFreeze } from '../memory/carried.js';
import type { CopyAim } from '../memory/copying.js';
import { whyCriu } from '../memory/departing.js';
import type { ProcessStamp } from '../system/procfs.js';
import type { Departure } from './departure.js';
import type { CopyRequest, TransferResponse } from './messages.js';
import { type ImageRoad, sendAhead } from './sending.js';
import type { Site } from './site.js';
import { reached } from './steps.js';
import { underway } from './underway.js';

/** So long a process stays slowed down after the copying, if its home says nothing any more: all is said by then. */
const LET_GO_MS = 15_000;

/** Writes down what slows the process down. */
type Keep = (throttle: ProcessStamp) => void;

/**
 * Sends a copy of the memory of the tree's root while it runs, slowed down if that is allowed and needed. It stays so until it stands
 * still: what it writes meanwhile is sent in the freeze.
 * @throws {UserError} `WILL_NOT_CONVERGE`: it writes faster than it can be copied; it runs, and is not slowed down any more.
 */
export async function copyAhead(
  road: ImageRoad,
  site: Site,
  departure: Departure,
  { migration, limits }: CopyRequest,
  keep: Keep,
): Promise<TransferResponse> {
  const aim = limits === undefined ? undefined : aimOf(site, departure, migration, limits, keep);
  try {
    const sent = await copied(road, departure, { migration, limits }, aim);
    departure.throttle?.liftAfter(LET_GO_MS);
    await reached('source', 'sent-ahead', migration);
    return sent;
  } catch (error) {
    await departure.throttle?.lift();
    throw error;
  }
}

async function copied(
  road: ImageRoad,
  departure: Departure,
  { migration, limits }: CopyRequest,
  aim: CopyAim | undefined,
): Promise<TransferResponse> {
  const { localPids } = departure.record;
  const { destination } = departure.record.request;
  const root = localPids[0] ?? 0;
  const sent = await departure.memory?.sendAhead(
    root,
    (feed, signal) => road.sendMemory(destination, migration, feed, signal),
    underway('source', 'memory-underway', migration),
    aim,
  );
  if (sent !== undefined && sent.bytes !== undefined) {
    departure.memorySent = sent.bytes;
    departure.carried = sent.memory;
    departure.pace = limits?.bandwidthLimit;
    if (limits !== undefined && limits.later !== true) requireShort(withThrottle(departure, sent.memory), limits);
    return { bytes: sent.bytes, memory: withThrottle(departure, sent.memory) };
  }
  await departure.throttle?.lift(); // nothing of what follows waits for what it writes
  departure.carried = sent?.memory ?? inFreeze(whyCriu(localPids, false) ?? 'SMALL');
  departure.ahead = await sendAhead(road, destination, migration, root, limits?.bandwidthLimit);
  departure.pages?.expect(departure.ahead.pages.length);
  return { bytes: departure.ahead.pages.length, memory: withThrottle(departure, departure.carried) };
}

function aimOf(
  { report }: Site,
  departure: Departure,
  migration: string,
  { budgetMs, maxFreezeMs, bandwidthLimit, throttle: leastPercent, later }: NonNullable<CopyRequest['limits']>,
  keep: Keep,
): CopyAim {
  const aim = { budgetMs, limit: bandwidthLimit, later };
  if (leastPercent === undefined || departure.reverting) return aim;
  const throttle = new Throttle(departure.record.freezer.path, {
    began: keep,
    lost: () => report({ migration }, 'what slowed the process down has ended: it runs at its own pace'),
  });
  departure.throttle = throttle;
  return {
    ...aim,
    slowing: { leastPercent, withinMs: maxFreezeMs },
    slowTo: async (percent) => {
      const slowed = throttle.slowTo(percent);
      if (slowed) await reached('source', 'memory-slowed', migration);
      return slowed;
    },
  };
}

/** How its memory went, and how far it was slowed down for that. */
export function withThrottle({ throttle }: Departure, memory: CarriedMemory): CarriedMemory {
  const slowed = throttle?.slowed;
  return slowed === undefined ? memory : { ...memory, throttle: slowed };
}

/** It has not stopped yet: better not at all than to be put back after it has stood still that long. */
function requireShort(
  { forecast, throttle }: CarriedMemory,
  { maxFreezeMs, throttle: allowed }: NonNullable<CopyRequest['limits']>,
): void {
  if (forecast === undefined || !forecast.beyond || forecast.freezeMs <= maxFreezeMs) return;
  const rate = (bytes: number): string => `${Math.round(bytes / (1 << 20))} MiB/s`;
  const slowed = throttle === undefined ? '' : `, slowed down to ${throttle.percent} % of its pace`;
  throw new UserError({
    code: 'WILL_NOT_CONVERGE',
    message: `it writes ${rate(forecast.written)} of memory${slowed}, and ${rate(forecast.sent)} can be sent: it would stand still for about ${forecast.freezeMs} ms, and ${maxFreezeMs} ms are allowed`,
    remedy: `move it when it is less busy, or allow more with --max-freeze${allowed === undefined ? ', or let it be slowed down meanwhile with --throttle' : ''}`,
    exitStatus: 3,
  });
}
