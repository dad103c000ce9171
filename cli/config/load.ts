import { open } from 'node:fs/promises';
import { UserError } from '../errors.js';
import { projectFile } from '../system/project.js';
import { parseConfig } from './parse.js';
import type { Config } from './schema.js';

export type { Config, NodeEntry, Uplink } from './schema.js';
export { ownNode } from './schema.js';

/** A configuration of a thousand nodes takes 60 kB; a larger file is something else. */
const MAX_BYTES = 1 << 20;

/**
 * Reads and checks a configuration file; every default is filled in.
 * @throws {UserError} `CONFIG_MISSING`, `CONFIG_UNREADABLE` or `CONFIG_INVALID` (one line per problem,
 * `file:line:column: path: message`), all with exit status 2.
 */
export async function loadConfig(path: string): Promise<Config> {
  return parseConfig(await readLimited(path, CONFIGURATION), path);
}

/**
 * Reads a file of settings.
 * @throws {UserError} `CONFIG_MISSING`, `CONFIG_UNREADABLE`: too large, no regular file, not UTF-8
 */
export async function readSettings(path: string): Promise<string> {
  return readLimited(path, { words: 'file', missing: 'see how its name is spelt', unreadable: 'run as root' });
}

/** How a file is called that is not as it must be, and what to do about it. */
interface Kind {
  readonly words: string;
  readonly missing: string;
  readonly unreadable: string;
}

const CONFIGURATION: Kind = {
  words: 'configuration file',
  missing: `copy ${projectFile('config/homeproxy.example.yaml')} there and edit it, or name another file with --config`,
  unreadable: 'run as root, or name another file with --config',
};

async function readLimited(path: string, kind: Kind): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const stat = await file.stat();
      if (!stat.isFile()) throw unreadable(kind, path, 'it is not a regular file');
      const buffer = Buffer.alloc(MAX_BYTES + 1);
      let length = 0;
      while (length < buffer.length) {
        const { bytesRead } = await file.read(buffer, length, buffer.length - length);
        if (bytesRead === 0) break;
        length += bytesRead;
      }
      if (length > MAX_BYTES) throw unreadable(kind, path, `it is larger than ${MAX_BYTES} bytes`);
      return decode(kind, path, buffer.subarray(0, length));
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new UserError({
        code: 'CONFIG_MISSING',
        message: `there is no ${kind.words} ${path}`,
        remedy: kind.missing,
        exitStatus: 2,
        cause: error,
      });
    }
    throw unreadable(kind, path, message, error);
  }
}

function decode(kind: Kind, path: string, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw unreadable(kind, path, 'it is not UTF-8 text', error);
  }
}

function unreadable(kind: Kind, path: string, reason: string, cause?: unknown): UserError {
  return new UserError({
    code: 'CONFIG_UNREADABLE',
    message: `cannot read the ${kind.words} ${path}: ${reason}`,
    remedy: kind.unreadable,
    exitStatus: 2,
    cause,
  });
}
