import { UserError } from '../errors.js';
import { type CarriedMemory, inFreeze } from '../memory/carried.js';
import { whyCriu } from '../memory/departing.js';
import type { Departure } from './departure.js';
import type { CopyRequest, TransferResponse } from './messages.js';
import { type ImageRoad, sendAhead } from './sending.js';
import { reached } from './steps.js';
import { underway } from './underway.js';

/**
 * Sends a copy of the memory of the tree's root while it runs.
 * @throws {UserError} `WILL_NOT_CONVERGE`: it writes faster than it can be copied; it was not touched.
 */
export async function copyAhead(
  road: ImageRoad,
  departure: Departure,
  request: CopyRequest,
): Promise<TransferResponse> {
  const { migration, limits } = request;
  const { localPids } = departure.record;
  const { destination } = departure.record.request;
  const root = localPids[0] ?? 0;
  const sent = await departure.memory?.sendAhead(
    root,
    (feed, signal) => road.sendMemory(destination, migration, feed, signal),
    underway('source', 'memory-underway', migration),
    limits,
  );
  if (sent !== undefined && sent.bytes !== undefined) {
    departure.memorySent = sent.bytes;
    departure.pace = limits?.bandwidthLimit;
    if (limits !== undefined && limits.later !== true) requireShort(sent.memory, limits.maxFreezeMs);
    await reached('source', 'sent-ahead', migration);
    return { bytes: sent.bytes, memory: sent.memory };
  }
  const memory = sent?.memory ?? inFreeze(whyCriu(localPids, 0) ?? 'SMALL');
  departure.ahead = await sendAhead(road, destination, migration, root, limits?.bandwidthLimit);
  departure.pages?.expect(departure.ahead.pages.length);
  await reached('source', 'sent-ahead', migration);
  return { bytes: departure.ahead.pages.length, memory };
}

/** It has not stopped yet: better not at all than to be put back after it has stood still that long. */
function requireShort({ forecast }: CarriedMemory, maxFreezeMs: number): void {
  if (forecast === undefined || !forecast.beyond || forecast.freezeMs <= maxFreezeMs) return;
  const rate = (bytes: number): string => `${Math.round(bytes / (1 << 20))} MiB/s`;
  throw new UserError({
    code: 'WILL_NOT_CONVERGE',
    message: `it writes ${rate(forecast.written)} of memory and ${rate(forecast.sent)} can be sent: it would stand still for about ${forecast.freezeMs} ms, and ${maxFreezeMs} ms are allowed`,
    remedy: 'move it when it is less busy, or allow more with --max-freeze',
    exitStatus: 3,
  });
}
