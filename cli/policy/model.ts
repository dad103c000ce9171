/* Policies as the engine sees them: checked, with every default, in milliseconds and bytes. */
import type { MigrateOptions } from '../migration/migrate-options.js';
import type { Amount } from './quantity.js';
import type { DAYS, Selector, WrittenPolicy } from './schema.js';

export type { Selector } from './schema.js';
export type Day = (typeof DAYS)[number];

/** What a measured number must be. */
export type Bound<Value = number> =
  | { readonly side: 'above'; readonly value: Value }
  | { readonly side: 'below'; readonly value: Value };

export interface TimeWindow {
  readonly days: readonly Day[];
  /** `HH:MM` */
  readonly from: string;
  readonly to: string;
  readonly zone: string;
}

export interface PromqlQuery {
  readonly url: string;
  readonly query: string;
}

/** One condition. `path` names it within its file's policy (`when.all[0]`), `forMs` is how long it must hold. */
export type Condition = { readonly path: string; readonly forMs: number } & (
  | { readonly kind: 'all' | 'any'; readonly parts: readonly Condition[] }
  | { readonly kind: 'not'; readonly part: Condition }
  | {
      readonly kind: 'pressure';
      readonly resource: 'cpu' | 'memory' | 'io';
      readonly share: 'some' | 'full';
      readonly average: 'avg10' | 'avg60';
      readonly bound: Bound;
    }
  | { readonly kind: 'loadPerCpu'; readonly bound: Bound }
  | { readonly kind: 'availableMemory'; readonly bound: Bound<Amount> }
  | { readonly kind: 'diskFree'; readonly disk: string; readonly bound: Bound<Amount> }
  | { readonly kind: 'time'; readonly window: TimeWindow }
  | { readonly kind: 'draining'; readonly wanted: boolean }
  | { readonly kind: 'owner'; readonly is: 'present' | 'absent'; readonly withinMs: number }
  | { readonly kind: 'host'; readonly name: string; readonly is: 'reachable' | 'unreachable' }
  | { readonly kind: 'promql'; readonly query: PromqlQuery; readonly bound: Bound }
);

/** What the coordinator is told of a move. */
export type How = Pick<
  MigrateOptions,
  'maxFreezeMs' | 'bandwidthLimit' | 'throttle' | 'copyAhead' | 'postCopy' | 'carry'
>;

export interface Policy {
  readonly name: string;
  readonly processes: readonly Selector[];
  readonly from: WrittenPolicy['from'];
  readonly when: Condition;
  readonly until: Condition | undefined;
  readonly where: WrittenPolicy['where'];
  readonly how: How;
  readonly limits: {
    readonly cooldownMs: number;
    readonly atOnce: number;
    readonly moves: number;
    readonly perMs: number;
  };
}

export interface PolicySet {
  readonly everyMs: number;
  readonly policies: readonly Policy[];
}

export const NO_POLICIES: PolicySet = { everyMs: 5000, policies: [] };

/** A condition and all that it consists of. */
export function* everyPart(condition: Condition): Generator<Condition> {
  yield condition;
  if (condition.kind === 'all' || condition.kind === 'any') for (const part of condition.parts) yield* everyPart(part);
  if (condition.kind === 'not') yield* everyPart(condition.part);
}

/** All conditions of policies, with their parts. */
export function conditionsOf(policies: readonly Policy[]): Condition[] {
  return policies.flatMap(({ when, until }) => [...everyPart(when), ...(until === undefined ? [] : everyPart(until))]);
}
