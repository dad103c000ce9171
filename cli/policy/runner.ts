import { setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import { asHomeproxyError, UserError } from '../errors.js';
import { directionBetween, type MigrationEnd } from '../migration/ends.js';
import { newMigrationId } from '../migration/migration-id.js';
import type { Finding, Holding } from './conditions.js';
import { decide, type Verdict } from './engine.js';
import { type Facts, type ProcessFacts, queryKey } from './facts.js';
import { Chronicle, type Move } from './history.js';
import type { HostBook } from './host-book.js';
import { conditionsOf, type How, type Policy } from './model.js';
import type { PolicySource } from './policy-source.js';
import type { ProcessReader } from './process-reader.js';
import { queryPrometheus } from './prometheus.js';
import { durationText } from './quantity.js';
import { chosen, exclusion } from './selection.js';

const QUERY_MS = 2000;
/** How many decisions are kept for those who ask. */
const KEPT_DECISIONS = 1000;

/** Something that a policy has decided; kept when it differs from what it had decided before. */
export interface Decision {
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly policy: string;
  readonly pid: number;
  readonly outcome: Verdict['outcome'] | 'moved' | 'failed';
  readonly code?: string;
  readonly to?: string;
  readonly why: string;
}

/** What one policy would do with a process now, and why. */
export interface Explanation {
  readonly policy: string;
  readonly outcome: Verdict['outcome'] | 'not-chosen';
  readonly code?: string;
  readonly to?: string;
  /** How it would move, in words, where that is not as usual. */
  readonly how?: string;
  readonly why: string;
  readonly when?: Finding;
  readonly until?: Finding;
}

export interface RunnerParts {
  readonly home: string;
  readonly source: PolicySource;
  readonly book: HostBook;
  readonly processes: Pick<ProcessReader, 'read' | 'find'>;
  /** What has been moved before, the oldest first. */
  readonly past: readonly Move[];
  readonly logger: Logger;
  migrate(pid: number, to: string, options: How & { policy: string; migration: string }): Promise<unknown>;
}

/** Decides every few seconds, and has carried out what was decided. One tick ends before the next begins; moves go on meanwhile. */
export class PolicyRunner {
  private readonly chronicle: Chronicle;
  private readonly closing = new AbortController();
  private readonly decisions: Decision[] = [];
  /** The last verdict of each policy on each process, to tell news. */
  private readonly last = new Map<string, string>();
  private readonly counted = new Map<string, number>();
  private holding: Holding = new Map();
  private running: Promise<void> | undefined;

  constructor(private readonly parts: RunnerParts) {
    this.chronicle = new Chronicle(parts.past);
  }

  get policies(): readonly Policy[] {
    return this.parts.source.policies.policies;
  }

  /** What is wrong with the file as it is now. */
  get problem(): string | undefined {
    return this.parts.source.problem;
  }

  /** The policy file. */
  get file(): string {
    return this.parts.source.file;
  }

  /** How often each policy has decided something new since the daemon started, by `policy\noutcome`. */
  get counts(): ReadonlyMap<string, number> {
    return this.counted;
  }

  start(): void {
    this.running ??= this.run();
  }

  /** No tick begins any more; moves that go on are the coordinator's. */
  async close(): Promise<void> {
    this.closing.abort();
    await this.running;
  }

  /** A migration has ended, whoever began it. */
  ended({ outcome, direction, pid, from, to, error, policy }: MigrationEnd): void {
    const now = Date.now();
    const ours = this.chronicle.moves.some((move) => move.pid === pid && move.outcome === 'running');
    if (ours) this.chronicle.end(pid, now, error?.message);
    else if (outcome === 'committed') {
      this.chronicle.add({ pid, policy, direction, from, to, at: now, endedAt: now, outcome: 'moved' });
    }
  }

  /** All that policies would be decided upon now; default: those of the file. */
  async facts(policies = this.policies): Promise<Facts> {
    const { home, book, processes } = this.parts;
    const conditions = conditionsOf(policies);
    const paths = [...new Set(conditions.flatMap((one) => (one.kind === 'diskFree' ? [one.disk] : [])))];
    const wanted = conditions.flatMap((one) => (one.kind === 'promql' ? [one.query] : []));
    const queries = [...new Map(wanted.map((query) => [queryKey(query), query]))];
    const [answers, chosenOnes] = await Promise.all([
      Promise.all(queries.map(async ([key, query]) => [key, await queryPrometheus(query, QUERY_MS)] as const)),
      processes.read(policies),
      book.refresh(paths),
    ]);
    return {
      at: Date.now(),
      home,
      hosts: book.states(),
      queries: Object.fromEntries(answers),
      processes: chosenOnes,
    };
  }

  /**
   * What each policy would do with a process now.
   * @throws {UserError} `NO_SUCH_PROCESS`
   */
  async explain(pid: number): Promise<{ process: ProcessFacts; policies: Explanation[]; decisions: Decision[] }> {
    const facts = await this.facts();
    const process = facts.processes.find((one) => one.pid === pid) ?? this.parts.processes.find(pid);
    if (process === undefined) {
      throw new UserError({
        code: 'NO_SUCH_PROCESS',
        message: `this home has no process ${pid} that could move`,
        remedy: 'look it up with ps, or `homeproxy ps` if it is away',
      });
    }
    const { verdicts } = decide(this.policies, facts, this.chronicle, this.holding);
    const policies = this.policies.map((policy): Explanation => {
      const verdict = verdicts.find((one) => one.policy === policy.name && one.process.pid === pid);
      if (verdict !== undefined) return explanationOf(verdict);
      const reason = exclusion(policy, process);
      const root = chosen(policy, facts.processes).find((one) => process.ancestors.includes(one.pid));
      const why = reason ?? `it moves with its ancestor ${root?.pid ?? '?'}, which the policy chooses too`;
      return { policy: policy.name, outcome: 'not-chosen', why };
    });
    return { process, policies, decisions: this.decisions.filter((decision) => decision.pid === pid) };
  }

  private async run(): Promise<void> {
    const { signal } = this.closing;
    while (!signal.aborted) {
      try {
        await this.tick();
      } catch (error) {
        this.parts.logger.error({ err: error }, 'the policies could not be decided upon');
      }
      await pause(this.parts.source.policies.everyMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  private async tick(): Promise<void> {
    if (await this.parts.source.refresh()) {
      this.holding = new Map(); // a path of the old file may mean another condition in the new one
      this.last.clear();
    }
    if (this.policies.length === 0) return;
    const facts = await this.facts();
    if (this.closing.signal.aborted) return;
    const { verdicts, holding } = decide(this.policies, facts, this.chronicle, this.holding);
    this.holding = holding;
    for (const verdict of verdicts) this.note(verdict, facts.at);
    for (const verdict of verdicts) {
      if (verdict.outcome === 'move' || verdict.outcome === 'return') this.carryOut(verdict, facts.at);
    }
    this.forget(verdicts);
  }

  private carryOut(verdict: Extract<Verdict, { outcome: 'move' | 'return' }>, at: number): void {
    const { policy, process, to, why, how } = verdict;
    const { pid, location: from } = process;
    this.chronicle.begin({
      pid,
      policy,
      direction: directionBetween({ home: this.parts.home, from, to }),
      from,
      to,
      at,
    });
    const migration = newMigrationId();
    const fields = { migration, policy, pid, name: process.name, from, to };
    this.parts.logger.info(
      { ...fields, why },
      verdict.outcome === 'move' ? 'a policy moves a process' : 'a policy brings a process home',
    );
    this.parts.migrate(pid, to, { ...how, policy, migration }).then(
      () => this.settled({ at: Date.now(), policy, pid, outcome: 'moved', to, why }),
      (thrown: unknown) => {
        const error = asHomeproxyError(thrown);
        const { code, message } = error;
        this.parts.logger.error(
          { ...fields, code, err: error },
          'a policy could not move a process; it waits and tries again',
        );
        this.settled({ at: Date.now(), policy, pid, outcome: 'failed', code, to, why: message });
      },
    );
  }

  private settled(decision: Decision): void {
    const { pid, at, outcome, why } = decision;
    this.chronicle.end(pid, at, outcome === 'failed' ? why : undefined); // what was refused at once has no end of its own
    this.keep(decision);
  }

  private note(verdict: Verdict, at: number): void {
    const { policy, process, outcome, why } = verdict;
    const code = verdict.outcome === 'wait' ? verdict.code : undefined;
    const key = `${policy}\n${process.pid}`;
    const state = `${outcome} ${code ?? ''}`;
    if (this.last.get(key) === state) return;
    this.last.set(key, state);
    const to = 'to' in verdict ? { to: verdict.to } : {};
    this.keep({ at, policy, pid: process.pid, outcome, ...(code === undefined ? {} : { code }), ...to, why });
    if (code === 'no-host') this.parts.logger.warn({ policy, pid: process.pid, why }, 'a policy would move a process');
  }

  private keep(decision: Decision): void {
    const key = `${decision.policy}\n${decision.outcome}`;
    this.counted.set(key, (this.counted.get(key) ?? 0) + 1);
    this.decisions.push(decision);
    if (this.decisions.length > KEPT_DECISIONS) this.decisions.shift();
  }

  /** Processes that are gone need no comparing any more. */
  private forget(verdicts: readonly Verdict[]): void {
    const present = new Set(verdicts.map(({ policy, process }) => `${policy}\n${process.pid}`));
    for (const key of this.last.keys()) if (!present.has(key)) this.last.delete(key);
  }
}

function explanationOf(verdict: Verdict): Explanation {
  const { policy, outcome, why, when, until } = verdict;
  return {
    policy,
    outcome,
    ...(verdict.outcome === 'wait' ? { code: verdict.code } : {}),
    ...('to' in verdict ? { to: verdict.to, ...howWords(verdict.how) } : {}),
    why,
    when,
    ...(until === undefined ? {} : { until }),
  };
}

function howWords({ maxFreezeMs, bandwidthLimit, throttle, copyAhead, postCopy, carry }: How): { how?: string } {
  const words = [
    ...(copyAhead === false ? ['its memory in the freeze'] : []),
    ...(postCopy === true ? ['the last of its memory when it runs there'] : []),
    ...(carry === undefined ? [] : [['with its files', ...carry.paths].join(' ')]),
    ...(maxFreezeMs === undefined ? [] : [`frozen for ${durationText(maxFreezeMs)} at most`]),
    ...(bandwidthLimit === undefined ? [] : [`${bandwidthLimit / 1e6} MB/s at most`]),
    ...(throttle === undefined ? [] : [`slowed down to ${throttle} % of its pace if need be`]),
  ];
  return words.length === 0 ? {} : { how: words.join(', ') };
}
