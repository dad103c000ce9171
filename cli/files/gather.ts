import { type BigIntStats, lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { UserError } from '../errors.js';
import { FileHashes, fileHashes, keyOf } from '../process/file-hash.js';
import { readMappedFiles } from '../process/memory-map.js';
import { opensForWriting } from '../process/open-mode.js';
import { readDescriptors, readLink } from '../system/procfs.js';
import { readUnixSockets } from '../system/unix-diag.js';
import { foldersAbove, isBelow, mayTravel } from './carried-path.js';
import { type Entry, MAX_ENTRIES } from './manifest.js';

/** Folders whose names lead elsewhere on systems with a merged /usr: programs name their loader by one of them. */
const MERGED = ['/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32'];
/** Where programs name their loader. */
const LOADERS = ['/lib64', '/lib'];
/** Working directories that hold much that is not the process's: they travel without what is in them. */
const OTHERS_TOO = /^\/([^/]*|usr(\/.*)?|(home|var|run|mnt|media)\/[^/]+)$/;

/** A file that was found, and not read yet. */
export interface Found {
  readonly entry: Entry;
  /** Where it can be read here. */
  readonly source: string;
  /** Of a file: names the state in which it was found. */
  readonly state: string;
  /** Its content may change without a sign: somebody writes it through a mapping, or wrote it a moment ago. */
  readonly silent: boolean;
}

export interface GatherOptions {
  /** The tree as this node numbers it, its root first. */
  readonly pids: readonly number[];
  /** Folders and files that travel besides; those that do not exist are passed over. */
  readonly paths: readonly string[];
  /** The process has a root of its own: all of it travels. */
  readonly ownRoot: boolean;
}

/** Paths that the process has open or in its memory, and how. */
interface Held {
  readonly path: string;
  readonly written: boolean;
  readonly mapped: boolean;
}

/**
 * Finds every file that travels with a process, without reading any: what it runs, has mapped or open, its working directories,
 * the configured paths, and the folders above all of them.
 * @throws {UserError} `CARRY_TOO_MANY`
 */
export function gatherFiles(options: GatherOptions): Map<string, Found> {
  const base = `/proc/${options.pids[0]}/root`;
  const found = new Finder(base);
  const held = options.pids.flatMap((pid) => heldBy(pid));
  for (const one of held) found.hold(one);
  if (options.ownRoot) found.tree('/');
  else {
    for (const path of MERGED) found.link(path);
    for (const one of held) found.add(one.path);
    for (const path of options.pids.flatMap(placesOf)) found.add(path);
    for (const path of options.pids.flatMap(standing)) {
      if (OTHERS_TOO.test(path)) found.add(path);
      else found.tree(path);
    }
    for (const path of options.paths) found.named(path);
  }
  return found.entries;
}

/** Reads and hashes what was found. Of a file that changes meanwhile the hash fits none of its states; that will be seen later. */
export async function hashFound(found: Found): Promise<Entry> {
  const { entry, source, silent } = found;
  if (entry.kind !== 'file') return entry;
  const hashes = silent ? new FileHashes() : fileHashes;
  return { ...entry, sha256: await hashes.sha256(source).catch(() => entry.sha256) };
}

const SETTLED_MS = 2000;
const UNREAD = '0'.repeat(64);

class Finder {
  readonly entries = new Map<string, Found>();
  private readonly held = new Map<string, { written: boolean; silent: boolean }>();

  constructor(private readonly base: string) {}

  hold({ path, written, mapped }: Held): void {
    const known = this.held.get(path);
    this.held.set(path, {
      written: written || known?.written === true,
      silent: (written && mapped) || known?.silent === true,
    });
  }

  /** A file or folder by its true path, with the folders above it. */
  add(path: string): void {
    if (!mayTravel(path) || this.entries.has(path)) return;
    const stats = this.look(path);
    if (stats === undefined) return;
    for (const folder of foldersAbove(path)) this.put(folder, this.look(folder));
    this.put(path, stats);
    if (stats.isFile()) this.otherNames(path);
  }

  /** A folder with all that is in it; other file systems that are mounted there too. */
  tree(path: string): void {
    this.add(path);
    if (path !== '/' && this.entries.get(path)?.entry.kind !== 'folder') return;
    for (const name of this.list(path)) {
      const below = join(path, name);
      if (!mayTravel(below)) continue;
      const stats = this.look(below);
      if (stats?.isDirectory() === true) this.tree(below);
      else this.put(below, stats);
    }
  }

  /** A path as a person writes it: links on the way travel, and what they lead to. */
  named(path: string, depth = 0): void {
    let at = '';
    for (const part of path.split('/').slice(1)) {
      at = `${at}/${part}`;
      const stats = this.look(at);
      if (stats === undefined) return;
      if (!stats.isSymbolicLink()) continue;
      if (!mayTravel(at) || depth > 40) return; // MAXSYMLINKS
      const target = readlinkSync(join(this.base, at));
      this.add(at);
      const onward = target.startsWith('/') ? target : join(dirname(at), target);
      this.named(join(onward, path.slice(at.length)), depth + 1);
      return;
    }
    this.tree(path);
  }

  link(path: string): void {
    if (this.look(path)?.isSymbolicLink() === true) this.add(path);
  }

  /** A library is loaded by another name than its file's: links beside it that lead to it. */
  private otherNames(path: string): void {
    if (/^ld-linux|^ld64/.test(basename(path))) {
      for (const folder of LOADERS) this.named(`${folder}/${basename(path)}`);
    }
    const stem = /^(lib[^.]+)\./.exec(basename(path))?.[1];
    if (stem === undefined) return;
    const folder = dirname(path);
    for (const name of this.list(folder)) {
      const other = join(folder, name);
      if (!name.startsWith(stem) || this.entries.has(other)) continue;
      const stats = this.look(other);
      if (stats?.isSymbolicLink() === true && readlinkSync(join(this.base, other)) === basename(path)) {
        this.put(other, stats);
      }
    }
  }

  private put(path: string, stats: BigIntStats | undefined): void {
    const entry = stats === undefined ? undefined : this.entryOf(path, stats);
    if (entry === undefined || stats === undefined || this.entries.has(path)) return;
    if (this.entries.size >= MAX_ENTRIES) throw tooMany();
    const young = Date.now() - Number(stats.ctimeMs) < SETTLED_MS; // it may change again within the same tick of the clock
    const silent = young || this.held.get(path)?.silent === true;
    this.entries.set(path, { entry, source: join(this.base, path), state: keyOf(stats), silent });
  }

  private entryOf(path: string, stats: BigIntStats): Entry | undefined {
    const owner = { uid: Number(stats.uid), gid: Number(stats.gid), mode: Number(stats.mode & 0o7777n) };
    if (stats.isDirectory()) return { kind: 'folder', path, ...owner };
    if (stats.isFIFO()) return { kind: 'fifo', path, ...owner };
    if (stats.isSymbolicLink()) return { kind: 'link', path, target: readlinkSync(join(this.base, path)) };
    if (!stats.isFile()) return undefined; // sockets are bound again, devices stay
    const held = this.held.get(path);
    return {
      kind: 'file',
      path,
      ...owner,
      bytes: Number(stats.size),
      modifiedAt: Number(stats.mtimeNs) / 1e6,
      sha256: UNREAD,
      held: held !== undefined,
      written: held?.written === true,
    };
  }

  private look(path: string): BigIntStats | undefined {
    try {
      return lstatSync(join(this.base, path), { bigint: true });
    } catch {
      return undefined; // gone meanwhile
    }
  }

  private list(path: string): string[] {
    try {
      return readdirSync(join(this.base, path)).sort();
    } catch {
      return [];
    }
  }
}

/** What a process runs, has in its memory and has open: true paths, of what still has a name. */
function heldBy(pid: number): Held[] {
  const held: Held[] = [];
  const { files } = readMappedFiles([pid]);
  for (const { path, deleted, written } of files) if (!deleted) held.push({ path, written, mapped: true });
  for (const { fd, target } of readDescriptors(pid)) {
    if (!target.startsWith('/') || target.endsWith(' (deleted)')) continue;
    held.push({ path: target, written: opensForWriting(pid, fd), mapped: false });
  }
  const executable = readLink(`/proc/${pid}/exe`);
  if (executable !== undefined) held.push({ path: executable, written: false, mapped: true });
  return held.filter(({ path }) => mayTravel(path));
}

/** Folders in which something is made again for a moment, or for good: deleted files that are in use, and unix sockets. */
function placesOf(pid: number): string[] {
  const targets = readDescriptors(pid).map(({ target }) => target);
  const { files } = readMappedFiles([pid]);
  const deleted = [
    ...targets.filter((target) => target.startsWith('/') && target.endsWith(' (deleted)')),
    ...files.filter((file) => file.deleted).map(({ path }) => path),
  ];
  const sockets = new Set(targets);
  const bound = readUnixSockets(pid).filter(
    ({ inode, name }) => name?.startsWith('/') && sockets.has(`socket:[${inode}]`),
  );
  return [...deleted, ...bound.map(({ name }) => name ?? '/')].map(dirname);
}

/** Working directories of a process. */
function standing(pid: number): string[] {
  const path = readLink(`/proc/${pid}/cwd`);
  return path === undefined || path.endsWith(' (deleted)') || !isBelow(path, '/') ? [] : [path];
}

function tooMany(): UserError {
  return new UserError({
    code: 'CARRY_TOO_MANY',
    message: `more than ${MAX_ENTRIES} files would travel with the process`,
    remedy: 'name fewer folders in carry.paths and --carry, or start the process in a smaller working directory',
  });
}
