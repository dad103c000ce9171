import { labelsText } from '../config/labels.js';
import { type Facts, knownFacts, type ProcessFacts } from './facts.js';
import { matchesGlob, matchesLabel } from './glob.js';
import type { Policy } from './model.js';
import { nearness } from './nearness.js';
import { bytesText } from './quantity.js';

/** A process on its way to a node, or about to be sent there. */
export interface Heading {
  readonly pid: number;
  readonly to: string;
}

export interface Choice {
  readonly to: string | undefined;
  /** Why each of the other nodes is out of the question. */
  readonly rejected: readonly { readonly host: string; readonly reason: string }[];
}

/** No rule: any node that answers, is not being drained and has room. */
export const ANYWHERE: Policy['where'] = { home: 'never', not: [], cpu: [], apartFrom: [], prefer: 'most-free-memory' };

/**
 * The node that the rules choose for a process. Where it runs is none of the candidates, and its home only if the rules say so.
 * @param heading processes that are not where `facts` say for long
 * @param unwelcome why a node would be left again; undefined: it would not
 */
export function chooseHost(
  where: Policy['where'],
  process: ProcessFacts,
  facts: Facts,
  heading: readonly Heading[],
  unwelcome: (host: string) => string | undefined = () => undefined,
): Choice {
  const rejected: { host: string; reason: string }[] = [];
  const candidates: { host: string; freeBytes: number; load: number }[] = [];
  for (const host of Object.keys(facts.hosts)) {
    if (host === process.location || (host === facts.home ? where.home === 'never' : where.home === 'only')) continue;
    const rated = rate(host, where, process, facts, heading);
    if (typeof rated === 'string') rejected.push({ host, reason: rated });
    else {
      // who asks for home alone wants it out of where it is, whatever comes of it at home
      const reason = where.home === 'only' ? undefined : unwelcome(host);
      if (reason === undefined) candidates.push({ host, ...rated });
      else rejected.push({ host, reason: `it would leave again: ${reason}` });
    }
  }
  if (candidates.some(({ host }) => host === facts.home)) return { to: facts.home, rejected };
  const near = where.prefer === 'near-correspondents' ? nearnessOf(process, facts) : undefined;
  // Array.sort is stable: of equals the first of the configuration is taken.
  candidates.sort((a, b) => {
    if (where.prefer === 'least-load') return a.load - b.load;
    return (near?.get(b.host) ?? 0) - (near?.get(a.host) ?? 0) || b.freeBytes - a.freeBytes;
  });
  return { to: candidates[0]?.host, rejected };
}

/** What the rules for names and labels say against a node. */
function misnamed(host: string, where: Policy['where'], facts: Facts): string | undefined {
  if (where.among !== undefined && !where.among.some((pattern) => matchesGlob(pattern, host))) return 'not among those';
  if (where.not.some((pattern) => matchesGlob(pattern, host))) return 'excluded';
  const { labels = {} } = facts.hosts[host] ?? {};
  const lacking = Object.entries(where.labels ?? {}).filter(
    ([label, patterns]) => !matchesLabel(labels, label, patterns),
  );
  if (lacking.length > 0) {
    const wanted = lacking.map(([label, patterns]) => `${label}=${patterns.join('|')}`).join(' ');
    return `not labelled ${wanted}${Object.keys(labels).length === 0 ? '' : `, but ${labelsText(labels)}`}`;
  }
  const unwanted = Object.entries(where.notLabels ?? {}).find(([label, patterns]) =>
    matchesLabel(labels, label, patterns),
  );
  if (unwanted !== undefined) return `labelled ${unwanted[0]}=${labels[unwanted[0]]}`;
  return undefined;
}

/** What speaks against a node, or how good it is. */
function rate(
  host: string,
  where: Policy['where'],
  process: ProcessFacts,
  facts: Facts,
  heading: readonly Heading[],
): string | { freeBytes: number; load: number } {
  if (host !== facts.home) {
    const reason = misnamed(host, where, facts);
    if (reason !== undefined) return reason;
  }
  const known = knownFacts(facts, host);
  if (known === undefined) return facts.hosts[host]?.reachable === true ? 'nothing is known of it yet' : 'unreachable';
  if (known.draining) return 'being drained';
  const atHome = knownFacts(facts, facts.home)?.cpuFeatures;
  const processor = host === facts.home ? undefined : unfitProcessor(known.cpuFeatures, where.cpu, atHome);
  if (processor !== undefined) return processor;
  const coming = facts.processes.filter(({ pid }) => heading.some((one) => one.pid === pid && one.to === host));
  const claimed = coming.reduce((sum, { residentBytes }) => sum + residentBytes, 0);
  const available = known.memory?.availableBytes;
  const needed = (where.minAvailableMemory ?? 0) + process.residentBytes;
  if (available === undefined && where.minAvailableMemory !== undefined) return 'its memory is not known';
  const freeBytes = (available ?? Number.POSITIVE_INFINITY) - claimed;
  if (freeBytes < needed)
    return `${bytesText(Math.max(0, freeBytes))} of memory available, ${bytesText(needed)} needed`;
  const load = known.load1 === undefined || known.cpus === undefined ? undefined : known.load1 / known.cpus;
  if (where.maxLoadPerCpu !== undefined) {
    if (load === undefined) return 'its load is not known';
    if (load > where.maxLoadPerCpu) return `load per CPU ${load.toFixed(2)}`;
  }
  const there = facts.processes.filter(({ pid, location }) => location === host && pid !== process.pid);
  const neighbour = [...there, ...coming].find(
    ({ pid, name }) => pid !== process.pid && where.apartFrom.some((pattern) => matchesGlob(pattern, name)),
  );
  if (neighbour !== undefined) return `${neighbour.name} (${neighbour.pid}) is there`;
  return { freeBytes: available === undefined ? 0 : freeBytes, load: load ?? Number.POSITIVE_INFINITY };
}

/**
 * What the processors of a host lack: of what the rules ask for, and of what the process's home has. A program finds out at its
 * start what its processor can do; the host would refuse it for that (`CPU_FEATURES`), and be asked again and again.
 */
function unfitProcessor(
  there: readonly string[] | undefined,
  wanted: readonly string[],
  atHome: readonly string[] = [],
): string | undefined {
  if (there === undefined) return wanted.length === 0 ? undefined : 'its processors are not known';
  const has = new Set(there);
  const asked = wanted.filter((feature) => !has.has(feature));
  if (asked.length > 0) return `its processors lack ${asked.join(', ')}`;
  const used = atHome.filter((feature) => !has.has(feature));
  return used.length === 0 ? undefined : `its processors lack ${used.join(', ')}, which those of its home have`;
}

function nearnessOf({ correspondents }: ProcessFacts, facts: Facts): ReadonlyMap<string, number> {
  const places = Object.entries(facts.hosts).map(([name, { near = [] }]) => {
    return { name, networks: [...near, ...(knownFacts(facts, name)?.networks ?? [])] };
  });
  return nearness(correspondents, places);
}
