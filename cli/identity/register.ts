import { X509Certificate } from 'node:crypto';
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { UserError } from '../errors.js';
import { serialOf } from './serial.js';

/** Beside the authority's key: what it has signed, one JSON document per line. */
const REGISTER = 'issued.jsonl';

const entry = z.object({
  serial: z.string(),
  node: z.string(),
  issued: z.string(),
  expires: z.string(),
});

/** A certificate that the authority has signed. Times are ISO 8601, UTC. */
export type Issued = z.output<typeof entry>;

/** Adds a certificate to what the authority in `directory` has signed. @throws {UserError} `FILE_NOT_WRITTEN` (exit 7) */
export async function noteIssued(directory: string, node: string, certificate: string): Promise<void> {
  const { serialNumber, validTo } = new X509Certificate(certificate);
  const line: Issued = {
    serial: serialOf(serialNumber),
    node,
    issued: new Date().toISOString(),
    expires: new Date(validTo).toISOString(),
  };
  try {
    await appendFile(join(directory, REGISTER), `${JSON.stringify(line)}\n`, { mode: 0o600 });
  } catch (cause) {
    throw new UserError({
      code: 'FILE_NOT_WRITTEN',
      message: `cannot note in ${directory} what was issued: ${(cause as Error).message}`,
      remedy: 'run as root; without the note the certificate could not be revoked by its name',
      exitStatus: 7,
      cause,
    });
  }
}

/** All that the authority in `directory` has signed, the oldest first. @throws {UserError} `REGISTER_INVALID` (exit 2) */
export async function readRegister(directory: string): Promise<Issued[]> {
  const path = join(directory, REGISTER);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  const lines = text.split('\n').filter((line) => line !== '');
  return lines.map((line, index) => {
    try {
      return entry.parse(JSON.parse(line));
    } catch (cause) {
      throw new UserError({
        code: 'REGISTER_INVALID',
        message: `${path}:${index + 1}: not what homeproxy wrote there`,
        remedy: 'remove that line; revoke that certificate by its file: homeproxy ca revoke --certificate <file>',
        exitStatus: 2,
        cause,
      });
    }
  });
}
