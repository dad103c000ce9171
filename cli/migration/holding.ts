import type { Holding } from './messages.js';
import type { Site } from './site.js';

/** What a node has of another's processes, or of its own: those that live there, come and leave. @param home whose */
export function holdingOf(site: Pick<Site, 'journal' | 'residents'>, home: string): Holding {
  const { journal, residents } = site;
  return {
    residents: residents
      .all()
      .filter((resident) => resident.home.name === home)
      .map(({ record: { twin, description, epoch, state, migration, block, pod } }) => ({
        twin,
        description,
        epoch,
        state,
        migration,
        block,
        carried: pod.root !== undefined,
      })),
    departing: journal.departures
      .all()
      .filter((record) => record.home === home)
      .map(({ request: { migration } }) => ({ migration })),
    arriving: journal.arrivals
      .all()
      .filter(({ request }) => request.home.name === home)
      .map(({ request, outcome }) => ({
        migration: request.migration,
        outcome,
        fromHome: request.source.name === home,
      })),
  };
}
