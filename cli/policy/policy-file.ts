import type { z } from 'zod';
import type { Labels } from '../config/labels.js';
import { readSettings } from '../config/load.js';
import { parseSettings } from '../config/parse.js';
import { projectFile } from '../system/project.js';
import { isGlob, matchesGlob, matchesLabel } from './glob.js';
import type { Bound, Condition, How, Policy, PolicySet } from './model.js';
import {
  policyFileSchema,
  type Selector,
  type WrittenCondition,
  type WrittenFile,
  type WrittenPolicy,
} from './schema.js';

/** Conditions within conditions, and conditions of one policy: enough for people, few enough for every tick. */
const MAX_DEPTH = 8;
const MAX_CONDITIONS = 100;
/** Paths that a node is asked about, and queries in each tick, over all policies. */
export const MAX_DISK_PATHS = 16;
const MAX_QUERIES = 32;

const BOUNDED = ['pressure', 'loadPerCpu', 'availableMemory', 'diskFree', 'promql'] as const;
const KINDS = ['all', 'any', 'not', ...BOUNDED, 'time', 'draining', 'owner', 'host'] as const;

type Path = (string | number)[];

/** A node of the configuration, as far as policies name it. */
export interface KnownNode {
  readonly name: string;
  readonly labels?: Labels | undefined;
}
type Complain = (path: Path, message: string) => void;

/**
 * Reads and checks a policy file.
 * @param nodes those of the configuration; undefined: what policies say of nodes is not checked
 * @throws {UserError} `POLICY_INVALID` with one line per problem, `CONFIG_MISSING` or `CONFIG_UNREADABLE`; exit 2
 */
export async function loadPolicies(path: string, nodes?: readonly KnownNode[]): Promise<PolicySet> {
  return parsePolicies(await readSettings(path), path, nodes);
}

/**
 * Checks the text of a policy file.
 * @param file the name that problems begin with
 * @throws {UserError} `POLICY_INVALID`: one line per problem, `file:line:column: path: message`
 */
export function parsePolicies(text: string, file: string, nodes?: readonly KnownNode[]): PolicySet {
  const schema = policyFileSchema.superRefine((written, context) => {
    checkWhole(written, nodes, (path, message) => context.addIssue({ code: 'custom', path, message }));
  });
  const remedy = `${projectFile('config/policy.example.yaml')} shows every setting`;
  const written = parseSettings(text, file, schema as z.ZodType<WrittenFile>, { code: 'POLICY_INVALID', remedy });
  return { everyMs: written.every, policies: written.policies.map(policyOf) };
}

/** What one setting says about another, and what the shape alone cannot tell. */
function checkWhole({ policies }: WrittenFile, nodes: readonly KnownNode[] | undefined, complain: Complain): void {
  const names = new Set<string>();
  const disks = new Set<string>();
  const queries = new Set<string>();
  policies.forEach((policy, index) => {
    const at: Path = ['policies', index];
    if (names.has(policy.name)) complain([...at, 'name'], `is used twice: "${policy.name}"`);
    names.add(policy.name);
    policy.processes.forEach((selector, place) => {
      if (isEmpty(selector)) {
        complain([...at, 'processes', place], 'must say something about the process: no policy is about every process');
      }
      checkSelector(selector, [...at, 'processes', place], complain);
    });
    let count = 0;
    const visit = (condition: WrittenCondition, path: Path, depth: number): void => {
      count++;
      if (depth > MAX_DEPTH) {
        complain(path, `must not be nested deeper than ${MAX_DEPTH}`);
        return;
      }
      checkCondition(condition, path, nodes, complain);
      if (condition.diskFree !== undefined) disks.add(condition.diskFree.path);
      if (condition.promql !== undefined) queries.add(`${condition.promql.url} ${condition.promql.query}`);
      for (const kind of ['all', 'any'] as const) {
        condition[kind]?.forEach((part, place) => {
          visit(part, [...path, kind, place], depth + 1);
        });
      }
      if (condition.not !== undefined) visit(condition.not, [...path, 'not'], depth + 1);
    };
    visit(policy.when, [...at, 'when'], 1);
    if (policy.until !== undefined) visit(policy.until, [...at, 'until'], 1);
    if (count > MAX_CONDITIONS) complain([...at, 'when'], `has more than ${MAX_CONDITIONS} conditions`);
    checkWhere(policy, at, nodes, complain);
    if (policy.how.files === 'shared' && policy.how.carry.length > 0) {
      complain([...at, 'how', 'carry'], 'needs `files: carry` beside it');
    }
    if (policy.how.throttle !== undefined && policy.how.mode === 'stop-and-copy') {
      complain(
        [...at, 'how', 'throttle'],
        'says nothing with `mode: stop-and-copy`: in the freeze there is nothing to slow down',
      );
    }
  });
  if (disks.size > MAX_DISK_PATHS) complain(['policies'], `name more than ${MAX_DISK_PATHS} different paths`);
  if (queries.size > MAX_QUERIES) complain(['policies'], `hold more than ${MAX_QUERIES} different queries`);
}

function checkCondition(
  condition: WrittenCondition,
  path: Path,
  nodes: readonly KnownNode[] | undefined,
  complain: Complain,
): void {
  const kinds = KINDS.filter((kind) => condition[kind] !== undefined);
  if (kinds.length !== 1) {
    const said = kinds.length === 0 ? 'nothing' : kinds.join(' and ');
    complain(path, `must be exactly one of ${KINDS.join(', ')}; it is ${said}`);
  }
  for (const kind of ['all', 'any'] as const) {
    if (condition[kind]?.length === 0) complain([...path, kind], 'must list at least one condition');
  }
  for (const kind of BOUNDED) {
    const measured = condition[kind];
    if (measured !== undefined && (measured.above === undefined) === (measured.below === undefined)) {
      complain([...path, kind], 'must have either above or below');
    }
  }
  if (condition.time !== undefined && condition.time.from === condition.time.to) {
    complain([...path, 'time', 'to'], 'must differ from `from`');
  }
  const { host } = condition;
  if (host !== undefined && nodes !== undefined && !nodes.some(({ name }) => name === host.name)) {
    complain([...path, 'host', 'name'], unknownNode(host.name, nodes));
  }
}

/** Who starts a process labels it as he likes, but chooses neither its user nor the unit or cgroup that root puts it into. */
function checkSelector({ labels, user, unit, cgroup }: Selector, path: Path, complain: Complain): void {
  if (labels === undefined || user !== undefined || unit !== undefined || cgroup !== undefined) return;
  complain([...path, 'labels'], 'needs user, unit or cgroup beside it: anybody can label what he starts');
}

function checkWhere(
  { from, where }: WrittenPolicy,
  at: Path,
  nodes: readonly KnownNode[] | undefined,
  complain: Complain,
): void {
  if (from === 'home' && where.home !== 'never') {
    complain([...at, 'where', 'home'], 'needs a `from` that is not home: what is at home cannot go there');
  }
  if (nodes === undefined) return;
  const listed = typeof from === 'string' ? [] : from;
  listed.forEach((pattern, place) => {
    if (nodes.some(({ name }) => matchesGlob(pattern, name))) return;
    complain([...at, 'from', place], `matches no node: ${namesOf(nodes)}`);
  });
  for (const key of ['among', 'not'] as const) {
    where[key]?.forEach((pattern, place) => {
      if (nodes.some(({ name }) => matchesGlob(pattern, name))) return;
      const message = isGlob(pattern) ? `matches no node: ${namesOf(nodes)}` : unknownNode(pattern, nodes);
      complain([...at, 'where', key, place], message);
    });
  }
  for (const key of ['labels', 'notLabels'] as const) {
    for (const [label, patterns] of Object.entries(where[key] ?? {})) {
      if (nodes.some(({ labels = {} }) => matchesLabel(labels, label, patterns))) continue;
      const said = nodes.flatMap(({ name, labels }) =>
        labels?.[label] === undefined ? [] : [`${labels[label]} (${name})`],
      );
      const have = said.length === 0 ? 'none has it' : `they have ${said.join(', ')}`;
      complain([...at, 'where', key, label], `matches no node of the configuration: ${have}`);
    }
  }
}

function unknownNode(name: string, nodes: readonly KnownNode[]): string {
  return `"${name}" is not one of the nodes: ${namesOf(nodes)}`;
}

function namesOf(nodes: readonly KnownNode[]): string {
  return nodes.map(({ name }) => name).join(', ');
}

function isEmpty(selector: Selector): boolean {
  return Object.values(selector).every((value) => value === undefined);
}

function policyOf({ name, processes, from, when, until, where, how, limits }: WrittenPolicy): Policy {
  return {
    name,
    processes,
    from,
    when: conditionOf(when, 'when'),
    until: until === undefined ? undefined : conditionOf(until, 'until'),
    where,
    how: howOf(how),
    limits: { cooldownMs: limits.cooldown, atOnce: limits.atOnce, moves: limits.moves, perMs: limits.per },
  };
}

function howOf({ maxFreeze, bandwidthLimit, throttle, mode, files, carry }: WrittenPolicy['how']): How {
  return {
    ...(maxFreeze === undefined ? {} : { maxFreezeMs: maxFreeze }),
    ...(bandwidthLimit === undefined ? {} : { bandwidthLimit }),
    ...(throttle === undefined ? {} : { throttle }),
    ...(mode === 'stop-and-copy' ? { copyAhead: false } : {}),
    ...(mode === 'post-copy' ? { postCopy: true } : {}),
    ...(files === 'shared' ? {} : { carry: { paths: carry } }),
  };
}

function conditionOf(written: WrittenCondition, path: string): Condition {
  const common = { path, forMs: written.for ?? 0 };
  const { all, any, not, pressure, loadPerCpu, availableMemory, diskFree, time, draining, owner, host, promql } =
    written;
  const parts = (list: readonly WrittenCondition[], kind: string) =>
    list.map((part, index) => conditionOf(part, `${path}.${kind}[${index}]`));
  if (all !== undefined) return { ...common, kind: 'all', parts: parts(all, 'all') };
  if (any !== undefined) return { ...common, kind: 'any', parts: parts(any, 'any') };
  if (not !== undefined) return { ...common, kind: 'not', part: conditionOf(not, `${path}.not`) };
  if (pressure !== undefined) {
    const { resource, share, average } = pressure;
    return { ...common, kind: 'pressure', resource, share, average, bound: boundOf(pressure) };
  }
  if (loadPerCpu !== undefined) return { ...common, kind: 'loadPerCpu', bound: boundOf(loadPerCpu) };
  if (availableMemory !== undefined) return { ...common, kind: 'availableMemory', bound: boundOf(availableMemory) };
  if (diskFree !== undefined) {
    return { ...common, kind: 'diskFree', disk: diskFree.path, bound: boundOf(diskFree) };
  }
  if (time !== undefined) return { ...common, kind: 'time', window: time };
  if (owner !== undefined) return { ...common, kind: 'owner', is: owner.is, withinMs: owner.within };
  if (host !== undefined) return { ...common, kind: 'host', ...host };
  if (promql !== undefined) {
    const { url, query } = promql;
    return { ...common, kind: 'promql', query: { url, query }, bound: boundOf(promql) };
  }
  return { ...common, kind: 'draining', wanted: draining ?? true };
}

function boundOf<Value>({ above, below }: { above?: Value | undefined; below?: Value | undefined }): Bound<Value> {
  if (above !== undefined) return { side: 'above', value: above };
  if (below !== undefined) return { side: 'below', value: below };
  throw new TypeError('neither above nor below'); // the check before this one refuses it
}
