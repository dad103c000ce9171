/*
 * The files of a process that comes home. Until it is decided that it does, nothing of home's own changes for good: what comes
 * waits beside its place under a name of ours, takes its place by a rename when the process stands still, and gives it back by
 * another if the migration is rolled back.
 */
import {
  chmodSync,
  closeSync,
  constants,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../errors.js';
import type { Verdict } from '../process/description.js';
import { fileHashes } from '../process/file-hash.js';
import { refused, willChange } from '../process/verdicts.js';
import { dress, writeHashed } from './arriving-root.js';
import { inFolderOf, lookBeneath } from './beneath.js';
import { type Entry, type FileEntry, type Parcel, sameEntry } from './manifest.js';
import { malformed, type TakeContent } from './parcel-stream.js';
import { mayWrite, type Rights } from './rights.js';

/** What this node keeps of a process that has left with its files. */
export interface CarriedRecord {
  /** The files as they left. */
  readonly entries: readonly Entry[];
  /** What it may write here. */
  readonly rights: Rights;
}

/** One change of home's files, for the journal: enough to finish it or to take it back after a crash. */
export interface Change {
  readonly kind: 'file' | 'folder' | 'link' | 'gone';
  readonly path: string;
  /** Plain names, in the folder of the path: what comes, and what was there before. */
  readonly staged: string;
  readonly backup: string;
  /** Inode of what comes; 0 when nothing does. */
  readonly inode: number;
}

/** A file that both sides changed, or that the process might not have written here: both are kept. */
export interface Conflict {
  readonly path: string;
  /** Where the process's version is now; undefined: nowhere, since it could not have been put there. */
  readonly kept?: string | undefined;
  readonly reason: string;
}

export interface HomecomingRecord {
  readonly changes: readonly Change[];
  readonly conflicts: readonly Conflict[];
}

export interface HomecomingOptions {
  readonly migration: string;
  readonly twin: string;
  readonly original: CarriedRecord | undefined;
  /** The root of this node's file system; another one in tests. */
  readonly root?: string;
  /** Makes a state of the work durable before it is done. */
  readonly keep: (record: HomecomingRecord) => void;
}

type Plan = 'same' | 'write' | { readonly aside: string; readonly path: string };

/** What comes home with a process. */
export class Homecoming {
  private readonly changes = new Map<string, Change>();
  private readonly conflicts = new Map<string, Conflict>();
  private readonly announced = new Map<string, Entry>();
  private readonly original: ReadonlyMap<string, Entry>;
  private number = 0;

  constructor(private readonly options: HomecomingOptions) {
    this.original = new Map(options.original?.entries.map((entry) => [entry.path, entry]));
  }

  get record(): HomecomingRecord {
    return { changes: [...this.changes.values()], conflicts: [...this.conflicts.values()] };
  }

  /** @throws {UserError} `FILE_CONFLICT` */
  async offer(entries: readonly Entry[]): Promise<number[]> {
    const lacking: number[] = [];
    for (const [index, entry] of entries.entries()) {
      this.announced.set(entry.path, entry);
      if (entry.kind === 'file' && (await this.planFor(entry)) !== 'same') lacking.push(index);
    }
    return lacking;
  }

  async begin({ entries, removed, final }: Parcel): Promise<TakeContent> {
    for (const path of removed) this.announced.delete(path);
    for (const entry of entries) this.announced.set(entry.path, entry);
    return async (index, content) => {
      const entry = entries[index];
      if (entry?.kind !== 'file') return;
      this.forget(entry.path);
      const plan = await this.planFor(entry);
      if (plan === 'same') for await (const _ of content);
      else await this.stage(entry, content, final, plan);
    };
  }

  /** What would become of files that come, without doing it. */
  async verdicts(files: readonly FileEntry[]): Promise<Verdict[]> {
    const verdicts: Verdict[] = [];
    for (const file of files) {
      try {
        const plan = await this.planFor(file);
        if (typeof plan === 'object') {
          verdicts.push(willChange('FILE_CONFLICT', file.path, `${plan.aside}: its version is put beside it`));
        }
        const lost = this.conflicts.get(file.path);
        if (lost !== undefined) verdicts.push(willChange('FILE_CONFLICT', file.path, `${lost.reason}: home's stays`));
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        verdicts.push(refused(error.code, file.path, error.message, error.remedy ?? ''));
      }
    }
    return verdicts;
  }

  /** What home's file and the process's file are to each other. @throws {UserError} `FILE_CONFLICT` */
  private async planFor(entry: FileEntry): Promise<Plan> {
    const left = this.original.get(entry.path);
    const here = await this.contentHere(entry.path);
    if (here === entry.sha256) return 'same';
    if (left?.kind === 'file' && left.sha256 === entry.sha256) {
      if (entry.held) throw conflict(entry.path, 'it was changed at home, and the process still uses it as it was');
      return 'same'; // it did not change there: home's own version stays
    }
    const untouched = here === undefined ? left === undefined : left?.kind === 'file' && left.sha256 === here;
    const gone = here === undefined && left !== undefined;
    const allowed = this.allowed(entry.path, left);
    if (allowed && (untouched || gone)) return 'write';
    const reason = allowed ? 'it was changed at home too' : 'the process may not write it here';
    if (entry.held) throw conflict(entry.path, reason);
    const beside = `${entry.path}.${this.options.twin}`;
    if (allowed && this.allowed(beside, undefined)) return { aside: reason, path: beside };
    this.conflicts.set(entry.path, { path: entry.path, kept: undefined, reason });
    return 'same'; // nothing is put where the process itself could put nothing
  }

  private allowed(path: string, left: Entry | undefined): boolean {
    const rights = this.options.original?.rights;
    if (rights === undefined) return false;
    if (left?.kind === 'file' && left.written) return true;
    return this.inRoot((root) => mayWrite(root, path, rights));
  }

  private async contentHere(path: string): Promise<string | undefined> {
    const stats = this.inRoot((root) => lookBeneath(root, path));
    if (stats === undefined) return undefined;
    if (!stats.isFile()) return 'no regular file';
    return await fileHashes.sha256(join(this.options.root ?? '/', path));
  }

  private async stage(entry: FileEntry, content: AsyncIterable<Buffer>, strict: boolean, plan: Plan): Promise<void> {
    const path = typeof plan === 'object' ? plan.path : entry.path;
    this.makeFoldersFor(path);
    const change = this.newChange('file', path);
    this.changes.set(entry.path, change);
    this.keep(); // before it is there: a crash leaves nothing that nobody knows
    const fd = this.inRoot((root) =>
      inFolderOf(root, path, (folder) => openSync(join(folder, change.staged), 'wx', 0o600)),
    );
    try {
      const inode = this.inRoot((root) =>
        inFolderOf(root, path, (folder) => lstatSync(join(folder, change.staged)).ino),
      );
      this.changes.set(entry.path, { ...change, inode });
      const whole = await writeHashed(fd, content, entry.sha256);
      if (strict && !whole) throw malformed(`${entry.path} has another content`);
      dress(fd, this.asTheProcess(entry));
      if (!whole) this.forget(entry.path);
      else if (typeof plan === 'object') {
        this.conflicts.set(entry.path, { path: entry.path, kept: path, reason: plan.aside });
      }
    } finally {
      closeSync(fd);
    }
  }

  /** Who could not make a file of another user, or one that gives its rights away, does not do so by moving. */
  private asTheProcess(entry: FileEntry): FileEntry {
    const rights = this.options.original?.rights;
    const left = this.original.get(entry.path);
    if (rights === undefined || rights.uids.includes(0)) return entry;
    if (left?.kind === 'file') return { ...entry, uid: left.uid, gid: left.gid, mode: left.mode };
    const uid = rights.uids.includes(entry.uid) ? entry.uid : (rights.uids[0] ?? 0xffff);
    const gid = rights.gids.includes(entry.gid) ? entry.gid : (rights.gids[0] ?? 0xffff);
    return { ...entry, uid, gid, mode: entry.mode & 0o777 };
  }

  /** Puts everything in its place. From here {@link takeBack} or {@link settle} must follow, whatever becomes of this daemon. */
  exchange(): void {
    this.planRest();
    this.keep();
    for (const change of this.changes.values()) this.inRoot((root) => perform(root, change));
  }

  /** Links and folders that are new, and what the process has removed. */
  private planRest(): void {
    for (const entry of this.announced.values()) {
      if (entry.kind === 'file' || sameEntry(this.original.get(entry.path), entry)) continue;
      const here = this.inRoot((root) => lookBeneath(root, entry.path));
      if (here !== undefined || !this.allowed(entry.path, undefined)) continue;
      if (entry.kind === 'folder') this.makeFoldersFor(`${entry.path}/x`);
      else if (entry.kind === 'link') {
        this.makeFoldersFor(entry.path);
        const change = this.newChange('link', entry.path);
        this.inRoot((root) =>
          inFolderOf(root, entry.path, (folder) => symlinkSync(entry.target, join(folder, change.staged))),
        );
        const inode = this.inRoot((root) =>
          inFolderOf(root, entry.path, (folder) => lstatSync(join(folder, change.staged)).ino),
        );
        this.changes.set(entry.path, { ...change, inode });
      }
    }
    for (const entry of this.original.values()) {
      if (entry.kind !== 'file' || this.announced.has(entry.path) || !this.allowed(entry.path, entry)) continue;
      const here = this.inRoot((root) => lookBeneath(root, entry.path));
      if (
        here?.isFile() !== true ||
        here.size !== entry.bytes ||
        Math.abs(here.mtimeMs - entry.modifiedAt) > SAME_TIME_MS
      )
        continue; // it changed here
      this.changes.set(entry.path, this.newChange('gone', entry.path));
    }
  }

  private makeFoldersFor(path: string): void {
    const parts = path.split('/').slice(1, -1);
    for (let depth = 1; depth <= parts.length; depth++) {
      const folder = `/${parts.slice(0, depth).join('/')}`;
      if (this.inRoot((root) => lookBeneath(root, folder)) !== undefined) continue;
      const change = { ...this.newChange('folder', folder), inode: 1 };
      this.changes.set(folder, change);
      this.keep();
      const entry = this.announced.get(folder);
      this.inRoot((root) =>
        inFolderOf(root, folder, (at, name) => {
          mkdirSync(join(at, name), { mode: 0o700 });
          if (entry?.kind !== 'folder') return;
          const { uid, gid, mode } = this.asTheProcess({ ...UNNAMED, ...entry, kind: 'file' });
          lchownSync(join(at, name), uid, gid);
          chmodSync(join(at, name), mode);
        }),
      );
    }
  }

  private newChange(kind: Change['kind'], path: string): Change {
    const name = `.homeproxy-${this.options.migration}-${this.number++}`;
    return { kind, path, staged: name, backup: `${name}.before`, inode: 0 };
  }

  /** Drops what was staged for a path: it comes again, or not at all. */
  private forget(path: string): void {
    const change = this.changes.get(path);
    if (change === undefined) return;
    this.inRoot((root) => undo(root, change));
    this.changes.delete(path);
    this.conflicts.delete(path);
  }

  private keep(): void {
    this.options.keep(this.record);
  }

  private inRoot<Result>(act: (root: number) => Result): Result {
    return inRootOf(this.options.root, act);
  }
}

/** Times in milliseconds as fractions lose some nanoseconds. */
const SAME_TIME_MS = 0.01;
const UNNAMED = { bytes: 0, modifiedAt: 0, sha256: '', held: false, written: false };

/** The process is at home: what was there before goes. Idempotent. */
export function settle({ changes }: HomecomingRecord, root?: string): void {
  for (const { path, backup, staged } of changes) {
    ignoringAbsence(() =>
      inRootOf(root, (at) =>
        inFolderOf(at, path, (folder) => {
          rmSync(join(folder, backup), { force: true });
          rmSync(join(folder, staged), { force: true });
        }),
      ),
    );
  }
}

/** The process stays where it was: home's files are again what they were, the very same ones. Idempotent. */
export function takeBack({ changes }: HomecomingRecord, root?: string): void {
  for (const change of [...changes].reverse()) ignoringAbsence(() => inRootOf(root, (at) => undo(at, change)));
}

function perform(root: number, { kind, path, staged, backup }: Change): void {
  if (kind === 'folder') return; // made already: what comes stands in it
  inFolderOf(root, path, (folder, name) => {
    const target = join(folder, name);
    const there = lookBeneath(root, path) !== undefined;
    if (kind === 'gone') renameSync(target, join(folder, backup));
    else {
      if (there) linkSync(target, join(folder, backup));
      renameSync(join(folder, staged), target);
    }
  });
}

function undo(root: number, { kind, path, staged, backup, inode }: Change): void {
  inFolderOf(root, path, (folder, name) => {
    const at = (plain: string): string => join(folder, plain);
    if (kind === 'folder') {
      try {
        rmdirSync(at(name));
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'ENOTEMPTY' && code !== 'ENOENT') throw error; // somebody uses it already
      }
      return;
    }
    const inodeOf = (plain: string): number | undefined => lstatSync(at(plain), { throwIfNoEntry: false })?.ino;
    if (inodeOf(backup) !== undefined) {
      const ours = kind === 'gone' ? inodeOf(name) === undefined : [inode, inodeOf(backup)].includes(inodeOf(name));
      if (ours) renameSync(at(backup), at(name)); // of two names of one file it removes none (rename(2))
      rmSync(at(backup), { force: true });
    } else if (inode !== 0 && inodeOf(name) === inode) rmSync(at(name));
    rmSync(at(staged), { force: true });
  });
}

function inRootOf<Result>(path: string | undefined, act: (root: number) => Result): Result {
  const root = openSync(path ?? '/', constants.O_DIRECTORY | constants.O_RDONLY);
  try {
    return act(root);
  } finally {
    closeSync(root);
  }
}

function ignoringAbsence(act: () => void): void {
  try {
    act();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error; // its folder went meanwhile
  }
}

function conflict(path: string, reason: string): UserError {
  return new UserError({
    code: 'FILE_CONFLICT',
    message: `${path} cannot come home: ${reason}`,
    remedy: 'move the version of home to another name, and try again',
  });
}
