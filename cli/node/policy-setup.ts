import type { Logger } from 'pino';
import type { Config } from '../config/load.js';
import { UserError } from '../errors.js';
import type { PolicyState } from '../metrics/policy-metrics.js';
import type { Coordinator } from '../migration/coordinator.js';
import { directionBetween } from '../migration/ends.js';
import type { MigrationRecord } from '../migration/records.js';
import type { Site } from '../migration/site.js';
import type { Move } from '../policy/history.js';
import { type AskHost, HostBook } from '../policy/host-book.js';
import { HostReader } from '../policy/host-reader.js';
import { parsePolicies } from '../policy/policy-file.js';
import { PolicySource } from '../policy/policy-source.js';
import { ProcessReader } from '../policy/process-reader.js';
import { PolicyRunner } from '../policy/runner.js';
import type { ControlContext, MethodHandler } from './control-transport.js';
import type { PeerClient, PeerContext } from './peer-transport.js';
import { type MethodHandler as PeerMethodHandler, serve } from './peer-transport.js';
import { explainMethod, factsMethod, hostFactsMethod } from './policy-methods.js';

/** A node that does not tell what it is like within this time does not answer, as far as policies are concerned. */
const HOST_FACTS_MS = 2000;

/** What a daemon has for its policies, and to empty a node. */
export interface Policies {
  readonly book: HostBook;
  readonly processes: ProcessReader;
  readonly hostReader: HostReader;
  /** Undefined: the configuration names no policy file. */
  readonly runner: PolicyRunner | undefined;
}

interface PolicyParts {
  readonly config: Config;
  readonly site: Site;
  readonly clients: ReadonlyMap<string, PeerClient>;
  /** Of the daemon, once it is there. */
  coordinator(): Coordinator;
}

export function openPolicies({ config, site, clients, coordinator }: PolicyParts, logger: Logger): Policies {
  const home = site.node.name;
  const hostReader = new HostReader(() => site.journal.draining);
  const asks = config.nodes.map(({ name }): [string, AskHost] => {
    const client = clients.get(name);
    if (client === undefined) return [name, (paths) => hostReader.read(paths)];
    return [name, (paths) => client.call(hostFactsMethod, { paths: [...paths] }, { timeoutMs: HOST_FACTS_MS })];
  });
  const book = new HostBook(new Map(asks), config.nodes);
  const processes = new ProcessReader({
    home,
    twins: () => site.twins.all().map(({ record }) => record),
    moving: () => coordinator().movingPids(),
  });
  const common = { book, processes, hostReader };
  if (config.policies === undefined) return { ...common, runner: undefined };
  const own = logger.child({ part: 'policy' });
  const source = new PolicySource(config.policies, config.nodes, own);
  const past = pastOf(home, site.journal.migrations.all());
  const migrate: PolicyRunner['parts']['migrate'] = (pid, to, options) => coordinator().migrate(pid, to, options);
  return { ...common, runner: new PolicyRunner({ home, source, book, processes, past, logger: own, migrate }) };
}

/** What metrics tell about the policies. */
export function policyState({ runner }: Policies): PolicyState | undefined {
  if (runner === undefined) return undefined;
  const { file, problem, policies, counts } = runner;
  return { file, valid: problem === undefined, names: policies.map(({ name }) => name), decisions: counts };
}

/** The migrations that are over; those that a crash has cut short are told when they end. */
function pastOf(home: string, records: readonly MigrationRecord[]): Move[] {
  return records.flatMap((record): Move[] => {
    if (record.state !== 'done' && record.state !== 'rolled-back') return [];
    const { pid, policy, startedAt: at, phases } = record;
    const [from, to] = [record.from.name, record.to.name];
    const endedAt = at + Object.values(phases).reduce((sum, ms) => sum + ms, 0);
    const move = { pid, policy, direction: directionBetween({ home, from, to }), from, to, at, endedAt };
    if (record.state === 'done') return [{ ...move, outcome: 'moved' }];
    // what somebody has tried by hand keeps no policy from trying
    return policy === undefined ? [] : [{ ...move, outcome: 'failed', error: record.error.message }];
  });
}

/** The daemon's answers to what the commands ask about policies. */
export function policyHandlers({ runner }: Policies): MethodHandler<ControlContext>[] {
  const required = (): PolicyRunner => {
    if (runner !== undefined) return runner;
    throw new UserError({
      code: 'NO_POLICIES',
      message: 'this node has no policies: its configuration names no file',
      remedy: 'set `policies: /etc/homeproxy/policies.yaml` in the configuration and start the daemon again',
    });
  };
  return [
    serve(explainMethod, async ({ pid }) => {
      const { problem } = required();
      return { ...(await required().explain(pid)), ...(problem === undefined ? {} : { problem }) };
    }),
    serve(factsMethod, async ({ policies }) => {
      if (policies === undefined) return required().facts();
      return required().facts(parsePolicies(policies, 'the given file').policies);
    }),
  ];
}

/** What other nodes may ask this one: what it is like. */
export function hostFactsHandler({ hostReader }: Policies): PeerMethodHandler<PeerContext> {
  return serve(hostFactsMethod, async ({ paths }) => hostReader.read(paths));
}
