/* Where the files of a process join its migration: one function for each place in source and destination. */
import { statfsSync } from 'node:fs';
import { closeDoor } from '../checkpoint/criu-door.js';
import { UserError } from '../errors.js';
import { type ArrivingFiles, ArrivingRoot, hasOwn } from '../files/arriving-root.js';
import { mayTravel } from '../files/carried-path.js';
import { DepartingFiles, hashAll, requireBytes } from '../files/departing-files.js';
import { type GatherOptions, gatherFiles } from '../files/gather.js';
import { Homecoming, settle, takeBack } from '../files/homecoming.js';
import {
  type CarriedSummary,
  type Entry,
  entrySchema,
  MAX_ENTRIES,
  MAX_MANIFEST_BYTES,
  summaryOf,
} from '../files/manifest.js';
import { decodeJson, decodeParcel, malformed, readShort } from '../files/parcel-stream.js';
import { readRights } from '../files/rights.js';
import { podAlive } from '../pod/pod.js';
import { DEVICE_PATHS } from '../pod/pod-root.js';
import type { Verdict } from '../process/description.js';
import type { NeededFile, Needs } from '../process/needs.js';
import { ok, refused } from '../process/verdicts.js';
import { readTree } from '../system/procfs.js';
import type { Arrival } from './arrival.js';
import type { Carry, NodeName } from './messages.js';
import type { ArrivalRecord, DepartureRecord } from './records.js';
import { outOfOrder } from './refusals.js';
import type { Resident } from './residents.js';
import { makeObjects, removeShared } from './shared-objects.js';
import type { Site } from './site.js';
import { reached } from './steps.js';

const offerSchema = entrySchema.array().max(MAX_ENTRIES);

/** How files reach another node. */
export interface FilesRoad {
  /** Tells of all files that will come. @returns the places in the list of what the destination lacks. */
  offerFiles(to: NodeName, migration: string, entries: readonly Entry[]): Promise<readonly number[]>;
  sendFiles(to: NodeName, migration: string, parcel: AsyncIterable<Buffer>): Promise<void>;
}

/** The files of one arrival. */
export interface Arriving {
  readonly target: ArrivingFiles;
  /** At home: what its files change here. */
  readonly homecoming: Homecoming | undefined;
  /** The last of them is here. */
  complete: boolean;
}

function gathering(
  site: Site,
  pids: () => readonly number[],
  { paths }: Carry,
  resident: Resident | undefined,
): () => GatherOptions {
  return () => ({ pids: pids(), paths: [...site.carry.paths, ...paths], ownRoot: resident?.pod.root !== undefined });
}

/** Source, before anything is made: what would travel. */
export async function wouldCarry(
  site: Site,
  root: number,
  carry: Carry,
  resident: Resident | undefined,
): Promise<{ carried?: CarriedSummary; verdicts: Verdict[] }> {
  if (resident !== undefined && resident.pod.root === undefined) {
    return {
      verdicts: [
        refused(
          'FILES_SHARED',
          `process ${resident.description.homePid}`,
          'it left its home with --files shared: the files that it uses here are those of this node',
          'recall it first, and move it with --files carry then',
        ),
      ],
    };
  }
  const foreign = carry.paths.filter((path) => !mayTravel(path));
  const verdicts = foreign.map((path) =>
    refused(
      'CARRY_PATH',
      path,
      'it is no absolute path without `.` and `..`, or one that every host has for itself',
      'name another',
    ),
  );
  try {
    const found = gatherFiles(gathering(site, () => readTree(root), carry, resident)());
    requireBytes(found, site.carry.maxBytes);
    const lost = carry.paths.filter((path) => mayTravel(path) && !found.has(path));
    verdicts.push(
      ...lost.map((path) => refused('FILE_MISSING', path, 'it shall travel, and is not there', 'leave it away')),
    );
    return { carried: summaryOf(await hashAll([...found.values()])), verdicts };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    verdicts.push(refused(error.code, 'files', error.message, error.remedy ?? 'carry less'));
    return { verdicts };
  }
}

/** Source: the files of a departure. Leaving home, they are remembered as they are sent. */
export function filesOf(
  site: Site,
  road: FilesRoad,
  record: () => DepartureRecord,
  resident: Resident | undefined,
): DepartingFiles {
  const { request } = record();
  const { migration, destination, twin, carry } = request;
  if (carry === undefined) throw outOfOrder(migration, 'leaves its files behind');
  const options = gathering(site, () => record().localPids, carry, resident);
  const remember = (entries: DepartingFiles): void => {
    if (resident !== undefined) return;
    site.journal.carried.put(twin, { entries: entries.entries, rights: readRights(record().localPids) });
  };
  const files: DepartingFiles = new DepartingFiles(
    {
      offer: (entries) => road.offerFiles(destination, migration, entries),
      send: async (parcel) => {
        remember(files);
        await road.sendFiles(destination, migration, parcel);
      },
    },
    options,
    site.carry.maxBytes,
  );
  return files;
}

/** Destination, before anything is made: what it has of the files, and which of the process's needs are left to this node. */
export async function filesFit(
  site: Site,
  asked: { needs: Needs; carried: CarriedSummary; twin: string | undefined; returning: boolean },
): Promise<{ verdicts: Verdict[]; needed: NeededFile[] }> {
  const { needs, carried, twin, returning } = asked;
  if (returning) {
    const homecoming = homecomingOf(site, '', twin ?? '', () => undefined);
    const kept = needs.files.filter(({ use }) => use === 'mapped' || use === 'peer' || use === 'listener');
    return { verdicts: [...(await homecoming.verdicts(carried.largest)), comesHome(carried)], needed: kept };
  }
  const verdicts = needs.files.flatMap((file) => outside(file));
  let has = { files: 0, bytes: 0 };
  for (const file of carried.largest) {
    if (await hasOwn(file)) has = { files: has.files + 1, bytes: has.bytes + file.bytes };
  }
  verdicts.push(
    ok(
      'CARRIED_FILES',
      'files',
      `${carried.files} files (${mebibytes(carried.bytes)}) go with the process into a root of its own; ${site.node.name} has ${has.files} of them (${mebibytes(has.bytes)}) already`,
    ),
  );
  const { bavail, bsize } = statfsSync(site.carriedRoot.slice(0, site.carriedRoot.lastIndexOf('/')));
  if (carried.bytes > bavail * bsize) {
    verdicts.push(
      refused(
        'NO_ROOM',
        site.carriedRoot,
        `the files take ${mebibytes(carried.bytes)} there, and ${mebibytes(bavail * bsize)} are free`,
        'make room there, or set paths.state to a larger file system',
      ),
    );
  }
  if (carried.bytes > site.carry.maxBytes) {
    verdicts.push(
      refused(
        'CARRY_TOO_LARGE',
        'files',
        `${mebibytes(carried.bytes)} would come with the process, and this node takes ${mebibytes(site.carry.maxBytes)}`,
        'raise carry.maxBytes there',
      ),
    );
  }
  return { verdicts, needed: [] };
}

function comesHome({ files, bytes }: CarriedSummary): Verdict {
  return ok(
    'CARRIED_FILES',
    'files',
    `of its ${files} files (${mebibytes(bytes)}) those come home that it has changed`,
  );
}

/** What no root of its own can have: services of the machine, and devices. */
function outside({ path, use }: NeededFile): Verdict[] {
  if (use === 'peer') {
    return [
      refused(
        'NO_SERVICE',
        path,
        'the process sends to this unix socket, and in a root of its own there is no such service',
        'let the program close it (for /dev/log: log elsewhere), or move it with --files shared',
      ),
    ];
  }
  if (use === 'special' && path.startsWith('/dev/') && !DEVICE_PATHS.includes(path)) {
    return [refused('DEVICE', path, 'the process has it open, and no pod has it', 'let the program close it')];
  }
  return [];
}

function homecomingOf(
  site: Site,
  migration: string,
  twin: string,
  keep: (record: Homecoming['record']) => void,
): Homecoming {
  return new Homecoming({ migration, twin, original: site.journal.carried.get(twin), keep });
}

/** Destination: where the files of an arrival go. */
export function arrivingFiles(
  site: Site,
  { record, resident }: Arrival,
  keep: (change: Partial<ArrivalRecord>) => void,
): Arriving {
  const { migration, twin } = record.request;
  if (resident !== undefined) {
    return { target: new ArrivingRoot(resident.pod.init.pid), homecoming: undefined, complete: false };
  }
  const homecoming = homecomingOf(site, migration, twin, (changes) => keep({ homecoming: changes }));
  return { target: homecoming, homecoming, complete: false };
}

export async function takeOffer({ files, record }: Arrival, list: AsyncIterable<Buffer>): Promise<number[]> {
  if (files === undefined) throw malformed('none were announced');
  const entries = decodeJson(await readShort(list, MAX_MANIFEST_BYTES), offerSchema);
  const lacking = await files.target.offer(entries);
  await reached('destination', 'files-offered', record.request.migration);
  return lacking;
}

export async function takeParcel(
  { files, record }: Arrival,
  parcel: AsyncIterable<Buffer>,
  maxBytes: number,
): Promise<void> {
  if (files === undefined || files.complete) throw malformed('none were announced');
  const { final } = await decodeParcel(parcel, maxBytes, (announced) => files.target.begin(announced));
  files.complete = final;
  await reached('destination', final ? 'files-complete' : 'files-received', record.request.migration);
}

/** Destination: the images are here too; CRIU opens the files next. @throws {UserError} `CARRY_MALFORMED`, `SHM_TAKEN` */
export async function filesArrived(arrival: Arrival, keep: (change: Partial<ArrivalRecord>) => void): Promise<void> {
  const { files, record } = arrival;
  await makeObjects(arrival, keep);
  if (record.request.carry !== true) return;
  if (files?.complete !== true) throw malformed('the last of them did not come');
  files.homecoming?.exchange();
  await reached('destination', 'files-exchanged', record.request.migration);
}

/** The process runs here: takes CRIU out of its sight, and at home what its files have replaced. Idempotent. */
export function closeDoorOf(site: Site, { record, resident }: Arrival): void {
  if (resident?.pod.root !== undefined && podAlive(resident.pod)) closeDoor(resident.pod.init.pid);
  if (record.homecoming === undefined) return;
  settle(record.homecoming);
  const { migration } = record.request;
  for (const { path, kept, reason } of record.homecoming.conflicts) {
    site.report({ migration, path, kept }, `home's version of a carried file stays: ${reason}`);
  }
}

/** The process does not come: home's files, and what there is in /dev/shm, are what they were. Idempotent. */
export function putBack({ record }: Arrival): void {
  if (record.homecoming !== undefined) takeBack(record.homecoming);
  removeShared(record.sharedObjects);
}

function mebibytes(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
