import type { Logger } from 'pino';
import type { Config } from '../config/load.js';
import { takeCensus } from '../forwarding/census.js';
import type { LiveCredentials } from '../identity/live-credentials.js';
import { Monitoring } from '../metrics/monitoring.js';
import type { PolicyState } from '../metrics/policy-metrics.js';
import type { ProcessSeen } from '../metrics/process-series.js';
import type { MigrationEnd } from '../migration/ends.js';
import type { Site } from '../migration/site.js';
import type { ProcessDescription } from '../process/description.js';
import { packageVersion } from '../system/project.js';
import { type PeerClient, ping } from './peer-transport.js';

interface MonitoringParts {
  readonly config: Config;
  readonly site: Site;
  readonly credentials: LiveCredentials;
  readonly clients: ReadonlyMap<string, PeerClient>;
  moving(): readonly number[];
  /** Undefined: the configuration names no policy file. */
  policies(): PolicyState | undefined;
}

/** The metrics of this node, as its configuration wants them. */
export function openMonitoring(parts: MonitoringParts, logger: Logger): Monitoring {
  const { config, site, credentials, clients } = parts;
  const { datapath } = site.forwarding;
  return new Monitoring(
    config.metrics,
    {
      facts: {
        node: site.node.name,
        address: site.node.address,
        version: packageVersion(),
        certificateExpires: () => credentials.current.expires,
      },
      journal: site.journal,
      counters: () => datapath.counters(),
      census: () => takeCensus(datapath.tables),
      uplinks: () => datapath.status(),
      processes: () => processesOf(site, new Set(parts.moving())),
      moving: () => parts.moving(),
      policies: () => parts.policies(),
      draining: () => site.journal.draining,
      parkPackets: config.park.packets,
      peers: [...clients].map(([name, client]) => ({
        name,
        ping: async () => {
          await client.call(ping, {}, { timeoutMs: config.timeouts.connectMs });
        },
      })),
    },
    logger.child({ part: 'metrics' }),
  );
}

/** One line for each migration that has ended, beside the metrics. */
export function logEnd(logger: Logger, end: MigrationEnd): void {
  const { outcome, direction, migration, pid, from, to, freezeMs, stallMs, bytesMoved, summary, error } = end;
  const fields = {
    migration,
    pid,
    from,
    to,
    direction,
    outcome,
    freezeMs,
    stallMs,
    totalMs: summary?.totalMs,
    bytesMoved,
  };
  if (error === undefined) logger.info(fields, 'a process has moved');
  else logger.warn({ ...fields, code: error.code, reason: error.message }, 'a process was not moved');
}

/** Every process that is bound here: those of this home that are away, and the guests. */
export function processesOf({ node, twins, residents }: Site, moving: ReadonlySet<number>): ProcessSeen[] {
  return [
    ...twins.all().map(({ id, homePid, record, control }) =>
      seen(record.description, control.id, {
        twin: id,
        home: node.name,
        role: moving.has(homePid) ? 'moving' : 'departed',
        location: record.location.name,
      }),
    ),
    ...residents.all().map(({ record, control }) =>
      seen(record.description, control.id, {
        twin: record.twin,
        home: record.home.name,
        role: 'resident',
        location: node.name,
      }),
    ),
  ];
}

/** Spelt out: copying objects with `...` takes ten times as long, and every scrape asks for every process. */
function seen(
  { homePid, comm, ports, flows }: ProcessDescription,
  binding: number,
  { twin, home, role, location }: Pick<ProcessSeen, 'twin' | 'home' | 'role' | 'location'>,
): ProcessSeen {
  return { twin, home, pid: homePid, comm, binding, role, location, ports: ports.length, flows: flows.length };
}
