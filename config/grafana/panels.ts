/*
 * What the dashboard shows. Each panel answers the question that stands above it; README.md lists them. `$instance` is the
 * dashboard's choice of nodes, as Prometheus calls them.
 */

export interface Query {
  readonly expr: string;
  /** How a line is called; `{{label}}` is a label's value. */
  readonly legend: string;
}

export interface PanelPlan {
  readonly title: string;
  readonly question: string;
  readonly kind: 'number' | 'lines' | 'stack' | 'bars' | 'states' | 'heatmap' | 'table';
  /** As Grafana calls them: `s`, `Bps`, `pps`, `bytes`, `short`, ... */
  readonly unit: string;
  readonly queries: readonly Query[];
  /** From this value on the number is red. */
  readonly alarming?: number;
  /** Below this value the number is red. */
  readonly needed?: number;
}

export interface RowPlan {
  readonly title: string;
  readonly panels: readonly PanelPlan[];
}

const NODES = 'job="homeproxy", instance=~"$instance"';
const RATE = '[$__rate_interval]';

export const ROWS: readonly RowPlan[] = [
  {
    title: 'Now',
    panels: [
      {
        title: 'Daemons that answer',
        question: 'Is every node there?',
        kind: 'number',
        unit: 'percentunit',
        needed: 1,
        queries: [{ expr: `avg(up{${NODES}})`, legend: 'of all nodes' }],
      },
      {
        title: 'Processes away',
        question: 'How much depends on us now?',
        kind: 'number',
        unit: 'short',
        queries: [{ expr: `sum(homeproxy_departed_processes{${NODES}})`, legend: 'processes' }],
      },
      {
        title: 'Moves in the last hour',
        question: 'Do migrations succeed?',
        kind: 'number',
        unit: 'short',
        queries: [{ expr: 'round(outcome:homeproxy_migrations:increase1h{job="homeproxy"})', legend: '{{outcome}}' }],
      },
      {
        title: 'Freeze, 95 % of the last hour',
        question: 'How long do clients wait when a process moves?',
        kind: 'number',
        unit: 's',
        alarming: 5,
        queries: [{ expr: 'job:homeproxy_migration_freeze_seconds:p95_1h{job="homeproxy"}', legend: 'freeze' }],
      },
      {
        title: 'Packets lost',
        question: 'Does forwarding lose anything?',
        kind: 'number',
        unit: 'pps',
        alarming: 1,
        queries: [{ expr: `sum(instance_reason:homeproxy_lost_packets:rate5m{${NODES}})`, legend: 'lost' }],
      },
      {
        title: 'Migrations without an end',
        question: 'Is anything in doubt?',
        kind: 'number',
        unit: 'short',
        alarming: 1,
        queries: [{ expr: `sum(homeproxy_journal_unfinished_migrations{${NODES}})`, legend: 'unfinished' }],
      },
    ],
  },
  {
    title: 'Traffic',
    panels: [
      {
        title: 'Forwarded',
        question: 'How much traffic does each node carry for departed processes?',
        kind: 'lines',
        unit: 'Bps',
        queries: [
          {
            expr: `sum by (instance) (rate(homeproxy_forwarding_bytes_total{${NODES}, outcome="forwarded"}${RATE}))`,
            legend: '{{instance}}',
          },
        ],
      },
      {
        title: 'Packets by what became of them',
        question: 'What do the programs decide?',
        kind: 'stack',
        unit: 'pps',
        queries: [
          {
            expr: `sum by (outcome) (rate(homeproxy_forwarding_packets_total{${NODES}, outcome!="handed-on"}${RATE}))`,
            legend: '{{outcome}}',
          },
        ],
      },
      {
        title: 'Dropped, by reason',
        question: 'Why are packets dropped? (guarded and fenced: on purpose)',
        kind: 'lines',
        unit: 'pps',
        queries: [
          {
            expr: `sum by (instance, reason) (rate(homeproxy_forwarding_packets_total{${NODES}, outcome=~"dropped|answered"}${RATE}))`,
            legend: '{{instance}} {{reason}}',
          },
        ],
      },
      {
        title: 'Busiest processes',
        question: 'Whose traffic is it?',
        kind: 'lines',
        unit: 'Bps',
        queries: [
          {
            expr: `topk(10, sum by (instance, home, pid, comm) (rate(homeproxy_process_bytes_total{${NODES}}${RATE})))`,
            legend: '{{comm}} {{pid}} of {{home}}, on {{instance}}',
          },
        ],
      },
      {
        title: 'Parked',
        question: 'What waits for processes that stand still?',
        kind: 'lines',
        unit: 'short',
        queries: [
          { expr: `homeproxy_parked_packets{${NODES}}`, legend: '{{instance}}: waiting now' },
          {
            expr: `sum by (instance) (increase(homeproxy_forwarding_packets_total{${NODES}, outcome="parked"}${RATE}))`,
            legend: '{{instance}}: parked',
          },
        ],
      },
      {
        title: 'Fullest park queue',
        question: 'Is park.packets large enough?',
        kind: 'lines',
        unit: 'percentunit',
        queries: [{ expr: `instance:homeproxy_park_queue_fill:ratio{${NODES}}`, legend: '{{instance}}' }],
      },
    ],
  },
  {
    title: 'Migrations',
    panels: [
      {
        title: 'Ended',
        question: 'When did processes move, where to, and did it work?',
        kind: 'bars',
        unit: 'short',
        queries: [
          {
            expr: `sum by (outcome, direction) (increase(homeproxy_migrations_total{${NODES}}${RATE}))`,
            legend: '{{outcome}} {{direction}}',
          },
        ],
      },
      {
        title: 'Freeze',
        question: 'How long did processes stand still?',
        kind: 'heatmap',
        unit: 's',
        queries: [
          {
            expr: `sum by (le) (increase(homeproxy_migration_freeze_seconds_bucket{${NODES}, outcome="committed"}${RATE}))`,
            legend: '{{le}}',
          },
        ],
      },
      {
        title: 'Stall',
        question: 'How long can packets have waited for them?',
        kind: 'heatmap',
        unit: 's',
        queries: [
          {
            expr: `sum by (le) (increase(homeproxy_migration_stall_seconds_bucket{${NODES}, outcome="committed"}${RATE}))`,
            legend: '{{le}}',
          },
        ],
      },
      {
        title: 'Mean time of each phase',
        question: 'Where does the time of a migration go?',
        kind: 'stack',
        unit: 's',
        queries: [
          {
            expr: `sum by (phase) (increase(homeproxy_migration_phase_seconds_sum{${NODES}}[1h])) / sum by (phase) (increase(homeproxy_migration_phase_seconds_count{${NODES}}[1h]))`,
            legend: '{{phase}}',
          },
        ],
      },
      {
        title: 'Sent',
        question: 'How much memory travelled?',
        kind: 'bars',
        unit: 'bytes',
        queries: [
          {
            expr: `sum by (direction) (increase(homeproxy_migration_moved_bytes_total{${NODES}}${RATE}))`,
            legend: '{{direction}}',
          },
        ],
      },
      {
        title: 'Parked, replayed, lost in migrations',
        question: 'Did every packet that had to wait arrive?',
        kind: 'lines',
        unit: 'short',
        queries: [
          { expr: `sum(homeproxy_migration_parked_packets_total{${NODES}})`, legend: 'parked' },
          { expr: `sum(homeproxy_migration_replayed_packets_total{${NODES}})`, legend: 'replayed' },
          { expr: `sum(homeproxy_migration_lost_packets_total{${NODES}})`, legend: 'lost' },
        ],
      },
      {
        title: 'Not moved, by reason',
        question: 'Why were migrations refused or rolled back?',
        kind: 'bars',
        unit: 'short',
        queries: [
          {
            expr: `sum by (outcome, code) (increase(homeproxy_migration_failures_total{${NODES}}${RATE}))`,
            legend: '{{outcome}}: {{code}}',
          },
        ],
      },
    ],
  },
  {
    title: 'Processes and nodes',
    panels: [
      {
        title: 'Where processes run',
        question: 'Which process of which home is where?',
        kind: 'table',
        unit: 'short',
        queries: [{ expr: `homeproxy_process_info{${NODES}, role!="resident"}`, legend: '' }],
      },
      {
        title: 'Away, by host',
        question: 'Which hosts carry guests?',
        kind: 'stack',
        unit: 'short',
        queries: [{ expr: `sum by (peer) (homeproxy_departed_processes{${NODES}})`, legend: '{{peer}}' }],
      },
      {
        title: 'Bindings',
        question: 'What happens to the packets of bound processes?',
        kind: 'stack',
        unit: 'short',
        queries: [{ expr: `sum by (action) (homeproxy_bindings{${NODES}})`, legend: '{{action}}' }],
      },
      {
        title: 'Decisions of policies',
        question: 'What did policies decide, and did it work?',
        kind: 'bars',
        unit: 'short',
        queries: [
          {
            expr: `sum by (instance, policy, outcome) (increase(homeproxy_policy_decisions_total{${NODES}}${RATE}))`,
            legend: '{{instance}} {{policy}}: {{outcome}}',
          },
        ],
      },
      {
        title: 'Nodes as the others see them',
        question: 'Who does not reach or trust whom?',
        kind: 'states',
        unit: 'short',
        queries: [{ expr: `homeproxy_peer_up{${NODES}}`, legend: '{{instance}} → {{peer}}' }],
      },
      {
        title: 'Round trip between nodes',
        question: 'How far apart are the daemons?',
        kind: 'lines',
        unit: 's',
        queries: [{ expr: `homeproxy_peer_round_trip_seconds{${NODES}}`, legend: '{{instance}} → {{peer}}' }],
      },
      {
        title: 'Daemons: processor',
        question: 'What do the daemons themselves cost?',
        kind: 'lines',
        unit: 'percentunit',
        queries: [{ expr: `rate(process_cpu_seconds_total{${NODES}}${RATE})`, legend: '{{instance}}' }],
      },
      {
        title: 'Daemons: memory',
        question: 'Do they grow?',
        kind: 'lines',
        unit: 'bytes',
        queries: [{ expr: `process_resident_memory_bytes{${NODES}}`, legend: '{{instance}}' }],
      },
      {
        title: 'Time to make the page of metrics',
        question: 'Is being watched cheap?',
        kind: 'stack',
        unit: 's',
        queries: [
          { expr: `sum by (collector) (homeproxy_collector_duration_seconds{${NODES}})`, legend: '{{collector}}' },
        ],
      },
      {
        title: 'Certificates are valid for',
        question: 'When must they be renewed?',
        kind: 'lines',
        unit: 's',
        queries: [
          { expr: `homeproxy_certificate_expiry_timestamp_seconds{${NODES}} - time()`, legend: '{{instance}}' },
        ],
      },
    ],
  },
];
