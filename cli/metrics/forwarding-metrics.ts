import type { Census } from '../forwarding/census.js';
import type { CounterRow } from '../forwarding/counters.js';
import type { ReasonName } from '../forwarding/reasons.js';
import { OUTCOME_OF_REASON } from './packet-outcomes.js';
import type { MetricsPage } from './page.js';
import { type ProcessSeen, ProcessSeries } from './process-series.js';

export interface ForwardingSources {
  counters(): readonly CounterRow[];
  census(): Promise<Census>;
  processes(): readonly ProcessSeen[];
  uplinks(): readonly { readonly interface: string; readonly mode: string }[];
  /** Every node but this one. */
  readonly peers: readonly string[];
  /** How many packets are held for one process. */
  readonly parkPackets: number;
  /** How many processes have packet counters of their own. */
  readonly maxProcesses: number;
}

const ROLES = ['departed', 'resident', 'moving'] as const;

/** What the datapath counts, and what it holds. */
export function addForwardingMetrics(page: MetricsPage, sources: ForwardingSources): void {
  addPackets(page, sources);
  addHoldings(page, sources);
}

function addPackets(page: MetricsPage, sources: ForwardingSources): void {
  const group = page.group('forwarding');
  const labels = ['hook', 'reason', 'outcome'] as const;
  const packets = group.counter(
    'homeproxy_forwarding_packets_total',
    'Packets by the program that decided (hook), why, and what became of them.',
    labels,
  );
  const bytes = group.counter('homeproxy_forwarding_bytes_total', 'Bytes of the same packets.', labels);
  const uplink = group.gauge(
    'homeproxy_uplink_info',
    'Interfaces that the programs are attached to, and how; always 1.',
    ['interface', 'mode'],
  );
  group.refreshBy(() => {
    const rows = sources.counters();
    const uplinks = sources.uplinks();
    for (const metric of [packets, bytes, uplink]) metric.reset();
    for (const { hook, reason, packets: count, bytes: size } of rows) {
      const of = { hook, reason, outcome: OUTCOME_OF_REASON[reason as ReasonName] };
      packets.inc(of, Number(count));
      bytes.inc(of, Number(size));
    }
    for (const { interface: name, mode } of uplinks) uplink.set({ interface: name, mode }, 1);
  });
}

function addHoldings(page: MetricsPage, sources: ForwardingSources): void {
  const group = page.group('bindings');
  const bindings = group.gauge('homeproxy_bindings', 'Bindings by what becomes of their packets.', ['action']);
  const parked = group.gauge('homeproxy_parked_packets', 'Packets that wait now for processes that stand still.');
  const longest = group.gauge('homeproxy_park_queue_longest_packets', 'Packets in the longest of the park queues.');
  const limit = group.gauge('homeproxy_park_queue_limit_packets', 'Packets that one park queue holds; more are lost.');
  const ports = group.gauge('homeproxy_ports', 'Local ports that belong to processes which are bound here.');
  const flows = group.gauge('homeproxy_flows', 'Exact flows, on ports that such processes share with others.');
  const processes = group.gauge('homeproxy_processes', 'Processes that are bound here, by their role.', ['role']);
  const departed = group.gauge('homeproxy_departed_processes', 'Processes of this home, by the host where they run.', [
    'peer',
  ]);
  const residents = group.gauge('homeproxy_resident_processes', 'Processes that run here, by their home.', ['peer']);
  const labels = ['home', 'pid', 'comm', 'reason'] as const;
  const packets = group.counter(
    'homeproxy_process_packets_total',
    'Packets of a bound process by reason; `other` sums the processes without counters of their own.',
    labels,
  );
  const bytes = group.counter('homeproxy_process_bytes_total', 'Bytes of the same packets.', labels);
  const info = group.gauge(
    'homeproxy_process_info',
    'Where a process with counters of its own runs, as this node knows; always 1.',
    ['home', 'pid', 'comm', 'role', 'location'],
  );
  const series = new ProcessSeries(sources.maxProcesses);
  group.refreshBy(async () => {
    const census = await sources.census();
    const seen = sources.processes();
    const rows = series.update(seen, census.traffic);
    for (const metric of [bindings, processes, departed, residents, packets, bytes, info]) metric.reset();
    for (const [action, count] of census.actions) bindings.set({ action }, count);
    const queues = [...census.waiting.values()];
    parked.set(queues.reduce((sum, count) => sum + count, 0));
    longest.set(queues.reduce((most, count) => Math.max(most, count), 0));
    limit.set(sources.parkPackets);
    ports.set(seen.reduce((sum, process) => sum + process.ports, 0));
    flows.set(seen.reduce((sum, process) => sum + process.flows, 0));
    for (const role of ROLES) processes.set({ role }, seen.filter((process) => process.role === role).length);
    for (const peer of sources.peers) {
      const away = seen.filter(({ role, location }) => role !== 'resident' && location === peer);
      departed.set({ peer }, away.length);
      residents.set({ peer }, seen.filter(({ role, home }) => role === 'resident' && home === peer).length);
    }
    for (const { labels: own, traffic } of rows) {
      for (const [reason, count] of traffic) {
        packets.inc({ ...own, reason }, count.packets);
        bytes.inc({ ...own, reason }, count.bytes);
      }
    }
    for (const { home, pid, comm, role, location } of series.own(seen)) {
      info.set({ home, pid: String(pid), comm, role, location }, 1);
    }
  });
}
