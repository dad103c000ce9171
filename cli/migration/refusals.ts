import { type ErrorDocument, type HomeproxyError, UserError } from '../errors.js';
import type { ProcessDescription, Verdict } from '../process/description.js';
import type { NodeName } from './messages.js';
import type { MigrationRecord } from './records.js';

export function alreadyMoving(pid: number): UserError {
  return new UserError({
    code: 'ALREADY_MOVING',
    message: `process ${pid} is being moved already`,
    remedy: 'wait for that migration: `homeproxy ps`',
  });
}

export function alreadyThere(pid: number, node: NodeName, home: NodeName): UserError {
  const atHome = node.name === home.name;
  return new UserError({
    code: atHome ? 'NOT_AWAY' : 'ALREADY_THERE',
    message: atHome ? `process ${pid} is not away` : `process ${pid} runs on ${node.name} already`,
    remedy: 'see `homeproxy ps`',
  });
}

/** A node asked for a step before the one that must come first, or twice. */
export function outOfOrder(migration: string, state: string): UserError {
  return new UserError({
    code: 'OUT_OF_ORDER',
    message: `migration ${migration} ${state}: this step does not come now`,
    remedy: 'start the migration again; if that happens again, run the same version of homeproxy on every node',
    exitStatus: 6,
  });
}

export function unknownMigration(node: NodeName, migration: string): UserError {
  return new UserError({
    code: 'UNKNOWN_MIGRATION',
    message: `${node.name} does not know migration ${migration}`,
    remedy: 'start the migration again',
    exitStatus: 6,
  });
}

export function stillRuns(node: NodeName, twin: string): UserError {
  return new UserError({ code: 'STILL_RUNS', message: `${twin} still runs on ${node.name}`, exitStatus: 3 });
}

export function interrupted(): UserError {
  return new UserError({ code: 'INTERRUPTED', message: 'the migration was interrupted', exitStatus: 130 });
}

/**
 * @param requester undefined: somebody who may move every process
 * @throws {UserError} `NOT_YOURS` unless the whole tree is that user's, and can become nobody else.
 */
export function requireOwner(requester: number | undefined, { homePid, users }: ProcessDescription): void {
  if (requester === undefined || (users.length > 0 && users.every((user) => user === requester))) return;
  throw new UserError({
    code: 'NOT_YOURS',
    message: `process ${homePid} is not yours, or not all of it`,
    remedy: 'run the command with sudo',
  });
}

/** @throws {UserError} `REFUSED` that lists every verdict against the move. */
export function refuse(pid: number, verdicts: readonly Verdict[]): void {
  const refused = verdicts.filter(({ outcome }) => outcome === 'refused');
  if (refused.length === 0) return;
  const remedies = refused.map(({ remedy }) => remedy).filter((remedy) => remedy !== undefined);
  throw new UserError({
    code: 'REFUSED',
    message: [
      `process ${pid} cannot be moved:`,
      ...refused.map(({ code, subject, reason }) => `  ${subject}: ${reason} (${code})`),
    ].join('\n'),
    ...(remedies.length === 0 ? {} : { remedy: [...new Set(remedies)].join('; ') }),
  });
}

/**
 * The final word on a migration that went back.
 * @param frozen whether the process had been touched; if not, the cause alone is the answer.
 */
export function rolledBack(pid: number, at: NodeName, cause: HomeproxyError, frozen: boolean): UserError {
  const log = 'log' in cause ? (cause.log as readonly string[]) : [];
  const stopped = cause.code === 'INTERRUPTED';
  return new UserError({
    code: frozen && !stopped ? 'ROLLED_BACK' : cause.code,
    message: [
      `process ${pid} was not moved, it runs on ${at.name} as before: ${cause.message}`,
      ...log.map((line) => `  ${line}`),
    ].join('\n'),
    ...(cause.remedy === undefined ? {} : { remedy: cause.remedy }),
    exitStatus: frozen && !stopped ? 6 : cause.exitStatus,
    cause,
  });
}

/** Why a migration that the daemon finds in its journal goes back. */
export function reasonOf(record: MigrationRecord): ErrorDocument {
  if (record.state === 'reverting' || record.state === 'reverted') return record.error;
  return new UserError({
    code: 'DAEMON_RESTARTED',
    message: "the home node's daemon was restarted before the commit",
    exitStatus: 6,
  }).toDocument();
}

/** @throws {UserError} `UNKNOWN_HOST` */
export function requireNode(nodes: readonly NodeName[], name: string): NodeName {
  const node = nodes.find((candidate) => candidate.name === name);
  if (node !== undefined) return node;
  throw new UserError({
    code: 'UNKNOWN_HOST',
    message: `there is no node "${name}"; the configuration has ${nodes.map((known) => known.name).join(', ')}`,
    remedy: 'see `homeproxy hosts`',
  });
}

/** The copy of a process here may not be moved. */
export function fenced(twin: string, { name }: NodeName): UserError {
  return new UserError({
    code: 'FENCED',
    message: `the copy of ${twin} on ${name} is an old one: it runs elsewhere`,
    remedy: 'if the home node was rebuilt, run `homeproxy recover` there',
  });
}
