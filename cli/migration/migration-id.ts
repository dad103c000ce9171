import { randomBytes } from 'node:crypto';

/** A name for a migration that begins; names sort by their time. */
export function newMigrationId(): string {
  return `m-${Date.now().toString(36)}-${randomBytes(4).toString('hex')}`;
}
