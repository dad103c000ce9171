import type { MetricsPage } from './page.js';

/** What the node's policies are doing. */
export interface PolicyState {
  /** Whether the policy file, as it is now, is without faults. */
  readonly valid: boolean;
  readonly file: string;
  readonly names: readonly string[];
  /** Decisions since the daemon started, by `policy\noutcome`. */
  readonly decisions: ReadonlyMap<string, number>;
}

/** What a policy can come to: see Decision in cli/policy/runner.ts. */
export const DECISION_OUTCOMES = ['move', 'return', 'wait', 'stay', 'moved', 'failed'] as const;
/** Policies that a page tells apart; a file that is rewritten again and again can name ever new ones. */
const MOST_POLICIES = 100;

export interface PolicySources {
  /** Undefined: the configuration names no policy file. */
  policies(): PolicyState | undefined;
  /** Whether the node is being emptied. */
  draining(): boolean;
}

export function addPolicyMetrics(page: MetricsPage, sources: PolicySources): void {
  const group = page.group('policies');
  const count = group.gauge('homeproxy_policies', 'Policies in force on this node.');
  const valid = group.gauge(
    'homeproxy_policy_file_valid',
    '1: the policy file is in force as it is; 0: it has faults, and its last good version is in force. Absent: there is none.',
    ['file'],
  );
  const draining = group.gauge('homeproxy_draining', '1: this node is being emptied (`homeproxy drain`).');
  const decisions = group.counter(
    'homeproxy_policy_decisions_total',
    'Decisions of policies about processes that differ from the one before, and how the moves ended (moved, failed).',
    ['policy', 'outcome'],
  );
  group.refreshBy(() => {
    const state = sources.policies();
    const isDraining = sources.draining();
    for (const metric of [valid, decisions]) metric.reset();
    draining.set(isDraining ? 1 : 0);
    count.set(state?.names.length ?? 0);
    if (state === undefined) return;
    valid.set({ file: state.file }, state.valid ? 1 : 0);
    const shown = new Set(state.names.slice(0, MOST_POLICIES));
    for (const policy of shown) for (const outcome of DECISION_OUTCOMES) decisions.inc({ policy, outcome }, 0);
    for (const [key, times] of state.decisions) {
      const [policy = '', outcome = ''] = key.split('\n');
      if (shown.size < MOST_POLICIES) shown.add(policy);
      decisions.inc({ policy: shown.has(policy) ? policy : 'other', outcome }, times);
    }
  });
}
