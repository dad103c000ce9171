import { type Traffic, takeCensus } from '../forwarding/census.js';
import type { ReasonName } from '../forwarding/reasons.js';
import { OUTCOME_OF_REASON, type PacketOutcome } from '../metrics/packet-outcomes.js';
import { wallClock } from '../migration/stopwatch.js';
import { type ControlContext, type MethodHandler, serve } from './control-transport.js';
import type { Daemon } from './daemon.js';
import { processesOf } from './monitoring-setup.js';
import { type TopReport, topMethod } from './top-method.js';

const NOTHING: Traffic = { packets: 0, bytes: 0 };

/** One look at everything that moves. */
export function topHandler(daemon: Daemon): MethodHandler<ControlContext> {
  return serve(topMethod, async (): Promise<TopReport> => {
    const { site, coordinator } = daemon;
    const { datapath } = site.forwarding;
    const census = await takeCensus(datapath.tables);
    const outcomes: Record<string, Traffic> = {};
    for (const { reason, packets, bytes } of datapath.counters()) {
      const outcome = OUTCOME_OF_REASON[reason as ReasonName];
      outcomes[outcome] = plus(outcomes[outcome] ?? NOTHING, { packets: Number(packets), bytes: Number(bytes) });
    }
    return {
      node: site.node.name,
      atMs: performance.now(),
      startedAt: daemon.startedAt,
      outcomes,
      processes: processesOf(site, new Set(coordinator.movingPids())).map(
        ({ twin, pid, home, comm, location, role, binding }) => ({
          twin,
          pid,
          home,
          comm,
          location,
          role,
          forwarded: total(census.traffic.get(binding), 'forwarded'),
          dropped: total(census.traffic.get(binding), 'dropped'),
          parked: census.waiting.get(binding) ?? 0,
        }),
      ),
      migrations: coordinator.running().map(({ migration, description, source, destination, watch, startedAt }) => ({
        migration,
        pid: description.homePid,
        comm: description.comm,
        from: source.node.name,
        to: destination.node.name,
        ...(watch.running === undefined ? {} : { phase: watch.running.phase }),
        phaseMs: watch.running?.ms ?? 0,
        totalMs: wallClock() - startedAt,
      })),
    };
  });
}

function total(traffic: ReadonlyMap<string, Traffic> | undefined, outcome: PacketOutcome): Traffic {
  return [...(traffic ?? [])]
    .filter(([reason]) => OUTCOME_OF_REASON[reason as ReasonName] === outcome)
    .reduce((sum, [, count]) => plus(sum, count), NOTHING);
}

function plus(left: Traffic, right: Traffic): Traffic {
  return { packets: left.packets + right.packets, bytes: left.bytes + right.bytes };
}
