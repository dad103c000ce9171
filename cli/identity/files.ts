import { randomBytes } from 'node:crypto';
import { link, lstat, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { UserError } from '../errors.js';
import type { Authority, KeyPair } from './ca.js';
import { certificatesIn, readPem } from './credentials.js';

/** Where `homeproxy ca` keeps the authority unless told otherwise; on one machine only. */
export const DEFAULT_AUTHORITY_DIRECTORY = '/etc/homeproxy/ca';

const AUTHORITY_FILES = { certificate: 'ca.pem', key: 'ca.key', revocations: 'ca.crl' } as const;
const NODE_FILES = { ca: 'ca.pem', certificate: 'node.pem', key: 'node.key' } as const;

export interface WriteOptions {
  /** Replace what is there. Default false. */
  readonly force?: boolean;
}

/**
 * Writes a new authority to `ca.pem` (0644) and `ca.key` (0600).
 * @returns the paths
 * @throws {UserError} `FILE_EXISTS` (exit 2), `FILE_NOT_WRITTEN` (exit 7)
 */
export async function saveAuthority(
  directory: string,
  authority: Authority,
  options: WriteOptions = {},
): Promise<{ certificate: string; key: string }> {
  const paths = {
    certificate: join(directory, AUTHORITY_FILES.certificate),
    key: join(directory, AUTHORITY_FILES.key),
  };
  await writeAll(
    directory,
    [
      { path: paths.key, text: authority.key, mode: 0o600 },
      { path: paths.certificate, text: authority.certificate, mode: 0o644 },
    ],
    options,
  );
  return paths;
}

/** @throws {UserError} `TLS_FILE_MISSING` with the command that makes it, and as `readPem` */
export async function loadAuthority(directory: string): Promise<Authority> {
  try {
    const certificate = await readPem(join(directory, AUTHORITY_FILES.certificate), false);
    return { certificate, key: await readPem(join(directory, AUTHORITY_FILES.key), true) };
  } catch (error) {
    if (!(error instanceof UserError) || error.code !== 'TLS_FILE_MISSING') throw error;
    throw new UserError({
      code: 'AUTHORITY_MISSING',
      message: `there is no authority in ${directory}: ${error.message}`,
      remedy: `homeproxy ca init --directory ${directory}`,
      exitStatus: 2,
      cause: error,
    });
  }
}

/**
 * The serial numbers that an authority has revoked so far.
 * @throws {UserError} `REVOCATIONS_INVALID`, and as `readPem`
 */
export async function revokedBy(directory: string, authority: Authority): Promise<string[]> {
  const path = join(directory, AUTHORITY_FILES.revocations);
  if (!(await isThere(path))) return [];
  const { serialsIn } = await import('./revocations.js');
  const authorities = certificatesIn(authority.certificate, join(directory, AUTHORITY_FILES.certificate));
  return [...(await serialsIn(await readPem(path, false), path, authorities))];
}

/** Writes the authority's revocation list to `ca.crl` (0644). @returns its path. @throws {UserError} `FILE_NOT_WRITTEN` */
export async function saveRevocations(directory: string, text: string): Promise<string> {
  const path = join(directory, AUTHORITY_FILES.revocations);
  await writeAll(directory, [{ path, text, mode: 0o644 }], { force: true });
  return path;
}

/**
 * Writes what a node needs, under the names that its configuration expects: `ca.pem`, `node.pem` (0644), `node.key` (0600).
 * A `ca.pem` of the same content may be there already.
 * @returns the paths, in the form of the configuration's `tls` block
 * @throws {UserError} as {@link saveAuthority}
 */
export async function saveNodeCredentials(
  directory: string,
  caCertificate: string,
  node: KeyPair,
  options: WriteOptions = {},
): Promise<{ ca: string; certificate: string; key: string }> {
  const paths = {
    ca: join(directory, NODE_FILES.ca),
    certificate: join(directory, NODE_FILES.certificate),
    key: join(directory, NODE_FILES.key),
  };
  await writeAll(
    directory,
    [
      { path: paths.key, text: node.key, mode: 0o600 },
      { path: paths.certificate, text: node.certificate, mode: 0o644 },
      { path: paths.ca, text: caCertificate, mode: 0o644 },
    ],
    options,
  );
  return paths;
}

interface NewFile {
  readonly path: string;
  readonly text: string;
  readonly mode: number;
}

async function writeAll(directory: string, files: readonly NewFile[], options: WriteOptions): Promise<void> {
  const force = options.force === true;
  try {
    await mkdir(directory, { recursive: true, mode: 0o755 });
    const wanted: NewFile[] = [];
    for (const file of files) {
      if (force || !(await isThere(file.path))) wanted.push(file);
      else if ((await readPem(file.path, false)) !== file.text) throw exists(file.path);
    }
    for (const file of wanted) await writeAtomically(file, force);
    await syncFolder(directory);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError({
      code: 'FILE_NOT_WRITTEN',
      message: `cannot write to ${directory}: ${(error as Error).message}`,
      remedy: 'run as root, or name another directory',
      exitStatus: 7,
      cause: error,
    });
  }
}

/** The file is there whole or not at all, and never with another mode than its last. */
async function writeAtomically(file: NewFile, force: boolean): Promise<void> {
  const temporary = join(dirname(file.path), `.${randomBytes(8).toString('hex')}.tmp`);
  try {
    const handle = await open(temporary, 'wx', file.mode);
    try {
      await handle.chmod(file.mode); // whatever the umask is
      await handle.writeFile(file.text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (force) await rename(temporary, file.path);
    else await link(temporary, file.path); // fails when somebody made the file meanwhile
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw exists(file.path);
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
}

async function isThere(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}

async function syncFolder(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function exists(path: string): UserError {
  return new UserError({
    code: 'FILE_EXISTS',
    message: `${path} is there already`,
    remedy: 'add --force to replace it (what was signed with it stops working)',
    exitStatus: 2,
  });
}
