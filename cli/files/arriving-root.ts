import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFifo } from '../../addon/lib/index.js';
import { fileHashes, keyOf } from '../process/file-hash.js';
import { inFolderOf, lookBeneath, withFolderOf } from './beneath.js';
import type { Entry, FileEntry, Parcel } from './manifest.js';
import { malformed, type TakeContent } from './parcel-stream.js';

const TEMPORARY = '.homeproxy-arriving';
const READABLE_BY_ALL = 0o004;

/** What a destination does with the files of a process that comes. */
export interface ArrivingFiles {
  /** @returns the places in the list of the files whose content must be sent. */
  offer(entries: readonly Entry[]): Promise<number[]>;
  /** Takes one parcel: what is in it without content at once, contents as they come. */
  begin(parcel: Parcel): Promise<TakeContent>;
}

/** The root of its own that a process gets on a host, while it is filled. */
export class ArrivingRoot implements ArrivingFiles {
  /** @param init of the pod, as this node sees it: its root is the one to fill, with what is mounted in it. */
  constructor(private readonly init: number) {}

  async offer(entries: readonly Entry[]): Promise<number[]> {
    return await this.open(async (root) => {
      const lacking: number[] = [];
      for (const [index, entry] of entries.entries()) {
        if (entry.kind !== 'file') make(root, entry);
        else if (!(await takeOwn(root, entry))) lacking.push(index);
      }
      return lacking;
    });
  }

  async begin({ entries, removed, final }: Parcel): Promise<TakeContent> {
    await this.open(async (root) => {
      for (const path of [...removed].sort().reverse()) remove(root, path);
      for (const entry of entries) if (entry.kind !== 'file') make(root, entry);
    });
    return async (index, content) => {
      const entry = entries[index];
      if (entry?.kind === 'file') await this.open((root) => receive(root, entry, content, final));
    };
  }

  private async open<Result>(act: (root: number) => Promise<Result>): Promise<Result> {
    const root = openSync(`/proc/${this.init}/root`, constants.O_DIRECTORY | constants.O_RDONLY);
    try {
      return await act(root);
    } finally {
      closeSync(root);
    }
  }
}

/** Whether this node has that very file, for everybody to read, at the same path. */
export async function hasOwn({ path, bytes, sha256 }: FileEntry): Promise<boolean> {
  try {
    const stats = statSync(path);
    if (!stats.isFile() || stats.size !== bytes || (stats.mode & READABLE_BY_ALL) === 0) return false;
    return (await fileHashes.sha256(path)) === sha256;
  } catch {
    return false;
  }
}

/** Copies this node's own file into a root, if it is the same. */
async function takeOwn(root: number, entry: FileEntry): Promise<boolean> {
  const before = stateOf(entry.path);
  if (before === undefined || !(await hasOwn(entry))) return false;
  return await withFolderOf(root, entry.path, async (folder, name) => {
    const temporary = join(folder, TEMPORARY);
    rmSync(temporary, { force: true });
    await copyFile(entry.path, temporary, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    if (stateOf(entry.path) !== before) {
      rmSync(temporary);
      return false; // it was changed while it was read
    }
    const fd = openSync(temporary, 'r+');
    try {
      dress(fd, entry);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, join(folder, name));
    return true;
  });
}

function stateOf(path: string): string | undefined {
  try {
    return keyOf(statSync(path, { bigint: true }));
  } catch {
    return undefined;
  }
}

/** @param strict the content must be what was announced; else one that changed meanwhile is left away, and comes again */
async function receive(root: number, entry: FileEntry, content: AsyncIterable<Buffer>, strict: boolean): Promise<void> {
  const fd = inFolderOf(root, entry.path, (folder) => {
    rmSync(join(folder, TEMPORARY), { force: true });
    return openSync(join(folder, TEMPORARY), 'wx', 0o600);
  });
  let whole: boolean;
  try {
    whole = await writeHashed(fd, content, entry.sha256);
    if (strict && !whole) throw malformed(`${entry.path} has another content`);
    dress(fd, entry);
  } finally {
    closeSync(fd);
  }
  inFolderOf(root, entry.path, (folder, name) => {
    if (whole) renameSync(join(folder, TEMPORARY), join(folder, name));
    else rmSync(join(folder, TEMPORARY));
  });
}

/** Writes a content. @returns whether its SHA-256 is the one that was announced. */
export async function writeHashed(fd: number, content: AsyncIterable<Buffer>, sha256: string): Promise<boolean> {
  const hash = createHash('sha256');
  for await (const chunk of content) {
    hash.update(chunk);
    for (let done = 0; done < chunk.length; ) done += writeSync(fd, chunk, done);
  }
  return hash.digest('hex') === sha256;
}

/** The owner first: a change of it takes set-user-id away (chown(2)). */
export function dress(fd: number, { uid, gid, mode, modifiedAt }: FileEntry): void {
  fchownSync(fd, uid, gid);
  fchmodSync(fd, mode);
  futimesSync(fd, modifiedAt / 1000, modifiedAt / 1000);
}

/** Makes what has no content. What is there already, of the same kind, gets its owner and mode. */
function make(root: number, entry: Exclude<Entry, FileEntry>): void {
  const there = lookBeneath(root, entry.path);
  if (entry.kind === 'folder') {
    if (there?.isDirectory() !== true) {
      if (there !== undefined) remove(root, entry.path);
      inFolderOf(root, entry.path, (folder, name) => mkdirSync(join(folder, name), { mode: 0o700 }));
    }
    inFolderOf(root, entry.path, (folder, name) => {
      chownSync(join(folder, name), entry.uid, entry.gid);
      chmodSync(join(folder, name), entry.mode);
    });
    return;
  }
  if (there !== undefined) remove(root, entry.path);
  if (entry.kind === 'link') {
    inFolderOf(root, entry.path, (folder, name) => symlinkSync(entry.target, join(folder, name)));
    return;
  }
  inFolderOf(root, entry.path, (folder, name) => {
    const path = join(folder, name);
    makeFifo(path);
    lchownSync(path, entry.uid, entry.gid);
    chmodSync(path, entry.mode);
  });
}

function remove(root: number, path: string): void {
  const there = lookBeneath(root, path);
  if (there === undefined) return;
  inFolderOf(root, path, (folder, name) => {
    const at = join(folder, name);
    if (lstatSync(at).isDirectory()) rmSync(at, { recursive: true, force: true });
    else rmSync(at, { force: true });
  });
}
