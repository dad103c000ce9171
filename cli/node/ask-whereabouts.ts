import type { Site } from '../migration/site.js';
import { whereabouts } from './peer-methods.js';
import type { PeerClient } from './peer-transport.js';

/**
 * A host that was away asks the home of each process that lives on it whether that is still so. A copy which its home knows
 * elsewhere under a newer epoch is fenced; one that is leaving just now is left to its coordinator.
 * @throws {UserError} when a home cannot be asked: then its processes here are left alone.
 */
export async function askWhereabouts(
  site: Site,
  clients: ReadonlyMap<string, PeerClient>,
  onFenced: (twin: string) => void,
): Promise<void> {
  const leaving = new Set(site.journal.departures.all().map(({ request }) => request.twin));
  const residents = site.residents.all().filter(({ twin, record }) => record.state === 'running' && !leaving.has(twin));
  for (const home of new Set(residents.map((resident) => resident.home.name))) {
    const twins = residents.filter((resident) => resident.home.name === home).map(({ twin }) => twin);
    const answer = await clients.get(home)?.call(whereabouts, { twins });
    for (const { twin, epoch, location } of answer?.known ?? []) {
      if (location === site.node.name || !twins.includes(twin)) continue;
      if (site.residents.fence(twin, epoch)) onFenced(twin);
    }
  }
}
