import { evaluate, type Finding, type Holding, isAboutNode, reasonText } from './conditions.js';
import { type Choice, chooseHost, type Heading } from './destinations.js';
import { type Facts, knownFacts, type ProcessFacts } from './facts.js';
import { matchesGlob } from './glob.js';
import { backOffEnd, type History, lastArrival, underway } from './history.js';
import type { How, Policy } from './model.js';
import { durationText } from './quantity.js';
import { chosen } from './selection.js';

/** Why a process that a policy would move stays for now. */
export type WaitCode =
  | 'moving'
  | 'other-policy'
  | 'back-off'
  | 'cooldown'
  | 'at-once'
  | 'moves'
  | 'no-host'
  | 'home-draining'
  | 'would-leave-again';

/** What one policy says about one process now. */
export type Verdict = {
  readonly policy: string;
  readonly process: ProcessFacts;
  readonly when: Finding;
  readonly until: Finding | undefined;
  /** In words. */
  readonly why: string;
} & (
  | { readonly outcome: 'move'; readonly to: string; readonly how: How }
  | { readonly outcome: 'return'; readonly to: string; readonly how: How }
  | { readonly outcome: 'wait'; readonly code: WaitCode; readonly hosts?: Choice['rejected'] }
  | { readonly outcome: 'stay' }
);

export interface Decisions {
  /** For each policy, in their order, one for each process that it is about. */
  readonly verdicts: readonly Verdict[];
  /** For the next decision. */
  readonly holding: Holding;
}

/**
 * Decides: the same facts, policies and past always give the same verdicts, and time is what the facts say. What the verdicts
 * `move` and `return` name must be entered in the history before the next decision.
 */
export function decide(policies: readonly Policy[], facts: Facts, history: History, before: Holding): Decisions {
  const about = new Map(policies.map((policy) => [policy, chosen(policy, facts.processes)]));
  const tick = new Tick(facts, history, before, policiesByPid(about));
  const verdicts = policies.flatMap((policy) => {
    const processes = about.get(policy) ?? [];
    tick.look(policy); // also without a process: the times of its conditions go on
    return processes.map((process) => tick.judge(policy, process));
  });
  return { verdicts, holding: tick.after };
}

function policiesByPid(about: ReadonlyMap<Policy, readonly ProcessFacts[]>): Map<number, Policy[]> {
  const found = new Map<number, Policy[]>();
  for (const [policy, processes] of about) {
    for (const { pid } of processes) found.set(pid, [...(found.get(pid) ?? []), policy]);
  }
  return found;
}

/** Whether a policy moves processes from a node. */
function leaves({ from }: Policy, node: string, home: string): boolean {
  if (typeof from !== 'string') return from.some((pattern) => matchesGlob(pattern, node));
  return from === 'anywhere' || (node === home) === (from === 'home');
}

/** A wish of a policy: its limits are still to be asked. */
type Wish =
  | { readonly kind: 'move' | 'return'; readonly why: string }
  | { readonly kind: 'wait'; readonly code: WaitCode; readonly why: string }
  | { readonly kind: 'stay'; readonly why: string };

class Tick {
  readonly after = new Map<string, number>();
  /** What this tick begins. */
  private readonly begun: (Heading & { readonly policy: string })[] = [];
  private readonly findings = new Map<string, Finding>();

  constructor(
    private readonly facts: Facts,
    private readonly history: History,
    private readonly before: Holding,
    private readonly about: ReadonlyMap<number, readonly Policy[]>,
  ) {}

  look(policy: Policy): void {
    this.find(policy, 'when', this.facts.home);
    this.find(policy, 'until', this.facts.home);
  }

  judge(policy: Policy, process: ProcessFacts): Verdict {
    const node = policy.from === 'home' ? this.facts.home : process.location;
    const when = this.find(policy, 'when', node);
    const until = this.find(policy, 'until', this.facts.home);
    if (when === undefined) throw new TypeError('a policy has no when');
    const common = { policy: policy.name, process, when, until };
    if (process.moving || underway(this.history).some((move) => this.related(process, move.pid))) {
      return { ...common, outcome: 'wait', code: 'moving', why: 'it is on its way now' };
    }
    const wish = this.wish(policy, process, when, until);
    if (wish.kind === 'stay') return { ...common, outcome: 'stay', why: wish.why };
    if (wish.kind === 'wait') return { ...common, outcome: 'wait', code: wish.code, why: wish.why };
    const limited = this.limit(policy, process);
    if (limited !== undefined) return { ...common, outcome: 'wait', ...limited };
    const go = { ...common, why: wish.why, how: policy.how };
    if (wish.kind === 'return') {
      this.begun.push({ pid: process.pid, to: this.facts.home, policy: policy.name });
      return { ...go, outcome: 'return', to: this.facts.home };
    }
    const { to, rejected } = chooseHost(
      policy.where,
      process,
      this.facts,
      [...underway(this.history), ...this.begun],
      (host) => this.unwelcome(process, host),
    );
    if (to === undefined) {
      const hosts = rejected.map(({ host, reason }) => `${host} (${reason})`).join(', ');
      const why = `no host: ${hosts === '' ? 'there is no other' : hosts}`;
      return { ...common, outcome: 'wait', code: 'no-host', why, hosts: rejected };
    }
    this.begun.push({ pid: process.pid, to, policy: policy.name });
    return { ...go, outcome: to === this.facts.home ? 'return' : 'move', to };
  }

  private wish(policy: Policy, process: ProcessFacts, when: Finding, until: Finding | undefined): Wish {
    const { home } = this.facts;
    const atHome = process.location === home;
    const isFrom = leaves(policy, process.location, home);
    const going = isFrom && when.truth === 'yes' && this.appliesAt(policy, process.location, when);
    const sent = !atHome && this.history.senders.get(process.pid) === policy.name;
    if (sent && until?.truth === 'yes') {
      const again = this.unwelcome(process, home);
      const draining = knownFacts(this.facts, home)?.draining === true;
      if (again === undefined && !draining) return { kind: 'return', why: reasonText(until) };
      if (!going) {
        if (draining) return { kind: 'wait', code: 'home-draining', why: `${home} is being drained` };
        return { kind: 'wait', code: 'would-leave-again', why: `it would leave again: ${again}` };
      }
    }
    if (going) return { kind: 'move', why: reasonText(when) };
    if (isFrom && when.truth === 'yes') {
      return { kind: 'stay', why: `it has left home for this, and another node would not help: ${reasonText(when)}` };
    }
    if (isFrom) return { kind: 'stay', why: `\`when\` does not hold: ${held(when)}` };
    if (policy.from !== 'home')
      return { kind: 'stay', why: `the policy is not about what runs on ${process.location}` };
    if (!sent) return { kind: 'stay', why: 'it is away, and this policy did not send it' };
    return {
      kind: 'stay',
      why: until === undefined ? 'it is away, and there is no `until`' : `\`until\` does not hold: ${held(until)}`,
    };
  }

  private limit(policy: Policy, process: ProcessFacts): { code: WaitCode; why: string } | undefined {
    const { at } = this.facts;
    const { pid } = process;
    const other = this.begun.find((one) => this.related(process, one.pid));
    if (other !== undefined) return { code: 'other-policy', why: `${other.policy} moves it now` };
    const backOff = backOffEnd(this.history, pid);
    if (backOff !== undefined && at < backOff) {
      const last = this.history.moves.findLast((move) => move.pid === pid && move.outcome === 'failed');
      return { code: 'back-off', why: `tried again in ${durationText(backOff - at)}, after: ${last?.error ?? ''}` };
    }
    const rest = (lastArrival(this.history, pid) ?? Number.NEGATIVE_INFINITY) + this.cooldownMs(pid);
    if (at < rest)
      return { code: 'cooldown', why: `it moved a short time ago: it stays for ${durationText(rest - at)}` };
    const { atOnce, moves, perMs } = policy.limits;
    const mine = this.history.moves.filter((move) => move.policy === policy.name);
    const now = this.begun.filter((one) => one.policy === policy.name).length;
    const running = mine.filter(({ outcome }) => outcome === 'running').length + now;
    if (running >= atOnce) return { code: 'at-once', why: `${running} of this policy on their way, at most ${atOnce}` };
    const recent = mine.filter((move) => move.at > at - perMs).length + now;
    if (recent < moves) return undefined;
    return { code: 'moves', why: `${recent} moves of this policy in ${durationText(perMs)}, at most ${moves}` };
  }

  /** A process rests for the longest of the times that the policies about it ask for. */
  private cooldownMs(pid: number): number {
    return Math.max(0, ...(this.about.get(pid) ?? []).map(({ limits }) => limits.cooldownMs));
  }

  /**
   * Why a process would have to leave a node as soon as it has rested there: some policy about it holds there. Nothing goes where it
   * cannot stay, so that no two policies throw it to and fro.
   */
  private unwelcome({ pid }: ProcessFacts, node: string): string | undefined {
    for (const policy of this.about.get(pid) ?? []) {
      if (!leaves(policy, node, this.facts.home)) continue;
      // what holds there now may have held for long enough by the time that the process may move again
      const found = [this.find(policy, 'when', node), this.find(policy, 'when', node, true)];
      const reason = found.find((when) => when?.now === 'yes' && this.appliesAt(policy, node, when));
      if (reason !== undefined) return reasonText(reason);
    }
    return undefined;
  }

  /** From a host, `anywhere` moves on only by what is measured there: what holds everywhere would lead from host to host for ever. */
  private appliesAt({ from, when }: Policy, node: string, found: Finding): boolean {
    return from !== 'anywhere' || node === this.facts.home || isAboutNode(when, found);
  }

  /** A tree moves as one: who leaves takes its descendants along. */
  private related(process: ProcessFacts, pid: number): boolean {
    if (process.pid === pid || process.ancestors.includes(pid)) return true;
    const other = this.facts.processes.find((candidate) => candidate.pid === pid);
    return other?.ancestors.includes(process.pid) === true;
  }

  private find(policy: Policy, side: 'when' | 'until', node: string, impatient = false): Finding | undefined {
    const condition = policy[side];
    if (condition === undefined) return undefined;
    const key = `${policy.name}\n${side}\n${node}\n${impatient}`;
    const known = this.findings.get(key);
    if (known !== undefined) return known;
    const { facts, before, after } = this;
    const finding = evaluate(condition, { facts, policy: policy.name, node, before, after, impatient });
    this.findings.set(key, finding);
    return finding;
  }
}

/** What is missing: the value, or the time. */
function held(finding: Finding): string {
  const { now, truth, heldMs = 0, forMs = 0 } = finding;
  const time = now === 'yes' && truth === 'no' ? ` (for ${durationText(heldMs)} of ${durationText(forMs)})` : '';
  return `${reasonText(finding)}${time}`;
}
