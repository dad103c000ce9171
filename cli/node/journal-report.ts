import type { Site } from '../migration/site.js';
import type { JournalReport, JournalRow } from './control-methods.js';

/** What the journal of this node tells about one migration, or about the last ones, the oldest first. */
export function journalOf(
  site: Site,
  { migration, last }: { migration?: string | undefined; last: number },
): JournalReport {
  const { journal } = site;
  const known = new Set([...journal.migrations.all().map((record) => record.migration), ...journal.steps.migrations()]);
  const wanted = migration === undefined ? [...known].sort().slice(-last) : [...known].filter((id) => id === migration);
  return {
    node: site.node.name,
    migrations: wanted.map((id) => rowOf(site, id)),
    departing: journal.departures.all().map(({ request }) => request.migration),
    arriving: journal.arrivals.all().map(({ request }) => request.migration),
  };
}

function rowOf({ journal }: Site, migration: string): JournalRow {
  const record = journal.migrations.get(migration);
  const steps = journal.steps.of(migration);
  if (record === undefined) return { migration, state: 'taken-part', steps };
  const { state, pid, comm, from, to, epoch, startedAt } = record;
  return {
    migration,
    state,
    pid,
    comm,
    from: from.name,
    to: to.name,
    epoch,
    startedAt,
    ...('error' in record ? { error: { code: record.error.code, message: record.error.message } } : {}),
    steps,
  };
}
