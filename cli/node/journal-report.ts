import type { z } from 'zod';
import { asHomeproxyError, UserError } from '../errors.js';
import { matchConnections } from '../migration/connection-notes.js';
import type { ConnectionNote } from '../migration/connection-table.js';
import type { stepsResponse } from '../migration/messages.js';
import type { Site } from '../migration/site.js';
import type { JournalReport, JournalRow, MigrationReport } from './control-methods.js';
import { migrationSteps } from './peer-methods.js';
import type { PeerClient } from './peer-transport.js';

/**
 * What the journal of this node tells about one migration, or about the last ones, the oldest first.
 * @throws {UserError} `UNKNOWN_MIGRATION`
 */
export function journalOf(
  site: Site,
  { migration, last }: { migration?: string | undefined; last: number },
): JournalReport {
  const { journal } = site;
  const known = new Set([...journal.migrations.all().map((record) => record.migration), ...journal.steps.migrations()]);
  if (migration !== undefined && !known.has(migration)) {
    throw new UserError({
      code: 'UNKNOWN_MIGRATION',
      message: `the journal of this node has no migration ${migration}`,
      remedy: 'see `homeproxy journal`; each node has a journal of its own',
    });
  }
  const wanted = migration === undefined ? [...known].sort().slice(-last) : [migration];
  return {
    node: site.node.name,
    migrations: wanted.map((id) => rowOf(site, id)),
    departing: journal.departures.all().map(({ request }) => request.migration),
    arriving: journal.arrivals.all().map(({ request }) => request.migration),
  };
}

/**
 * One migration, with what the other nodes that took part in it have noted. One that does not answer is in the answer all the same.
 * @throws {UserError} `UNKNOWN_MIGRATION`
 */
export async function reportOn(
  site: Site,
  clients: ReadonlyMap<string, PeerClient>,
  migration: string,
): Promise<MigrationReport> {
  const [row = rowOf(site, migration)] = journalOf(site, { migration, last: 1 }).migrations;
  const names = [row.from, row.to].filter((name) => name !== undefined && name !== site.node.name);
  const asked = await Promise.all(names.map(async (name = '') => ({ node: name, ...(await ask(name)) })));
  const own = site.journal.connections.of(migration);
  const noteOf = (name: string | undefined): ConnectionNote | undefined =>
    name === site.node.name ? own : asked.find(({ node }) => node === name)?.connections;
  const there = noteOf(row.to);
  const connections = matchConnections(noteOf(row.from), there);
  return {
    node: site.node.name,
    row,
    ...(connections === undefined ? {} : { connections }),
    ...(there?.reapplied === undefined ? {} : { reapplied: there.reapplied }),
    others: asked.map(({ connections: _, ...other }) => other),
  };

  async function ask(name: string): Promise<z.infer<typeof stepsResponse> & { error?: ErrorText }> {
    const client = clients.get(name);
    if (client === undefined) return { steps: [], error: { code: 'UNKNOWN_HOST', message: GONE } };
    try {
      return await client.call(migrationSteps, { migration });
    } catch (error) {
      const { code, message } = asHomeproxyError(error);
      return { steps: [], error: { code, message } };
    }
  }
}

interface ErrorText {
  readonly code: string;
  readonly message: string;
}

const GONE = 'it is not in the configuration any more';

function rowOf({ journal }: Site, migration: string): JournalRow {
  const record = journal.migrations.get(migration);
  const steps = journal.steps.of(migration);
  if (record === undefined) return { migration, state: 'taken-part', steps };
  const { state, pid, comm, from, to, epoch, startedAt, policy } = record;
  return {
    migration,
    state,
    pid,
    comm,
    from: from.name,
    to: to.name,
    epoch,
    startedAt,
    ...(policy === undefined ? {} : { policy }),
    ...('summary' in record && record.summary !== undefined ? { summary: record.summary } : {}),
    ...('error' in record ? { error: { code: record.error.code, message: record.error.message } } : {}),
    steps,
  };
}
