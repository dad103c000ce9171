import { surveyStreams } from '../../addon/lib/index.js';
import { readStreams } from '../checkpoint/stream-images.js';
import { type ConnectionState, connectionsIn } from '../process/connection-state.js';
import type { Arrival } from './arrival.js';
import { reappliedOptions } from './carried-options.js';
import { type ConnectionNote, NOTED_CONNECTIONS, NOTED_WORDS } from './connection-table.js';
import type { DepartureRecord } from './records.js';
import type { Site } from './site.js';

/** Notes, from CRIU's images, how the connections of a process stood when it was stopped to leave, whether it has left or not. */
export async function noteStopped(
  { journal, report }: Site,
  { request, home, images }: DepartureRecord,
): Promise<void> {
  const { migration } = request;
  try {
    const stopped = await readStreams(images, NOTED_CONNECTIONS);
    if (stopped === undefined || stopped.total === 0) return;
    void journal.connections.put(migration, { home, total: stopped.total, connections: [...stopped.connections] });
  } catch (error) {
    report({ migration, err: error }, 'how its connections stood could not be noted');
  }
}

/**
 * Begins to ask the restored connections of a process that does not run yet, on another thread: the freeze goes on meanwhile, and
 * what they answer is looked at after it, by {@link noteRestored}.
 */
export function askRestored(arrival: Arrival, tasks: readonly number[]): void {
  const inOrder = [...tasks].sort((a, b) => a - b); // as CRIU went through them: children after their parents
  arrival.streams = surveyStreams(inOrder, NOTED_CONNECTIONS).catch(() => undefined);
}

/** Notes how the connections of a process stood before it ran here, and what was set again on its sockets. */
export async function noteRestored(
  { journal, report }: Site,
  { record: { request, images }, streams, notKept }: Arrival,
): Promise<void> {
  const { migration, home } = request;
  try {
    const connections = connectionsIn((await streams) ?? []);
    const reapplied = reappliedOptions(images, notKept).slice(0, NOTED_WORDS);
    if (connections.length === 0 && reapplied.length === 0) return;
    void journal.connections.put(migration, { home: home.name, total: connections.length, connections, reapplied });
  } catch (error) {
    report({ migration, err: error }, 'how its connections stood could not be noted');
  }
}

/** A connection at both ends of a migration. */
export interface MovedConnection {
  readonly local: string;
  readonly remote: string;
  readonly atSource?: ConnectionNumbers;
  readonly atDestination?: ConnectionNumbers;
  /** Whether it went on where it had stopped; absent when one end has not noted it. */
  readonly same?: boolean;
}
type ConnectionNumbers = Omit<ConnectionState, 'local' | 'remote'>;

/** Puts together what both ends have noted. */
export function matchConnections(
  source: ConnectionNote | undefined,
  destination: ConnectionNote | undefined,
): { total: number; moved: MovedConnection[] } | undefined {
  if (source === undefined && destination === undefined) return undefined;
  const there = new Map((destination?.connections ?? []).map((found) => [keyOf(found), found]));
  const moved: MovedConnection[] = (source?.connections ?? []).map((found) => {
    const other = there.get(keyOf(found));
    there.delete(keyOf(found));
    return both(found, other);
  });
  for (const found of there.values()) moved.push(both(undefined, found));
  return { total: Math.max(source?.total ?? 0, destination?.total ?? 0), moved };
}

function both(before: ConnectionState | undefined, after: ConnectionState | undefined): MovedConnection {
  const { local = '', remote = '' } = before ?? after ?? {};
  return {
    local,
    remote,
    ...(before === undefined ? {} : { atSource: numbersOf(before) }),
    ...(after === undefined ? {} : { atDestination: numbersOf(after) }),
    ...(before === undefined || after === undefined ? {} : { same: isSame(before, after) }),
  };
}

function isSame(before: ConnectionState, after: ConnectionState): boolean {
  const compared = ['state', 'sent', 'received', 'unread', 'unacknowledged'] as const;
  return compared.every((name) => before[name] === after[name]);
}

function numbersOf({ local: _, remote: __, ...numbers }: ConnectionState): ConnectionNumbers {
  return numbers;
}

function keyOf({ local, remote }: ConnectionState): string {
  return `${local} ${remote}`;
}
