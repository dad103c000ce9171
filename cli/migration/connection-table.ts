import type { Database } from 'lmdb';
import { z } from 'zod';
import { connectionStateSchema } from '../process/connection-state.js';

/** Of each migration, at each end. To ask so many takes a millisecond, in which the process stands still anyway. */
export const NOTED_CONNECTIONS = 200;
/** Kinds of options and their values. */
export const NOTED_WORDS = 100;
/** With their connections; a note has some 150 bytes for each. */
const NOTED_MIGRATIONS = 200;

/** How the connections of a process stood at one end of a migration: at the source when it had stopped, at the destination before it ran. */
export const connectionNoteSchema = z.object({
  /** Of all connections that it had. */
  total: z.number().int().min(0),
  connections: z.array(connectionStateSchema).max(NOTED_CONNECTIONS),
  /** At the destination: what was set again there, since CRIU does not carry it; in words. */
  reapplied: z.array(z.string().max(200)).max(NOTED_WORDS).optional(),
});
export type ConnectionNote = z.infer<typeof connectionNoteSchema>;

interface KeptNote extends ConnectionNote {
  /** Sequence numbers of a connection that lives are its secret: they are told to nobody else. */
  readonly home: string;
}

/** What the node has noted of connections, of the last migrations: for people, so that writing it must not delay one. */
export class ConnectionTable {
  constructor(private readonly database: Database<KeptNote, string>) {}

  /** Adds a note, in the place of older ones when there are too many. @returns when it is on disk; nobody needs to wait */
  async put(migration: string, note: KeptNote): Promise<void> {
    const ids = [...this.database.getKeys({})].filter((id) => id !== migration); // their names begin with the time
    const tooOld = ids.slice(0, Math.max(0, ids.length + 1 - NOTED_MIGRATIONS));
    const writes = [...tooOld.map((old) => this.database.remove(old)), this.database.put(migration, note)];
    await Promise.all(writes).catch(() => undefined); // a full disk stops migrations elsewhere, and says so
  }

  /** @param home whose process it must have been; undefined: anybody's */
  of(migration: string, home?: string): ConnectionNote | undefined {
    const kept = this.database.get(migration);
    if (kept === undefined || (home !== undefined && kept.home !== home)) return undefined;
    const { home: _, ...note } = kept;
    return note;
  }
}
