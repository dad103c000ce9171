import type { Journal } from '../migration/journal.js';
import type { MigrationState } from '../migration/records.js';
import { observeSteps } from '../migration/steps.js';
import type { MetricsPage } from './page.js';

const UNFINISHED = ['preparing', 'freezing', 'committed', 'reverting', 'reverted'] as const;

function isUnfinished(state: MigrationState['state']): state is (typeof UNFINISHED)[number] {
  return (UNFINISHED as readonly string[]).includes(state);
}

/**
 * What the journal waits for. It is read whole once, when the daemon starts; from then on only what is unfinished is looked at.
 * @returns a function that ends the watching
 */
export function addJournalMetrics(page: MetricsPage, journal: Journal): () => void {
  const group = page.group('journal');
  const complete = group.gauge(
    'homeproxy_journal_complete',
    '1: the journal knows of everything that is bound here; 0: it was lost, and `homeproxy recover` is needed.',
  );
  const unfinished = group.gauge(
    'homeproxy_journal_unfinished_migrations',
    'Migrations of this home whose end is not recorded yet, by their state.',
    ['state'],
  );
  const oldest = group.gauge(
    'homeproxy_journal_oldest_unfinished_timestamp_seconds',
    'When the oldest of them began, in seconds since the epoch; 0: there is none.',
  );
  const awaited = group.gauge(
    'homeproxy_journal_awaited_migrations',
    'Migrations of any home whose end this node waits for, as the host that a process leaves or comes to.',
    ['part'],
  );
  const open = new Set(
    journal.migrations
      .all()
      .filter(({ state }) => isUnfinished(state))
      .map(({ migration }) => migration),
  );
  group.refreshBy(() => {
    const counts = new Map(UNFINISHED.map((state) => [state, 0]));
    let first = 0;
    for (const migration of [...open]) {
      const record = journal.migrations.get(migration);
      if (record === undefined || !isUnfinished(record.state)) {
        open.delete(migration);
        continue;
      }
      counts.set(record.state, (counts.get(record.state) ?? 0) + 1);
      first = first === 0 ? record.startedAt : Math.min(first, record.startedAt);
    }
    const [departing, arriving] = [journal.departures.ids().length, journal.arrivals.ids().length];
    complete.set(journal.complete ? 1 : 0);
    for (const [state, count] of counts) unfinished.set({ state }, count);
    oldest.set(first / 1000);
    awaited.set({ part: 'source' }, departing);
    awaited.set({ part: 'destination' }, arriving);
  });
  return observeSteps((step, migration) => {
    if (step === 'coordinator:preparing') open.add(migration);
  });
}
