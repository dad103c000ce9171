import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { metricsSection } from '../../cli/config/metrics-schema.js';
import { Reason } from '../../cli/forwarding/abi.gen.js';
import type { Census } from '../../cli/forwarding/census.js';
import { Monitoring, type MonitoringSources } from '../../cli/metrics/monitoring.js';
import type { MigrationEnd } from '../../cli/migration/ends.js';
import { Journal } from '../../cli/migration/journal.js';
import { type MigrationRecord, PHASES } from '../../cli/migration/records.js';
import { reached } from '../../cli/migration/steps.js';
import { sampleOf, samplesOf, sumOf } from '../exposition.js';
import { suite } from '../suite.js';

const test = suite('the metrics of a node');
const folder = mkdtempSync(join(tmpdir(), 'hp-monitoring-'));
const journal = new Journal(join(folder, 'state'));
const open: Monitoring[] = [];
const blockers: Server[] = [];
const quiet = { info: () => undefined, warn: () => undefined, error: () => undefined };

test.after.each(async () => {
  for (const monitoring of open.splice(0)) await monitoring.close();
  for (const server of blockers.splice(0)) server.close();
});
test.after(async () => {
  await journal.close();
  rmSync(folder, { recursive: true, force: true });
});

const census: Census = {
  actions: new Map([
    ['pass', 0],
    ['tunnel', 2],
  ]),
  waiting: new Map([
    [1, 30],
    [2, 12],
  ]),
  traffic: new Map([[1, new Map([['tunnelled', { packets: 7, bytes: 700 }]])]]),
};

function monitor(settings: Record<string, unknown> = {}, sources: Partial<MonitoringSources> = {}): Monitoring {
  const all: MonitoringSources = {
    facts: { node: 'home', address: '10.77.0.2', version: '1.2.3', certificateExpires: () => new Date(2e12) },
    journal,
    counters: () =>
      Object.keys(Reason)
        .filter((reason) => reason !== 'count')
        .map((reason, index) => ({ hook: 'xdp', reason, packets: BigInt(index), bytes: 10n })),
    census: async () => census,
    uplinks: () => [{ interface: 'eth0', mode: 'xdp' }],
    processes: () => [],
    moving: () => [812],
    parkPackets: 10_000,
    policies: () => undefined,
    draining: () => false,
    peers: [],
    ...sources,
  };
  const monitoring = new Monitoring(metricsSection.parse(settings), all, quiet, 10);
  open.push(monitoring);
  return monitoring;
}

async function freePort(): Promise<number> {
  const server = createServer();
  blockers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as { port: number }).port;
}

test('name every reason of the programs and what became of the packets', async () => {
  const text = await monitor().page.render();
  const rows = samplesOf(text, 'homeproxy_forwarding_packets_total');
  assert.is(rows.length, Object.keys(Reason).length - 1);
  for (const { labels } of rows) {
    assert.match(labels.outcome ?? '', /^(passed|forwarded|parked|dropped|answered|handed-on)$/, labels.reason);
  }
  assert.is(sampleOf(text, 'homeproxy_parked_packets'), 42);
  assert.is(sampleOf(text, 'homeproxy_park_queue_longest_packets'), 30);
  assert.is(sampleOf(text, 'homeproxy_park_queue_limit_packets'), 10_000);
  assert.is(sampleOf(text, 'homeproxy_bindings', { action: 'tunnel' }), 2);
  assert.is(sampleOf(text, 'homeproxy_migrations_running'), 1);
  assert.is(sampleOf(text, 'homeproxy_build_info', { version: '1.2.3', nodejs: process.version }), 1);
  assert.is(sampleOf(text, 'homeproxy_certificate_expiry_timestamp_seconds'), 2e9);
  assert.is(sumOf(text, 'homeproxy_collector_failures_total'), 0);
  assert.ok(sampleOf(text, 'process_start_time_seconds') > 0);
});

test('follow the conventions of Prometheus for names, units and types', async () => {
  const text = await monitor().page.render();
  const types = [...text.matchAll(/^# TYPE (homeproxy_\S+) (\S+)$/gm)];
  assert.ok(types.length > 25);
  for (const [, name = '', type] of types) {
    assert.is(name.endsWith('_total'), type === 'counter', `${name} is a ${type}`);
    assert.not.match(name, /_(ms|milliseconds|kb|kilobytes|minutes)(_|$)/);
    assert.match(text, new RegExp(`^# HELP ${name} [A-Z1].*[.]$`, 'm'), name);
  }
});

const end: MigrationEnd = {
  outcome: 'committed',
  direction: 'away',
  pid: 812,
  from: 'home',
  to: 'host1',
  migration: 'm-1',
  freezeMs: 130,
  stallMs: 134,
  phases: {},
  bytesMoved: 1000,
  summary: {
    migration: 'm-1',
    pid: 812,
    from: 'home',
    to: 'host1',
    outcome: 'committed',
    freezeMs: 130,
    totalMs: 640,
    phases: Object.fromEntries(PHASES.map((phase, index) => [phase, index * 10])),
    connections: 50,
    parkedPackets: 60,
    replayedPackets: 58,
    droppedPackets: 2,
    bytesMoved: 1000,
    memory: { copied: 'ahead', throttle: { percent: 40, ms: 1500 } },
    startedAt: 0,
    frozenAt: 0,
    resumedAt: 0,
  },
};
const error = { code: 'TOO_LONG', kind: 'user' as const, message: 'x', exitStatus: 6 };

test('count how migrations end, from zero on', async () => {
  const monitoring = monitor();
  const before = await monitoring.page.render();
  assert.is(samplesOf(before, 'homeproxy_migrations_total').length, 9);
  assert.is(sumOf(before, 'homeproxy_migrations_total'), 0);
  assert.is(samplesOf(before, 'homeproxy_migration_phase_seconds_count').length, PHASES.length);
  monitoring.observe(end);
  const { summary: _, ...failed } = { ...end, outcome: 'rolled-back' as const, direction: 'back' as const, error };
  monitoring.observe({ ...failed, freezeMs: 2000 });
  const { freezeMs: __, stallMs: ___, ...refused } = { ...failed, outcome: 'refused' as const };
  monitoring.observe(refused);
  const text = await monitoring.page.render();
  assert.is(sampleOf(text, 'homeproxy_migrations_total', { outcome: 'committed', direction: 'away' }), 1);
  assert.is(sampleOf(text, 'homeproxy_migrations_total', { outcome: 'rolled-back', direction: 'back' }), 1);
  assert.is(sumOf(text, 'homeproxy_migrations_total'), 3);
  assert.is(sumOf(text, 'homeproxy_migration_failures_total', { code: 'TOO_LONG' }), 2);
  assert.is(sampleOf(text, 'homeproxy_migration_freeze_seconds_sum', { outcome: 'committed' }), 0.13);
  assert.is(sampleOf(text, 'homeproxy_migration_freeze_seconds_bucket', { outcome: 'committed', le: '0.1' }), 0);
  assert.is(sampleOf(text, 'homeproxy_migration_freeze_seconds_bucket', { outcome: 'committed', le: '0.15' }), 1);
  assert.is(sampleOf(text, 'homeproxy_migration_freeze_seconds_sum', { outcome: 'rolled-back' }), 2);
  assert.is(sampleOf(text, 'homeproxy_migration_stall_seconds_sum', { outcome: 'committed' }), 0.134);
  assert.is(sampleOf(text, 'homeproxy_migration_stall_seconds_count', { outcome: 'rolled-back' }), 1);
  assert.is(sampleOf(text, 'homeproxy_migration_duration_seconds_sum', { direction: 'away' }), 0.64);
  assert.is(sampleOf(text, 'homeproxy_migration_phase_seconds_sum', { phase: 'finish' }), 0.09);
  assert.is(sampleOf(text, 'homeproxy_migration_lost_packets_total'), 2);
  assert.is(sumOf(text, 'homeproxy_migration_moved_bytes_total'), 3000);
  assert.is(sampleOf(text, 'homeproxy_migration_throttled_seconds_total'), 1.5);
});

test('tell no more than so many codes of errors apart', async () => {
  const monitoring = monitor();
  for (let index = 0; index < 500; index++) {
    monitoring.observe({ ...end, outcome: 'refused', error: { ...error, code: `CODE_${index}` } });
  }
  const rows = samplesOf(await monitoring.page.render(), 'homeproxy_migration_failures_total');
  assert.ok(rows.length < 40, `${rows.length} series`);
  assert.is(rows.find(({ labels }) => labels.code === 'other')?.value, 500 - 32);
});

test('count what policies decide, of no more policies than the page can bear', async () => {
  const none = await monitor().page.render();
  assert.is(sampleOf(none, 'homeproxy_policies'), 0);
  assert.equal(samplesOf(none, 'homeproxy_policy_file_valid'), []);
  const names = ['flee', 'rest'];
  const decisions = new Map([
    ['flee\nmove', 3],
    ...Array.from({ length: 300 }, (_, index): [string, number] => [`gone-${index}\nmoved`, 1]),
  ]);
  const policies = () => ({ file: '/p.yaml', valid: false, names, decisions });
  const text = await monitor({}, { policies, draining: () => true }).page.render();
  assert.is(sampleOf(text, 'homeproxy_policies'), 2);
  assert.is(sampleOf(text, 'homeproxy_policy_file_valid', { file: '/p.yaml' }), 0);
  assert.is(sampleOf(text, 'homeproxy_draining'), 1);
  assert.is(sampleOf(text, 'homeproxy_policy_decisions_total', { policy: 'flee', outcome: 'move' }), 3);
  assert.is(sampleOf(text, 'homeproxy_policy_decisions_total', { policy: 'rest', outcome: 'failed' }), 0);
  assert.is(sampleOf(text, 'homeproxy_policy_decisions_total', { policy: 'other', outcome: 'moved' }), 300 - 98);
});

test('show what the journal waits for until it has its end', async () => {
  const record = (state: 'preparing' | 'committed' | 'done', migration: string, startedAt: number) =>
    journal.migrations.put(migration, { state, migration, startedAt } as unknown as MigrationRecord);
  record('committed', 'm-left', 5000);
  const monitoring = monitor();
  record('preparing', 'm-new', 9000);
  await reached('coordinator', 'preparing', 'm-new');
  const during = await monitoring.page.render();
  assert.is(sampleOf(during, 'homeproxy_journal_unfinished_migrations', { state: 'committed' }), 1);
  assert.is(sampleOf(during, 'homeproxy_journal_unfinished_migrations', { state: 'preparing' }), 1);
  assert.is(sampleOf(during, 'homeproxy_journal_oldest_unfinished_timestamp_seconds'), 5);
  record('done', 'm-left', 5000);
  record('done', 'm-new', 9000);
  const after = await monitoring.page.render();
  assert.is(sumOf(after, 'homeproxy_journal_unfinished_migrations'), 0);
  assert.is(sampleOf(after, 'homeproxy_journal_oldest_unfinished_timestamp_seconds'), 0);
});

test('say of other nodes what was found last, and wait for none', async () => {
  let asked: () => void = () => undefined;
  const all = new Promise<void>((resolve) => {
    asked = resolve;
  });
  const peers = [
    { name: 'host1', ping: async () => undefined },
    { name: 'host2', ping: () => Promise.reject(new Error('no')) },
    {
      name: 'host3',
      ping: () => {
        setImmediate(asked);
        return new Promise<never>(() => undefined);
      },
    },
  ];
  const monitoring = monitor({ port: await freePort() }, { peers });
  await monitoring.start();
  await all;
  const text = await monitoring.page.render();
  assert.equal(
    samplesOf(text, 'homeproxy_peer_up').map(({ labels, value }) => [labels.peer, value]),
    [
      ['host1', 1],
      ['host2', 0],
    ],
  );
  assert.is(sampleOf(text, 'homeproxy_peer_last_seen_timestamp_seconds', { peer: 'host2' }), 0);
});

test('are served when the port that was taken becomes free; until then the status says so', async () => {
  const port = await freePort();
  const monitoring = monitor({ port });
  await monitoring.start();
  const url = `http://127.0.0.1:${port}/metrics`;
  const reason = `another program listens on 127.0.0.1 port ${port} (metrics.port)`;
  assert.equal(monitoring.status, { state: 'failed', url, error: reason });
  await new Promise((resolve) => blockers.pop()?.close(resolve));
  while (monitoring.status.state !== 'served') await pause(5);
  assert.match(await (await fetch(url)).text(), /homeproxy_build_info/);
});

test('are made once before anybody asks: the first page takes longest', async () => {
  const port = await freePort();
  await new Promise((resolve) => blockers.pop()?.close(resolve));
  const made = new Promise<void>((resolve) => {
    const asked = async (): Promise<Census> => {
      resolve();
      return census;
    };
    void monitor({ port }, { census: asked }).start();
  });
  await made;
});

test('are not served without the password that the configuration asks for', async () => {
  const port = await freePort();
  await new Promise((resolve) => blockers.pop()?.close(resolve));
  const monitoring = monitor({ port, basicAuth: { user: 'a', passwordFile: join(folder, 'nowhere') } });
  await monitoring.start();
  assert.is(monitoring.status.state, 'failed');
  assert.is(await fetch(`http://127.0.0.1:${port}/metrics`).catch(() => 'refused'), 'refused');
});

test('are off when the configuration says so', async () => {
  const monitoring = monitor({ enabled: false });
  await monitoring.start();
  assert.equal(monitoring.status, { state: 'off' });
});

test.run();
