import { accessSync, constants, existsSync, type Stats, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Verdict } from '../process/description.js';
import { fileHashes } from '../process/file-hash.js';
import type { NeededFile } from '../process/needs.js';
import { ok, refused, willChange } from '../process/verdicts.js';
import type { UnixSocket } from '../system/unix-diag.js';

const INSTALL = 'install the same package there, at the same path';
const PERMISSIONS = 0o7777;

/** What this node lacks of the paths that a process needs, or has in another form. @param sockets of this node */
export async function fileVerdicts(files: readonly NeededFile[], sockets: readonly UnixSocket[]): Promise<Verdict[]> {
  const bound = new Set(sockets.map(({ name }) => name));
  const verdicts = (await Promise.all(files.map((file) => fileVerdict(file, bound)))).flat();
  const hashed = files.filter(({ sha256 }) => sha256 !== undefined).length;
  if (hashed > 0 && !verdicts.some(({ outcome, code }) => outcome === 'refused' && code.startsWith('FILE_'))) {
    verdicts.push(
      ok(
        'SAME_FILES',
        'files',
        `${hashed} files that it has mapped, or open for reading, are the same here, byte for byte (SHA-256)`,
      ),
    );
  }
  return verdicts;
}

async function fileVerdict(file: NeededFile, bound: ReadonlySet<string | undefined>): Promise<Verdict[]> {
  const { path, use } = file;
  if (use === 'listener') return [...(bound.has(path) ? [pathTaken(path)] : []), ...missingFolder(path)];
  if (use === 'ghost') return ghostVerdicts(path);
  if (use === 'peer') return bound.has(path) ? [] : [noService(path)];
  const stats = statHere(path);
  if (stats === undefined) return [missing(file)];
  if (use === 'folder') return stats.isDirectory() ? [] : [missing(file)];
  const difference = differenceOf(file, stats) ?? (await contentDiffers(file));
  return difference === undefined ? [] : [differs(file, difference)];
}

function statHere(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** What CRIU compares too (validate_file, open_path in its files-reg.c). */
function differenceOf({ use, bytes, mode, changedAtMs }: NeededFile, stats: Stats): string | undefined {
  // a file of both hosts that is being written, as a log is, has another size by now; in the freeze it has one
  const changing = changedAtMs !== undefined && stats.mtimeMs >= changedAtMs;
  if (bytes !== undefined && stats.size !== bytes && !changing)
    return `it has ${stats.size} bytes here, and ${bytes} where the process is`;
  if (mode === undefined || stats.mode === mode) return undefined;
  if (use === 'special') return 'it is a file of another kind, or has other permissions, here';
  return `its permissions are ${(stats.mode & PERMISSIONS).toString(8)} here, and ${(mode & PERMISSIONS).toString(8)} where the process is`;
}

async function contentDiffers({ path, sha256 }: NeededFile): Promise<string | undefined> {
  if (sha256 === undefined) return undefined;
  try {
    return (await fileHashes.sha256(path)) === sha256 ? undefined : 'it has the same size and another content';
  } catch (error) {
    return `it cannot be read here: ${(error as Error).message}`;
  }
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
