import { asHomeproxyError, type ErrorDocument } from '../errors.js';
import { Cgroup, unifiedMount } from '../system/cgroup.js';
import type { Participants } from './coordinator.js';
import type { Holding, NodeName } from './messages.js';
import type { Site } from './site.js';
import type { Twins } from './twins.js';

/** What a rebuilt home node found of its processes on the hosts, and did. */
export interface Rebuilt {
  readonly processes: readonly {
    readonly pid: number;
    readonly comm: string;
    readonly location: string;
    /** `known`: nothing was missing. `rebuilt`: twin and binding were made again. */
    readonly outcome: 'known' | 'rebuilt' | 'failed';
    readonly error?: ErrorDocument;
  }[];
  /** Migrations of which only the participants knew any more. */
  readonly migrations: readonly { readonly migration: string; readonly outcome: 'rolled-forward' | 'rolled-back' }[];
  /** Nodes that did not answer: what lives there is not known. */
  readonly unreachable: readonly { readonly node: string; readonly error: ErrorDocument }[];
}

/**
 * Makes a home node's memory again when it was lost: asks every host which of this node's processes live there, brings what
 * they still hold to an end, and stands in for each process again, under the epoch that its host knows.
 */
export async function rebuild(site: Site, twins: Twins, participants: Participants): Promise<Rebuilt> {
  const unreachable: { node: string; error: ErrorDocument }[] = [];
  const ask = async (): Promise<{ node: NodeName; holding: Holding }[]> => {
    const answers = await Promise.all(
      site.nodes
        .filter(({ name }) => name !== site.node.name)
        .map(async (node) => {
          try {
            return [{ node, holding: await participants.destination(node).holding() }];
          } catch (error) {
            unreachable.push({ node: node.name, error: asHomeproxyError(error).toDocument() });
            return [];
          }
        }),
    );
    return answers.flat();
  };
  const migrations = await bringToEnd(site, participants, await ask());
  unreachable.length = 0;
  const found = await ask();
  const processes: Rebuilt['processes'][number][] = [];
  const newest = new Map<string, number>();
  for (const { holding } of found) {
    for (const { twin, epoch, state } of holding.residents) {
      if (state === 'running') newest.set(twin, Math.max(epoch, newest.get(twin) ?? 0));
    }
  }
  for (const { node, holding } of found) {
    for (const { twin, description, epoch, state, block, carried } of holding.residents) {
      if (state !== 'running') continue;
      const latest = newest.get(twin) ?? epoch;
      if (epoch < latest) {
        await participants.destination(node).fence({ twin, epoch: latest });
        continue;
      }
      const row = { pid: description.homePid, comm: description.comm, location: node.name };
      if (twins.byId(twin) !== undefined) processes.push({ ...row, outcome: 'known' });
      else {
        try {
          await twins.rebuild({
            twin,
            description,
            epoch,
            location: node,
            ...(block === undefined ? {} : { block }),
            ...(carried === true ? { carry: { paths: [] } } : {}),
          });
          processes.push({ ...row, outcome: 'rebuilt' });
        } catch (error) {
          processes.push({ ...row, outcome: 'failed', error: asHomeproxyError(error).toDocument() });
        }
      }
    }
  }
  if (unreachable.length === 0 && processes.every(({ outcome }) => outcome !== 'failed'))
    site.journal.declareComplete();
  return { processes, migrations, unreachable };
}

/**
 * Ends migrations whose record was lost. The destination was told to let its copy run, or nothing was decided that anybody has
 * acted on: then the source's copy goes on. Only when the source was this node, and its copy is gone, is the held one
 * all that there is.
 */
async function bringToEnd(
  site: Site,
  participants: Participants,
  found: readonly { node: NodeName; holding: Holding }[],
): Promise<{ migration: string; outcome: 'rolled-forward' | 'rolled-back' }[]> {
  const ended: { migration: string; outcome: 'rolled-forward' | 'rolled-back' }[] = [];
  const unknown = (migration: string): boolean => site.journal.migrations.get(migration) === undefined;
  const arrivals = new Map(
    found.flatMap(({ node, holding }) => holding.arriving.map((arrival) => [arrival.migration, { ...arrival, node }])),
  );
  const departures = new Map(
    found.flatMap(({ node, holding }) => holding.departing.map(({ migration }) => [migration, node])),
  );
  for (const migration of new Set([...arrivals.keys(), ...departures.keys()])) {
    if (!unknown(migration)) continue;
    const arrival = arrivals.get(migration);
    const source = departures.get(migration);
    const moved = found.some(({ holding }) =>
      holding.residents.some((resident) => resident.migration === migration && resident.state === 'running'),
    );
    const onlyCopy = arrival?.outcome === 'held' && arrival.fromHome && !copyHere(migration);
    if (moved || arrival?.outcome === 'running' || onlyCopy) {
      if (arrival !== undefined) await participants.destination(arrival.node).commit({ migration });
      if (source !== undefined) {
        await participants.source(source).commit({ migration });
        await participants.source(source).finish({ migration });
      }
      ended.push({ migration, outcome: 'rolled-forward' });
    } else {
      if (arrival !== undefined) await participants.destination(arrival.node).abort({ migration });
      if (source !== undefined) await participants.source(source).abort({ migration });
      ended.push({ migration, outcome: 'rolled-back' });
    }
  }
  return ended;
}

/** Whether the tree that was leaving in a migration is still frozen on this node, in the cgroup that was made for it. */
function copyHere(migration: string): boolean {
  return below(unifiedMount()).some((path) => path.endsWith(`/homeproxy-${migration}`));
}

function below(path: string): string[] {
  return new Cgroup(path).children().flatMap((child) => [child, ...below(child)]);
}
