import { type Facts, knownFacts, queryKey } from './facts.js';
import { type Bound, type Condition, everyPart } from './model.js';
import { type Amount, amountText, bytesText, durationText } from './quantity.js';
import { inWindow, localTime } from './time-window.js';

/** `unknown`: it cannot be measured now; neither it nor its opposite holds. */
export type Truth = 'yes' | 'no' | 'unknown';

/** What a condition is now, and why. */
export interface Finding {
  readonly path: string;
  readonly text: string;
  /** Whether it holds, and has held for as long as it must. */
  readonly truth: Truth;
  /** Whether it holds at this moment. */
  readonly now: Truth;
  /** The present value of what it measures, in words. */
  readonly value?: string;
  /** How long it has held, and must hold, in milliseconds. */
  readonly heldMs?: number;
  readonly forMs?: number;
  readonly parts?: readonly Finding[];
}

/** Since when conditions have held, by policy, path and node; milliseconds since the epoch. */
export type Holding = ReadonlyMap<string, number>;

export interface Scope {
  readonly facts: Facts;
  readonly policy: string;
  /** The node that measuring conditions read. */
  readonly node: string;
  readonly before: Holding;
  /** What holds now, for the next time; written to. */
  readonly after: Map<string, number>;
  /** What holds counts at once, however long it must hold. */
  readonly impatient?: boolean;
}

/** Evaluates a condition with all its parts: nothing is left out, so that each part's time goes on. */
export function evaluate(condition: Condition, scope: Scope): Finding {
  const { path, forMs } = condition;
  const measured = measure(condition, scope);
  if (forMs === 0 || scope.impatient === true) return { path, ...measured, truth: measured.now };
  if (measured.now !== 'yes') return { path, ...measured, truth: measured.now, heldMs: 0, forMs };
  const key = `${scope.policy}\n${path}\n${scope.node}`;
  const { at } = scope.facts;
  const since = Math.min(scope.before.get(key) ?? at, at); // a clock that was set back must not make it older
  scope.after.set(key, since);
  const heldMs = at - since;
  return { path, ...measured, truth: heldMs >= forMs ? 'yes' : 'no', heldMs, forMs };
}

/**
 * Whether a condition that holds now would not hold, or need not, on another node: something that it measures of the node makes it
 * hold. A time or a query is the same wherever the process runs.
 */
export function isAboutNode(condition: Condition, { parts = [] }: Finding): boolean {
  const within = (list: readonly Condition[]): boolean =>
    list.some((part, index) => {
      const found = parts[index];
      return found?.truth === 'yes' && isAboutNode(part, found);
    });
  switch (condition.kind) {
    case 'all':
    case 'any':
      return within(condition.parts);
    case 'not':
      return [...everyPart(condition.part)].some(({ kind }) => MEASURED.has(kind));
    default:
      return MEASURED.has(condition.kind);
  }
}

const MEASURED: ReadonlySet<Condition['kind']> = new Set([
  'pressure',
  'loadPerCpu',
  'availableMemory',
  'diskFree',
  'draining',
  'owner',
]);

type Measured = Pick<Finding, 'text' | 'now' | 'value' | 'parts'>;

function measure(condition: Condition, scope: Scope): Measured {
  const { facts, node } = scope;
  switch (condition.kind) {
    case 'all':
    case 'any': {
      const parts = condition.parts.map((part) => evaluate(part, scope));
      return { text: condition.kind === 'all' ? 'all of' : 'any of', now: joined(condition.kind, parts), parts };
    }
    case 'not': {
      const part = evaluate(condition.part, scope);
      return { text: 'not', now: opposite(part.truth), parts: [part] };
    }
    case 'time': {
      const { days, from, to, zone } = condition.window;
      const { day, minute } = localTime(facts.at, zone);
      const clock = `${String(Math.floor(minute / 60)).padStart(2, '0')}:${String(minute % 60).padStart(2, '0')}`;
      return {
        text: `time ${days.length === 7 ? 'every day' : days.join(' ')} ${from} to ${to} ${zone}`,
        now: inWindow(condition.window, facts.at) ? 'yes' : 'no',
        value: `${day} ${clock}`,
      };
    }
    case 'host': {
      const reachable = facts.hosts[condition.name]?.reachable;
      const value = reachable === true ? 'reachable' : 'unreachable';
      const now = value === condition.is ? 'yes' : 'no';
      return { text: `${condition.name} is ${condition.is}`, now: reachable === undefined ? 'unknown' : now, value };
    }
    case 'draining': {
      const draining = knownFacts(facts, node)?.draining;
      const text = `${node} is ${condition.wanted ? '' : 'not '}being drained`;
      if (draining === undefined) return { text, now: 'unknown' };
      return { text, now: draining === condition.wanted ? 'yes' : 'no', value: draining ? 'draining' : 'not draining' };
    }
    case 'owner': {
      const { is, withinMs } = condition;
      const idleMs = knownFacts(facts, node)?.terminalIdleMs;
      const text = `${is === 'present' ? 'somebody' : 'nobody'} has typed at ${node} within ${durationText(withinMs)}`;
      if (idleMs === undefined) return { text, now: 'unknown' };
      const present = idleMs !== null && idleMs < withinMs;
      const value = idleMs === null ? 'no terminal is in use' : `${durationText(idleMs)} ago`;
      return { text, now: present === (is === 'present') ? 'yes' : 'no', value };
    }
    case 'promql': {
      const text = `promql ${condition.query.query} ${boundText(condition.bound)}`;
      const answer = facts.queries[queryKey(condition.query)] ?? { error: 'not asked yet' };
      if ('error' in answer) return { text, now: 'unknown', value: answer.error };
      const extreme = Math[condition.bound.side === 'above' ? 'max' : 'min'](...answer.values);
      if (answer.values.length === 0) return { text, now: 'no', value: 'an empty result' };
      return { text, now: within(condition.bound, extreme), value: number(extreme) };
    }
    default:
      return measureNode(condition, scope);
  }
}

type NodeCondition = Extract<Condition, { kind: 'pressure' | 'loadPerCpu' | 'availableMemory' | 'diskFree' }>;

function measureNode(condition: NodeCondition, { facts, node }: Scope): Measured {
  const known = knownFacts(facts, node);
  switch (condition.kind) {
    case 'pressure': {
      const { resource, share, average, bound } = condition;
      const value = known?.pressure?.[resource][share][average];
      return compared(`${resource} pressure of ${node}, ${share} ${average},`, bound, value);
    }
    case 'loadPerCpu': {
      const { load1, cpus } = known ?? {};
      const value = load1 === undefined || cpus === undefined ? undefined : load1 / cpus;
      return compared(`load per CPU of ${node}`, condition.bound, value);
    }
    case 'availableMemory': {
      const { memory } = known ?? {};
      const text = `available memory of ${node}`;
      return comparedAmount(text, condition.bound, memory?.availableBytes, memory?.totalBytes);
    }
    case 'diskFree': {
      const disk = known?.disks[condition.disk];
      const text = `free space of ${condition.disk} on ${node}`;
      return comparedAmount(text, condition.bound, disk?.freeBytes, disk?.totalBytes);
    }
  }
}

function compared(what: string, bound: Bound, value: number | undefined): Measured {
  const text = `${what} ${boundText(bound)}`;
  if (value === undefined) return { text, now: 'unknown' };
  return { text, now: within(bound, value), value: number(value) };
}

function comparedAmount(
  what: string,
  { side, value: wanted }: Bound<Amount>,
  free: number | undefined,
  total: number | undefined,
): Measured {
  const text = `${what} ${side} ${amountText(wanted)}`;
  if (free === undefined || total === undefined) return { text, now: 'unknown' };
  const percent = total === 0 ? 0 : (100 * free) / total;
  const now = within({ side, value: wanted.value }, wanted.unit === 'percent' ? percent : free);
  return { text, now, value: `${bytesText(free)} (${percent.toFixed(1)}%)` };
}

function within({ side, value }: Bound, measured: number): Truth {
  if (Number.isNaN(measured)) return 'unknown';
  return (side === 'above' ? measured > value : measured < value) ? 'yes' : 'no';
}

function joined(kind: 'all' | 'any', parts: readonly Finding[]): Truth {
  const deciding = kind === 'all' ? 'no' : 'yes';
  if (parts.some(({ truth }) => truth === deciding)) return deciding;
  if (parts.some(({ truth }) => truth === 'unknown')) return 'unknown';
  return kind === 'all' ? 'yes' : 'no';
}

function opposite(truth: Truth): Truth {
  if (truth === 'unknown') return 'unknown';
  return truth === 'yes' ? 'no' : 'yes';
}

function boundText({ side, value }: Bound): string {
  return `${side} ${value}`;
}

function number(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** The conditions that make a finding what it is, in one line: `free space of /var on home below 10%: 3 MiB (4.7%)`. */
export function reasonText(finding: Finding): string {
  if (finding.parts === undefined) {
    return finding.value === undefined ? `${finding.text}: unknown` : `${finding.text}: ${finding.value}`;
  }
  const telling = finding.parts.filter(({ truth }) =>
    finding.text === 'not' ? true : truth === finding.truth || finding.parts?.length === 1,
  );
  const texts = (telling.length > 0 ? telling : finding.parts).map(reasonText);
  return `${finding.text === 'not' ? 'not ' : ''}${texts.join(finding.text === 'any of' ? ' or ' : ' and ')}`;
}
