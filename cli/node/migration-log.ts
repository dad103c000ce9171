import type { Logger } from 'pino';
import type { Journal } from '../migration/journal.js';
import type { StepName } from '../migration/steps.js';

type Level = 'info' | 'warn';

/** What a node says of a migration when that comes to a step here. None of them is in the freeze: a line costs some microseconds. */
const LINES: Partial<Record<StepName, readonly [Level, string]>> = {
  'coordinator:preparing': ['info', 'a migration begins'],
  'source:noted': ['info', 'a process is to leave'],
  'source:removed': ['info', 'a process has left'],
  'source:runs-again': ['warn', 'a process that was to leave runs on here'],
  'destination:noted': ['info', 'a process is to come'],
  'destination:wiped': ['info', 'a process has come'],
  'destination:removed': ['warn', 'a process that was to come does not'],
};

/** Logs where each migration begins and ends on this node, for observers of steps. */
export function stepLogger(logger: Logger, journal: Journal): (step: StepName, migration: string) => void {
  return (step, migration) => {
    const line = LINES[step];
    if (line === undefined) return;
    const [level, words] = line;
    logger[level]({ migration, ...factsOf(journal, step, migration) }, words);
  };
}

/** What the journal has of it as long as it goes on; names of processes are their home's. */
function factsOf(journal: Journal, step: StepName, migration: string): object {
  const [role] = step.split(':');
  if (role === 'source') {
    const departure = journal.departures.get(migration);
    return { pid: departure?.request.pid, home: departure?.home, to: departure?.request.destination.name };
  }
  if (role === 'destination') {
    const { home, source, description } = journal.arrivals.get(migration)?.request ?? {};
    return { pid: description?.homePid, home: home?.name, from: source?.name };
  }
  const { pid, comm, from, to, epoch, policy } = journal.migrations.get(migration) ?? {};
  return { pid, comm, from: from?.name, to: to?.name, epoch, policy };
}
