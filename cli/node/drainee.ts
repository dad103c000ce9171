import { asHomeproxyError, UserError } from '../errors.js';
import type { Coordinator } from '../migration/coordinator.js';
import type { Site } from '../migration/site.js';
import { ANYWHERE, chooseHost, type Heading } from '../policy/destinations.js';
import type { ProcessFacts } from '../policy/facts.js';
import type { Policy } from '../policy/model.js';
import { chosen, exclusion } from '../policy/selection.js';
import type { PeerClient } from './peer-transport.js';
import { type DrainHow, type DrainItem, type DrainList, type DrainMoved, evacuateMethod } from './policy-methods.js';
import type { Policies } from './policy-setup.js';

/** A node that can be emptied: this one, or another one that is asked. */
export interface Drainee {
  readonly name: string;
  /** Marks it, durably, or takes the mark away. Says who is to leave. */
  mark(draining: boolean): Promise<DrainList>;
  /** Sees to it that one of them leaves. @throws {HomeproxyError} why it stays */
  move(item: DrainItem, how: DrainHow): Promise<DrainMoved>;
}

export interface DraineeParts {
  readonly site: Site;
  readonly coordinator: Coordinator;
  readonly policies: Policies;
  readonly clients: ReadonlyMap<string, PeerClient>;
  /** For one whole move that another node decides. */
  readonly moveMs: number;
}

/** A move was refused before anything was touched: another destination may do. */
const REFUSED = 'REFUSED';
const MOST_ATTEMPTS = 4;

/** This node as one that is emptied, and as the home of processes on others that are. */
export class LocalDrainee implements Drainee {
  /** Where it sends processes just now. */
  private readonly heading: Heading[] = [];

  constructor(private readonly parts: DraineeParts) {}

  get name(): string {
    return this.parts.site.node.name;
  }

  async mark(draining: boolean): Promise<DrainList> {
    const { journal, residents } = this.parts.site;
    const before = journal.draining;
    if (before !== draining) journal.draining = draining;
    const guests = residents.all().filter(({ record }) => record.state === 'running');
    const items = guests.map(({ twin, home, description }) => ({
      kind: 'guest' as const,
      twin,
      pid: description.homePid,
      name: description.comm,
      home: home.name,
    }));
    const coming = journal.arrivals.all().filter(({ request }) => request.home.name !== this.name).length;
    return { before, items: [...items, ...(await this.ownItems())], coming };
  }

  async move(item: DrainItem, { resetClosing }: DrainHow): Promise<DrainMoved> {
    if (item.kind === 'own') return this.sendAway(item.pid, item.policy);
    if (this.parts.site.residents.find(item.twin) === undefined) throw gone(item.twin);
    const client = this.parts.clients.get(item.home);
    if (client === undefined) {
      throw new UserError({
        code: 'UNKNOWN_HOST',
        message: `its home ${item.home} is not in the configuration of ${this.name}`,
        remedy: 'the list of nodes must be the same everywhere',
      });
    }
    return client.call(evacuateMethod, { twin: item.twin, resetClosing }, { timeoutMs: this.parts.moveMs });
  }

  /**
   * This node is the home: takes a process back from the host that asks, or moves it elsewhere when that is refused here.
   * @throws {UserError} `NOT_YOURS` when it is not on that host
   */
  async evacuate(twinId: string, host: string, how: DrainHow): Promise<DrainMoved> {
    const { site, coordinator } = this.parts;
    const twin = site.twins.byId(twinId);
    if (twin === undefined || twin.record.location.name !== host) throw gone(twinId);
    if (!site.journal.draining) {
      try {
        return movedTo(await coordinator.migrate(twin.homePid, this.name, how));
      } catch (error) {
        if (asHomeproxyError(error).code !== REFUSED) throw error;
      }
    }
    const process = this.parts.policies.processes.find(twin.homePid);
    if (process === undefined) throw gone(twinId);
    const policy = this.policies().find((one) => exclusion(one, process) === undefined);
    return this.elsewhere(process, policy, undefined, how);
  }

  private async sendAway(pid: number, policyName: string): Promise<DrainMoved> {
    const process = this.parts.policies.processes.find(pid);
    const policy = this.policies().find(({ name }) => name === policyName);
    if (process === undefined || policy === undefined) {
      throw new UserError({
        code: 'NO_SUCH_PROCESS',
        message: `process ${pid} has ended, or no policy is about it any more`,
        remedy: 'see `homeproxy policy explain`',
      });
    }
    return this.elsewhere(process, policy, policy.name, {}); // from its home
  }

  /** Moves a process to the best host; what one refuses, the next may take. @param by the policy that has sent it from then on */
  private async elsewhere(
    process: ProcessFacts,
    policy: Policy | undefined,
    by: string | undefined,
    how: DrainHow,
  ): Promise<DrainMoved> {
    const { book } = this.parts.policies;
    await book.refresh([]);
    const where = { ...(policy?.where ?? ANYWHERE), home: 'never' as const };
    const tried: string[] = [];
    let refusal: unknown;
    while (tried.length < MOST_ATTEMPTS) {
      const facts = {
        at: Date.now(),
        home: this.name,
        hosts: book.states(),
        queries: {},
        processes: this.known(process),
      };
      const choice = chooseHost({ ...where, not: [...where.not, ...tried] }, process, facts, this.heading);
      if (choice.to === undefined) throw refusal ?? noHost(process, choice.rejected);
      tried.push(choice.to);
      try {
        return await this.migrate(process.pid, choice.to, policy, by, how);
      } catch (error) {
        if (asHomeproxyError(error).code !== REFUSED) throw error;
        refusal = error;
      }
    }
    throw refusal;
  }

  private async migrate(
    pid: number,
    to: string,
    policy: Policy | undefined,
    by: string | undefined,
    how: DrainHow,
  ): Promise<DrainMoved> {
    const heading = { pid, to };
    this.heading.push(heading);
    try {
      return movedTo(
        await this.parts.coordinator.migrate(pid, to, {
          ...policy?.how,
          ...how,
          ...(by === undefined ? {} : { policy: by }),
        }),
      );
    } finally {
      this.heading.splice(this.heading.indexOf(heading), 1);
    }
  }

  /** Processes that count where they are: against the memory of a node, or against others that want to be apart. */
  private known(process: ProcessFacts): ProcessFacts[] {
    const { processes } = this.parts.policies;
    const others = this.parts.site.twins.all().flatMap(({ homePid }) => processes.find(homePid) ?? []);
    return [process, ...others.filter(({ pid }) => pid !== process.pid)];
  }

  private async ownItems(): Promise<DrainItem[]> {
    const all = this.policies();
    const here = (await this.parts.policies.processes.read(all)).filter(
      ({ location, moving }) => location === this.name && !moving,
    );
    const items = new Map<number, DrainItem>();
    for (const policy of all) {
      for (const { pid, name } of chosen(policy, here)) {
        if (!items.has(pid)) items.set(pid, { kind: 'own', policy: policy.name, pid, name, home: this.name });
      }
    }
    return [...items.values()];
  }

  private policies(): readonly Policy[] {
    return this.parts.policies.runner?.policies ?? [];
  }
}

function movedTo({ to, freezeMs }: DrainMoved): DrainMoved {
  return { to, freezeMs };
}

function noHost({ pid }: ProcessFacts, rejected: readonly { host: string; reason: string }[]): UserError {
  const hosts = rejected.map(({ host, reason }) => `${host} (${reason})`).join(', ');
  return new UserError({
    code: 'NO_HOST',
    message: `there is no host for process ${pid}: ${hosts === '' ? 'no other node' : hosts}`,
    remedy: 'undrain a node or add one, or move the process by hand: `homeproxy migrate`',
  });
}

function gone(twin: string): UserError {
  return new UserError({
    code: 'NOT_YOURS',
    message: `${twin} is not on that host (any more)`,
    remedy: 'see `homeproxy ps` on its home',
  });
}
