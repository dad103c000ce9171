import { accessSync, constants, existsSync, type Stats, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Verdict } from '../process/description.js';
import { fileHashes } from '../process/file-hash.js';
import { type NeededFile, SETTLED_MS } from '../process/needs.js';
import { ok, refused, willChange } from '../process/verdicts.js';
import type { UnixSocket } from '../system/unix-diag.js';

const INSTALL = 'install the same package there, at the same path';
const PERMISSIONS = 0o7777;

/** What this node lacks of the paths that a process needs, or has in another form. @param sockets of this node */
export async function fileVerdicts(files: readonly NeededFile[], sockets: readonly UnixSocket[]): Promise<Verdict[]> {
  const bound = new Set(sockets.map(({ name }) => name));
  const found = (await Promise.all(files.map((file) => fileVerdict(file, bound)))).flat();
  const verdicts = found.filter((one) => typeof one !== 'string');
  const uncompared = found.filter((one) => typeof one === 'string');
  if (uncompared.length > 0) verdicts.push(bySize(uncompared));
  const hashed = files.filter(({ path, sha256 }) => sha256 !== undefined && !uncompared.includes(path)).length;
  if (hashed > 0 && !verdicts.some(({ outcome, code }) => outcome === 'refused' && code.startsWith('FILE_'))) {
    verdicts.push(
      ok(
        'SAME_FILES',
        'files',
        `${hashed} files that it has mapped or open are the same here, byte for byte (SHA-256)`,
      ),
    );
  }
  return verdicts;
}

/** @returns what is to say about it, or its path, if only its size could be compared */
async function fileVerdict(file: NeededFile, bound: ReadonlySet<string | undefined>): Promise<(Verdict | string)[]> {
  const { path, use } = file;
  if (use === 'listener') return [...(bound.has(path) ? [pathTaken(path)] : []), ...missingFolder(path)];
  if (use === 'ghost') return ghostVerdicts(path);
  if (use === 'peer') return bound.has(path) ? [] : [noService(path)];
  const stats = statHere(path);
  if (stats === undefined) return [missing(file)];
  if (use === 'folder') return stats.isDirectory() ? [] : [missing(file)];
  const difference = differenceOf(file, stats);
  if (difference !== undefined) return [differs(file, difference)];
  const other = await otherContent(file, stats);
  const after = statHere(path) ?? stats;
  if (other !== undefined && !isWritten(file, after)) return [differs(file, other)];
  const compared = file.sha256 !== undefined && other === undefined;
  return use === 'open' && after.size > 0 && !compared ? [path] : [];
}

function statHere(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** What CRIU compares too (validate_file, open_path in its files-reg.c). */
function differenceOf(file: NeededFile, stats: Stats): string | undefined {
  const { use, bytes, mode } = file;
  if (bytes !== undefined && stats.size !== bytes && !isWritten(file, stats))
    return `it has ${stats.size} bytes here, and ${bytes} where the process is`;
  if (mode === undefined || stats.mode === mode) return undefined;
  if (use === 'special') return 'it is a file of another kind, or has other permissions, here';
  return `its permissions are ${(stats.mode & PERMISSIONS).toString(8)} here, and ${(mode & PERMISSIONS).toString(8)} where the process is`;
}

/** A file of both hosts that is being written, as a log is, has another size and content by now; in the freeze it has one. */
function isWritten({ sha256, changedAtMs }: NeededFile, { mtimeMs }: Stats): boolean {
  if (changedAtMs === undefined) return false;
  if (sha256 === undefined) return mtimeMs >= changedAtMs;
  return mtimeMs > changedAtMs && Date.now() - mtimeMs < SETTLED_MS; // it was still there, and is written since
}

async function otherContent({ path, bytes, sha256 }: NeededFile, { size }: Stats): Promise<string | undefined> {
  if (sha256 === undefined) return undefined;
  if (bytes !== undefined && size !== bytes) return 'it has another size';
  try {
    return (await fileHashes.sha256(path)) === sha256 ? undefined : 'it has the same size and another content';
  } catch (error) {
    return `it cannot be read here: ${(error as Error).message}`;
  }
}

/** The process may go: whoever shares a folder knows that it is one. But nobody shall believe that its content was compared. */
function bySize(paths: readonly string[]): Verdict {
  return willChange(
    'UNVERIFIED_FILES',
    paths.join(', '),
    'being written, or large, and so compared by size alone: it must be the same file on both hosts',
    'share its folder, or take it along with --files carry',
  );
}

function missing({ path, use }: NeededFile): Verdict {
  const why = {
    mapped: 'the process has this file in its memory',
    open: 'the process has this file open',
    special: 'the process has it open',
    folder: 'the process stands in this folder, or has it open',
  } as Readonly<Record<string, string>>;
  return refused(
    'FILE_MISSING',
    path,
    `${why[use] ?? 'the process needs it'}, and the destination does not have it`,
    use === 'mapped' ? INSTALL : 'make it there, at the same path; or let the program close it',
  );
}

function differs({ path, use }: NeededFile, difference: string): Verdict {
  return refused(
    'FILE_DIFFERS',
    path,
    use === 'mapped' ? `${difference}: two versions of it in one process would crash it` : difference,
    use === 'mapped' ? 'install the same version of the package on both' : 'copy it there first, or share that folder',
  );
}

function missingFolder(path: string): Verdict[] {
  return existsSync(dirname(path)) ? [] : [missing({ path: dirname(path), use: 'folder' })];
}

function pathTaken(path: string): Verdict {
  return refused(
    'UNIX_PATH_TAKEN',
    path,
    'a program here is reached at this unix socket, and the process would take its place',
    'end that program, or let one of the two use another path',
  );
}

function noService(path: string): Verdict {
  return refused(
    'NO_SERVICE',
    path,
    'the process sends to this unix socket, and the destination has no service there',
    'start the same service there (for /dev/log: a syslog daemon)',
  );
}

/** CRIU makes the file in its old folder, opens it and removes it. */
function ghostVerdicts(path: string): Verdict[] {
  let folder = dirname(path);
  while (!existsSync(folder) && folder !== '/') folder = dirname(folder);
  try {
    accessSync(folder, constants.W_OK);
    return [];
  } catch {
    return [
      refused(
        'FILE_READ_ONLY',
        path,
        `the process uses a deleted file of this name, whose copy is made in ${folder} for a moment, and that cannot be written here`,
        'let the program close it: an upgraded program wants a restart',
      ),
    ];
  }
}

/** Nobody compared it: said once. */
export function unverified(files: readonly NeededFile[]): Verdict[] {
  const large = files.filter(({ use, sha256 }) => use === 'mapped' && sha256 === undefined);
  if (large.length === 0) return [];
  return [
    willChange(
      'UNVERIFIED_FILES',
      large.map(({ path }) => path).join(', '),
      'compared by size alone: nobody could read the content where the process is',
    ),
  ];
}
