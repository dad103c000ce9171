import { directionBetween } from '../migration/ends.js';
import type { Holding } from './conditions.js';
import { decide, type Verdict } from './engine.js';
import type { Facts } from './facts.js';
import { Chronicle, underway } from './history.js';
import type { Policy } from './model.js';

/** Something that a policy did, or would have done. */
export interface TimelineEntry {
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly policy: string;
  readonly pid: number;
  readonly name: string;
  readonly outcome: 'move' | 'return' | 'wait';
  readonly from: string;
  readonly to?: string;
  /** Why it waits, when it does. */
  readonly code?: string;
  readonly why: string;
}

export interface SimulationResult {
  readonly timeline: readonly TimelineEntry[];
  /** Where each process of the last record is in the end. */
  readonly locations: Readonly<Record<string, string>>;
  readonly moves: number;
}

/**
 * Lets the engine decide over recorded facts, one record after the other. What it decides happens in the simulation: from then
 * on a process is where it was sent, whatever the records say; what a move would have changed in the measured facts is not known.
 * @param moveMs how long a move takes, in milliseconds
 */
export function simulate(policies: readonly Policy[], records: readonly Facts[], moveMs: number): SimulationResult {
  const chronicle = new Chronicle();
  const sent = new Map<number, string>();
  const waiting = new Map<string, string>();
  const timeline: TimelineEntry[] = [];
  let holding: Holding = new Map();
  let moves = 0;
  const sorted = [...records].sort((a, b) => a.at - b.at);
  for (const record of sorted) {
    for (const move of chronicle.moves.filter(({ outcome, at }) => outcome === 'running' && at + moveMs <= record.at)) {
      chronicle.end(move.pid, move.at + moveMs);
      sent.set(move.pid, move.to);
    }
    const facts = withLocations(record, sent);
    const decisions = decide(policies, facts, chronicle, holding);
    holding = decisions.holding;
    for (const verdict of decisions.verdicts) {
      const key = `${verdict.policy} ${verdict.process.pid}`;
      const state = verdict.outcome === 'wait' ? verdict.code : '';
      const isNews = verdict.outcome === 'wait' && verdict.code !== 'moving' && waiting.get(key) !== state;
      waiting.set(key, state);
      if (isNews || isMove(verdict)) timeline.push(entryOf(record.at, verdict));
      if (!isMove(verdict)) continue;
      moves++;
      const { policy, process, to } = verdict;
      const from = process.location;
      const direction = directionBetween({ home: facts.home, from, to });
      chronicle.begin({ pid: process.pid, policy, direction, from, to, at: record.at });
    }
  }
  for (const { pid, to } of underway(chronicle)) sent.set(pid, to);
  const last = sorted.at(-1)?.processes ?? [];
  const locations = Object.fromEntries(last.map(({ pid, location }) => [pid, sent.get(pid) ?? location]));
  return { timeline, locations, moves };
}

function isMove(verdict: Verdict): verdict is Extract<Verdict, { outcome: 'move' | 'return' }> {
  return verdict.outcome === 'move' || verdict.outcome === 'return';
}

function withLocations(record: Facts, sent: ReadonlyMap<number, string>): Facts {
  const processes = record.processes.map((process) => ({
    ...process,
    location: sent.get(process.pid) ?? process.location,
  }));
  return { ...record, processes };
}

function entryOf(at: number, verdict: Verdict): TimelineEntry {
  const { policy, process, why } = verdict;
  const common = { at, policy, pid: process.pid, name: process.name, from: process.location, why };
  if (isMove(verdict)) return { ...common, outcome: verdict.outcome, to: verdict.to };
  return { ...common, outcome: 'wait', ...(verdict.outcome === 'wait' ? { code: verdict.code } : {}) };
}
