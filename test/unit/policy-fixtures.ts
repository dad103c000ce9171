import { type Facts, factsSchema, type HostFacts } from '../../cli/policy/facts.js';
import type { Policy } from '../../cli/policy/model.js';
import { parsePolicies } from '../../cli/policy/policy-file.js';

export const GIB = 2 ** 30;

/** Policies from YAML, as a file would have them. */
export function policies(text: string): readonly Policy[] {
  return parsePolicies(text, 'p.yaml').policies;
}

/** One policy `p` about processes called `a*`. */
export function policy(...lines: string[]): Policy {
  const [only] = policies(
    ['policies:', '  - name: p', "    processes: [{name: 'a*'}]", ...lines.map((line) => `    ${line}`)].join('\n'),
  );
  if (only === undefined) throw new Error('no policy');
  return only;
}

export interface FactsOptions {
  readonly at?: number;
  readonly hosts?: Readonly<Record<string, Partial<HostFacts> | 'down'>>;
  readonly processes?: readonly (Partial<Facts['processes'][number]> & { pid: number })[];
  readonly queries?: Facts['queries'];
}

/** Facts of a node `home`; hosts that are not named are not there. A process is `a` at home, unless it says otherwise. */
export function facts({ at = 0, hosts = {}, processes = [], queries = {} }: FactsOptions = {}): Facts {
  return factsSchema.parse({
    at,
    home: 'home',
    hosts: Object.fromEntries(
      Object.entries({ home: {}, ...hosts }).map(([name, known]) => [
        name,
        known === 'down' ? { reachable: false } : { reachable: true, facts: known },
      ]),
    ),
    queries,
    processes: processes.map((process) => ({ name: 'a', location: 'home', ...process })),
  });
}

export function memory(availableBytes: number, totalBytes = 16 * GIB): Partial<HostFacts> {
  return { memory: { totalBytes, availableBytes } };
}
