import { open } from 'node:fs/promises';
import type { MetricsSettings } from '../config/metrics-schema.js';
import { UserError } from '../errors.js';
import { readPem } from '../identity/credentials.js';

const MAX_PASSWORD_BYTES = 1024;

export interface Secrets {
  readonly tls?: { readonly certificate: string; readonly key: string };
  readonly basicAuth?: { readonly user: string; readonly password: string };
}

/**
 * Reads what the settings name.
 * @throws {UserError} `PASSWORD_UNREADABLE`, `PASSWORD_EXPOSED`, `PASSWORD_EMPTY`, and as `readPem`
 */
export async function readSecrets({ tls, basicAuth }: MetricsSettings): Promise<Secrets> {
  return {
    ...(tls === undefined
      ? {}
      : { tls: { certificate: await readPem(tls.certificate, false), key: await readPem(tls.key, true) } }),
    ...(basicAuth === undefined
      ? {}
      : { basicAuth: { user: basicAuth.user, password: await readPassword(basicAuth.passwordFile) } }),
  };
}

/** The first line of a file that only its owner can read. */
async function readPassword(path: string): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const stat = await file.stat();
      const mode = stat.mode & 0o777;
      if (!stat.isFile() || stat.size > MAX_PASSWORD_BYTES) {
        throw problem('PASSWORD_UNREADABLE', `${path} is not a file with a password`, `put one line into ${path}`);
      }
      if ((mode & 0o077) !== 0) {
        const text = mode.toString(8).padStart(4, '0');
        throw problem(
          'PASSWORD_EXPOSED',
          `others can read the password in ${path} (mode ${text})`,
          `chmod 600 ${path}`,
        );
      }
      const [password = ''] = (await file.readFile('utf8')).split(/\r?\n/);
      if (password === '') throw problem('PASSWORD_EMPTY', `${path} holds no password`, `put one line into ${path}`);
      return password;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { message } = error as Error;
    throw problem(
      'PASSWORD_UNREADABLE',
      `cannot read ${path}: ${message}`,
      'name another file in metrics.basicAuth',
      error,
    );
  }
}

function problem(code: string, message: string, remedy: string, cause?: unknown): UserError {
  return new UserError({ code, message, remedy, exitStatus: 2, cause });
}
