import { DIRECTIONS, type MigrationEnd, OUTCOMES } from '../migration/ends.js';
import { PHASES } from '../migration/records.js';
import type { MetricsPage } from './page.js';

/** Around the freeze of a small process on a local network, up to the default limit of 30 s. */
const FREEZE_BUCKETS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10, 30];
const TOTAL_BUCKETS = [0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 120];
const PHASE_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30];
/** Codes of errors that a page tells apart; another node could think of ever new ones. */
const MOST_CODES = 32;

/** What became of the migrations that this node decided, since its daemon started. */
export class MigrationMetrics {
  private readonly ended;
  private readonly failed;
  private readonly freeze;
  private readonly stall;
  private readonly total;
  private readonly phase;
  private readonly bytes;
  private readonly throttled;
  private readonly parked;
  private readonly replayed;
  private readonly lost;
  private readonly codes = new Set<string>();

  /** @param running home pids of the processes that are on their way now */
  constructor(page: MetricsPage, running: () => readonly number[]) {
    const group = page.group('migrations');
    const now = group.gauge('homeproxy_migrations_running', 'Migrations of processes of this home that are under way.');
    group.refreshBy(() => now.set(running().length));
    this.ended = group.counter(
      'homeproxy_migrations_total',
      'Migrations of processes of this home that have ended: committed, rolled-back, or refused before the process stood still.',
      ['outcome', 'direction'],
    );
    this.failed = group.counter('homeproxy_migration_failures_total', 'Those that were not committed, by the reason.', [
      'outcome',
      'code',
    ]);
    this.freeze = group.histogram(
      'homeproxy_migration_freeze_seconds',
      'How long a process stood still, in seconds.',
      FREEZE_BUCKETS,
      ['outcome'],
    );
    this.stall = group.histogram(
      'homeproxy_migration_stall_seconds',
      'Longest time that a packet to the process can have waited at this home, from the beginning of the freeze, in seconds.',
      FREEZE_BUCKETS,
      ['outcome'],
    );
    this.total = group.histogram(
      'homeproxy_migration_duration_seconds',
      'How long a committed migration took from the inspection to its end, in seconds.',
      TOTAL_BUCKETS,
      ['direction'],
    );
    this.phase = group.histogram(
      'homeproxy_migration_phase_seconds',
      'How long each phase of a committed migration took, in seconds.',
      PHASE_BUCKETS,
      ['phase'],
    );
    this.bytes = group.counter('homeproxy_migration_moved_bytes_total', 'Bytes of memory and images that were sent.', [
      'direction',
    ]);
    this.throttled = group.counter(
      'homeproxy_migration_throttled_seconds_total',
      'How long processes were slowed down while their memory was copied in committed migrations, in seconds.',
    );
    this.parked = group.counter(
      'homeproxy_migration_parked_packets_total',
      'Packets that were parked in committed migrations.',
    );
    this.replayed = group.counter(
      'homeproxy_migration_replayed_packets_total',
      'Packets that were replayed in committed migrations.',
    );
    this.lost = group.counter(
      'homeproxy_migration_lost_packets_total',
      'Packets that were parked in committed migrations and could not be replayed.',
    );
    this.beginAtZero();
  }

  observe(end: MigrationEnd): void {
    const { outcome, direction, freezeMs, stallMs, summary, error } = end;
    this.ended.inc({ outcome, direction });
    this.bytes.inc({ direction }, end.bytesMoved);
    if (error !== undefined) this.failed.inc({ outcome, code: this.known(error.code) });
    if (freezeMs !== undefined) this.freeze.observe({ outcome }, freezeMs / 1000);
    if (stallMs !== undefined) this.stall.observe({ outcome }, stallMs / 1000);
    if (summary === undefined) return;
    this.total.observe({ direction }, summary.totalMs / 1000);
    for (const phase of PHASES) {
      const ms = summary.phases[phase];
      if (ms !== undefined) this.phase.observe({ phase }, ms / 1000);
    }
    this.throttled.inc((summary.memory?.throttle?.ms ?? 0) / 1000);
    this.parked.inc(summary.parkedPackets);
    this.replayed.inc(summary.replayedPackets);
    this.lost.inc(summary.droppedPackets);
  }

  /** A series that appears with its first event has no increase that Prometheus could see. */
  private beginAtZero(): void {
    for (const direction of DIRECTIONS) {
      for (const outcome of OUTCOMES) this.ended.inc({ outcome, direction }, 0);
      this.bytes.inc({ direction }, 0);
      this.total.zero({ direction });
    }
    for (const histogram of [this.freeze, this.stall]) {
      histogram.zero({ outcome: 'committed' });
      histogram.zero({ outcome: 'rolled-back' });
    }
    for (const phase of PHASES) this.phase.zero({ phase });
  }

  private known(code: string): string {
    if (this.codes.size < MOST_CODES) this.codes.add(code);
    return this.codes.has(code) ? code : 'other';
  }
}
