/*
 * POSIX shared memory of a tree (objects in /dev/shm) travels among CRIU's images, which CRIU does not look at:
 * `shared-memory-<n>` has what is stored of the n-th object, one piece after the other, and `shared-memory.json` says where.
 */
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  openSync,
  read,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { BugError, UserError } from '../errors.js';
import { OWN_NAME } from '../files/carried-path.js';
import type { ProcessDescription, Verdict } from '../process/description.js';
import type { Needs } from '../process/needs.js';
import {
  type FileIdentity,
  inSharedMemory,
  LINK_REMAP,
  namesOf,
  SHARED_MEMORY,
  type SharedObject,
  sharedObjects,
} from '../process/shared-memory.js';
import type { Holder } from '../process/sockets.js';
import { refused } from '../process/verdicts.js';
import type { Arrival } from './arrival.js';
import type { ArrivalRecord, DepartureRecord } from './records.js';

const LIST = 'shared-memory.json';
const contentOf = (index: number): string => `shared-memory-${index}`;
/** What of it is not in its memory is copied in the freeze besides, so much at most. In bytes. */
const MAX_UNSEEN_BYTES = 128 << 20;
const CHUNK_BYTES = 1 << 20;
/** Pieces of zeros of this size are left away: objects are often larger than what is used of them. In bytes. */
const PIECE_BYTES = 64 << 10;
const readAt = promisify(read);
const ZEROS = Buffer.alloc(PIECE_BYTES);

const nameSchema = z
  .string()
  .regex(/^[^/\0]{1,255}$/)
  .refine((name) => name !== '.' && name !== '..' && !OWN_NAME.test(name));
const objectSchema = z.object({
  names: z.array(nameSchema).min(1).max(64),
  mode: z.number().int().min(0).max(0o777),
  uid: z.number().int().nonnegative(),
  gid: z.number().int().nonnegative(),
  bytes: z.number().int().nonnegative(),
  /** Offset and length of each piece, in bytes. */
  pieces: z.array(z.tuple([z.number().int().nonnegative(), z.number().int().positive().max(CHUNK_BYTES)])),
});
type Travelling = z.infer<typeof objectSchema>;

/** Those of a departure that were copied, for {@link listObjects}. */
export interface CopiedObjects {
  readonly objects: readonly SharedObject[];
  readonly list: readonly Omit<Travelling, 'names'>[];
}

/** Copies the objects in /dev/shm of a tree, which stands still, beside its images. @param sockets of the tree */
export async function copyObjects(
  { localPids, images }: DepartureRecord,
  inPod: boolean,
  sockets: readonly Holder[],
): Promise<CopiedObjects> {
  const objects = sharedObjects(localPids, inPod, sockets);
  const list = await Promise.all(
    objects.map((object, index) => copyOut(localPids[0], object, join(images, contentOf(index)))),
  );
  return { objects, list };
}

async function copyOut(
  pid: number | undefined,
  object: SharedObject,
  path: string,
): Promise<Omit<Travelling, 'names'>> {
  const source = openObject(pid, object);
  const target = await open(path, 'wx', 0o600);
  try {
    const { mode, uid, gid, size } = fstatSync(source);
    const pieces: [number, number][] = [];
    const chunk = Buffer.alloc(Math.min(CHUNK_BYTES, size));
    for (let at = 0; at < size; ) {
      const { bytesRead } = await readAt(source, chunk, 0, chunk.length, at);
      if (bytesRead === 0) break;
      for (const [offset, length] of inUse(chunk.subarray(0, bytesRead))) {
        await writeAll(target, chunk.subarray(offset, offset + length), null);
        pieces.push([at + offset, length]);
      }
      at += bytesRead;
    }
    return { mode: mode & 0o777, uid, gid, bytes: size, pieces };
  } finally {
    closeSync(source);
    await target.close();
  }
}

/** One that nobody has open is opened by its name, and is that very file. */
function openObject(pid: number | undefined, { entry, names, dev, ino }: SharedObject): number {
  if (entry !== undefined) return openSync(entry, 'r');
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const fd = inSharedMemory(pid, (folder) => openSync(join(folder, names[0] ?? ''), flags));
  const stats = fd === undefined ? undefined : fstatSync(fd);
  if (fd !== undefined && stats?.dev === dev && stats.ino === ino) return fd;
  throw new BugError(`the object ${names[0]} changed while its process stood still`);
}

/** Offset and length of what is not zeros. */
function inUse(chunk: Buffer): [number, number][] {
  const stretches: [number, number][] = [];
  for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
    const piece = chunk.subarray(at, at + PIECE_BYTES);
    if (piece.equals(ZEROS.subarray(0, piece.length))) continue;
    const last = stretches.at(-1);
    if (last !== undefined && last[0] + last[1] === at) last[1] += piece.length;
    else stretches.push([at, piece.length]);
  }
  return stretches;
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number | null): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const at = position === null ? null : position + done;
    done += (await file.write(bytes, done, bytes.length - done, at)).bytesWritten;
  }
}

/** When the dump is over: says which they are, with the names that CRIU has given some for the restore. @returns them, to remove later */
export function listObjects(
  { localPids, images }: Pick<DepartureRecord, 'localPids' | 'images'>,
  { objects, list }: CopiedObjects,
): readonly FileIdentity[] {
  if (objects.length === 0) return [];
  const names = inSharedMemory(localPids[0], (folder) => objects.map((object) => namesOf(folder, object))) ?? [];
  const named = list.map((copied, index) => ({ ...copied, names: names[index] }));
  writeFileSync(join(images, LIST), JSON.stringify(named), { mode: 0o600 });
  return objects.map(({ dev, ino }) => ({ dev, ino }));
}

/** Whether CRIU must give names to some of them. */
export function needsNames(localPids: readonly number[]): boolean {
  return sharedObjects(localPids).some(({ nameLost }) => nameLost);
}

/** The process runs on where it was: takes away the names that a CRIU which was killed has left. Idempotent. */
export function dropNames(localPids: readonly number[]): void {
  const names = sharedObjects(localPids).flatMap((object) => object.names.filter((name) => LINK_REMAP.test(name)));
  inSharedMemory(localPids[0], (folder) => {
    for (const name of names) rmSync(join(folder, name), { force: true });
  });
}

/** Removes objects at home that are nobody's any more, under whatever names; what somebody has put in their place stays. Idempotent. */
export function removeShared(objects: readonly FileIdentity[] = []): void {
  if (objects.length === 0) return;
  inSharedMemory(process.pid, (folder) => {
    for (const name of objects.flatMap((object) => namesOf(folder, object))) rmSync(join(folder, name));
  });
}

/**
 * Makes the objects that came with images, before CRIU opens them.
 * @param keep writes down what is about to get its names at home, for {@link removeShared}
 * @throws {UserError} `SHM_TAKEN`
 */
export async function makeObjects(
  { record, resident }: Arrival,
  keep: (change: Partial<ArrivalRecord>) => void,
): Promise<void> {
  const { images, request } = record;
  if (!existsSync(join(images, LIST))) return;
  const list = z.array(objectSchema).parse(JSON.parse(readFileSync(join(images, LIST), 'utf8')));
  const init = resident?.pod.init.pid;
  const folder = init === undefined ? SHARED_MEMORY : `/proc/${init}/root${SHARED_MEMORY}`; // nobody has been in it yet
  const made: FileIdentity[] = [];
  for (const [index, object] of list.entries()) {
    const path = join(folder, `.homeproxy-${request.migration}-${index}`);
    made.push(await copyIn(join(images, contentOf(index)), path, object));
    if (resident === undefined) keep({ sharedObjects: [...made] });
    try {
      for (const name of object.names) giveName(path, folder, name);
    } finally {
      rmSync(path);
    }
  }
}

async function copyIn(content: string, path: string, object: Travelling): Promise<FileIdentity> {
  const { bytes, mode, uid, gid, pieces } = object;
  const source = await open(content, 'r');
  const target = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    ftruncateSync(target.fd, bytes);
    const chunk = Buffer.alloc(CHUNK_BYTES);
    let from = 0;
    for (const [offset, length] of pieces) {
      const { bytesRead } = await source.read(chunk, 0, length, from);
      if (bytesRead !== length || offset + length > bytes) throw cutShort();
      await writeAll(target, chunk.subarray(0, length), offset);
      from += length;
    }
    fchownSync(target.fd, uid, gid);
    fchmodSync(target.fd, mode);
    const { dev, ino } = fstatSync(target.fd);
    return { dev, ino };
  } finally {
    await Promise.all([source.close(), target.close()]);
  }
}

function giveName(path: string, folder: string, name: string): void {
  try {
    linkSync(path, join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw new UserError({ code: 'SHM_TAKEN', message: `${join(SHARED_MEMORY, name)}: ${TAKEN}`, remedy: REMEDY });
  }
}

/** What the destination says of them. */
export function objectVerdicts(
  { sharedMemory }: Needs,
  { residentBytes }: ProcessDescription,
  returning: boolean,
): Verdict[] {
  const bytes = sharedMemory.reduce((sum, object) => sum + object.bytes, 0);
  const verdicts: Verdict[] = [];
  if (bytes > residentBytes + MAX_UNSEEN_BYTES) {
    verdicts.push(
      refused(
        'SHM_LARGE',
        SHARED_MEMORY,
        `it uses ${Math.ceil(bytes / 2 ** 20)} MiB there, much more than it has in its memory, and all of it is copied while it stands still`,
        'let the program use less',
      ),
    );
  }
  if (!returning) return verdicts;
  const taken = sharedMemory.flatMap(({ names }) => names).filter((name) => existsSync(join(SHARED_MEMORY, name)));
  return [...verdicts, ...taken.map((name) => refused('SHM_TAKEN', join(SHARED_MEMORY, name), TAKEN, REMEDY))];
}

const TAKEN = 'an object of this name was made at home meanwhile, and the process has one of its own';
const REMEDY = 'let the program that made it remove it, or remove it there when nobody uses it';

function cutShort(): UserError {
  return new UserError({
    code: 'IMAGES_MALFORMED',
    message: 'the shared memory that arrived is not what was announced',
    remedy: "look at the source node's log; versions of homeproxy that differ can cause this",
    exitStatus: 4,
  });
}
