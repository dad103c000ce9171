import type { Facts, ProcessFacts } from './facts.js';
import { matchesGlob, matchesLabel } from './glob.js';
import type { Policy, Selector } from './model.js';

/** What a process is not that a selector asks for, in words; undefined when it is all of it. */
export function mismatch(selector: Selector, process: Omit<ProcessFacts, 'location'>): string | undefined {
  // One after the other: what is not asked for need not be read.
  const patterns = [
    ['name', selector.name, () => process.name],
    ['command line', selector.commandLine, () => process.commandLine],
    ['cgroup', selector.cgroup, () => process.cgroup],
    ['unit', selector.unit, () => unitOf(process.cgroup) ?? ''],
  ] as const;
  for (const [what, pattern, read] of patterns) {
    if (pattern === undefined) continue;
    const text = read();
    if (matchesGlob(pattern, text)) continue;
    return text === '' ? `it has no ${what}` : `its ${what} is "${text}", not "${pattern}"`;
  }
  const { user, port } = selector;
  if (user !== undefined && user !== process.user && user !== String(process.uid ?? '')) {
    return `its user is "${process.user || (process.uid ?? 'unknown')}", not "${user}"`;
  }
  if (port !== undefined && !process.ports.includes(port)) return `it does not listen on port ${port}`;
  for (const [label, patterns] of Object.entries(selector.labels ?? {})) {
    const { labels } = process;
    if (matchesLabel(labels, label, patterns)) continue;
    if (!Object.hasOwn(labels, label)) return `it has no label "${label}"`;
    return `its label ${label} is "${labels[label]}", not ${patterns.map((pattern) => `"${pattern}"`).join(' or ')}`;
  }
  return undefined;
}

/** Why a policy is not about a process; undefined when it is. */
export function exclusion({ processes }: Policy, process: Omit<ProcessFacts, 'location'>): string | undefined {
  const reasons = processes.map((selector) => mismatch(selector, process));
  return reasons.includes(undefined) ? undefined : reasons.join('; ');
}

/** The processes that a policy is about: of a tree whose members it chooses, the root alone, since a tree moves as one. */
export function chosen(policy: Policy, processes: Facts['processes']): ProcessFacts[] {
  const matching = processes.filter((process) => exclusion(policy, process) === undefined);
  const pids = new Set(matching.map(({ pid }) => pid));
  return matching.filter(({ ancestors }) => !ancestors.some((pid) => pids.has(pid)));
}

/**
 * The systemd unit that a cgroup belongs to: the first part that names one, as sd_pid_get_unit(3) sees it. What is below belongs
 * to whom the unit was delegated, who may give it any name: a user's own manager is `user@1000.service` with all it contains.
 */
function unitOf(cgroup: string): string | undefined {
  return cgroup.split('/').find((part) => /\.(service|scope)$/.test(part));
}
