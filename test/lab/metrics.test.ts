// limit: 500 s
/** What the daemons tell Prometheus while a Redis under load moves, compared with what they tell everybody else. */
import { readFileSync, writeFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import type { Lab } from '../../cli/lab/lab.js';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';
import type { TopSample } from '../../cli/top/rates.js';
import { ROWS } from '../../config/grafana/panels.js';
import { sampleOf, sumOf } from '../exposition.js';
import { prometheusPrograms } from '../prometheus-programs.js';
import { suite } from '../suite.js';
import { httpGet } from './http-get.js';
import { bareLab, downAll } from './lab-fixture.js';
import { LabPrometheus } from './lab-prometheus.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { NodeCommand } from './node-command.js';
import { setSection } from './node-settings.js';
import { type Redis, startRedis } from './redis.js';
import { describe, errorOf, oneLine, Scenario, type Summary } from './scenario.js';

const PORT = 7078;
const POLICIES = '/etc/homeproxy/policies.yaml';
/** Serves its metrics over TLS, with a password. */
const GUARDED = { node: 'host2', password: 'not-to-be-guessed' };
/** A policy that chooses nothing: its counters are there, and are 0. */
const NEVER = `
policies:
  - name: never
    processes: [{name: nobody-is-so}]
    when: {availableMemory: {below: 1%}}
    where: {}
`;
const test = suite('the metrics of a lab');
const began = Date.now() / 1000;
let scenario: Scenario;
let prometheus: LabPrometheus;
let redis: Redis;
let load: Load;
let moved: Summary;

/** As the example of a configuration says it; the certificate is the one that the node has for other nodes. */
function guard(lab: Lab): void {
  const node = lab.node(GUARDED.node);
  const passwordFile = '/etc/homeproxy/metrics.password';
  writeFileSync(node.path(passwordFile), `${GUARDED.password}\n`, { mode: 0o600 });
  setSection(lab, GUARDED.node, 'metrics', {
    listen: node.address,
    port: PORT,
    tls: { certificate: '/etc/homeproxy/node.pem', key: '/etc/homeproxy/node.key' },
    basicAuth: { user: 'prometheus', passwordFile },
  });
}

async function start(): Promise<void> {
  const lab = await bareLab('metrics');
  for (const { name, address, role } of lab.nodes) {
    if (role !== 'client') setSection(lab, name, 'metrics', { listen: address, port: PORT });
  }
  guard(lab);
  setSection(lab, 'home', 'policies', POLICIES);
  writeFileSync(lab.node('home').path(POLICIES), NEVER);
  scenario = await Scenario.start('metrics');
  prometheus = await LabPrometheus.start(scenario.lab, PORT, GUARDED);
  redis = await startRedis(scenario.home);
  load = await Load.start(scenario.client, scenario.home.address, { connections: 10 });
}

test.before(start);
test.after(downAll);

/** The page of a node, as the client gets it. */
async function pageOf(node: string): Promise<string> {
  const [answer] = await httpGet(scenario.client, `http://${scenario.lab.node(node).address}:${PORT}/metrics`);
  assert.is(answer?.status, 200, answer?.body);
  return answer?.body ?? '';
}

test('are where status says, and pass the linter of Prometheus', async () => {
  const { metrics } = await scenario.status('home');
  assert.equal(metrics, { state: 'served', url: `http://${scenario.home.address}:${PORT}/metrics` });
  const page = await pageOf('home');
  const own = page.split('\n').filter((line) => /^(# (HELP|TYPE) )?homeproxy_/.test(line));
  const { promtool } = await prometheusPrograms();
  await run(promtool, ['check', 'metrics'], { input: `${own.join('\n')}\n` });
  assert.is(sumOf(page, 'homeproxy_migrations_total'), 0);
  assert.is(sumOf(page, 'homeproxy_collector_failures_total'), 0);
});

test('are scraped over TLS by who knows the password and the authority, and by nobody else', async () => {
  const at = `instance="${GUARDED.node}"`;
  await prometheus.until(`up{job="homeproxy", ${at}} == 1 and on (instance) homeproxy_node_info`);
  for (const [job, complaint] of [
    ['wrong-password', /401 Unauthorized/],
    ['wrong-authority', /certificate signed by unknown authority/],
  ] as const) {
    await prometheus.until(`up{job="${job}", ${at}} == 0`);
    assert.match(await prometheus.complaintOf(job), complaint);
  }
  const [plain] = await httpGet(scenario.client, `http://${scenario.lab.node(GUARDED.node).address}:${PORT}/metrics`);
  assert.is(plain?.status, 599, 'without TLS nobody answers');
});

test('say of a migration what its summary says', async () => {
  await prometheus.until('homeproxy_migrations_total{instance="home"}');
  await load.nextSecond();
  moved = await scenario.migrate(redis.pid, 'host1');
  const page = await pageOf('home');
  const away = { direction: 'away' };
  assert.is(sumOf(page, 'homeproxy_migrations_total'), 1);
  assert.is(sampleOf(page, 'homeproxy_migrations_total', { outcome: 'committed', ...away }), 1);
  const seconds = (name: string, labels: Record<string, string>, ms: number | undefined): void =>
    assert.is(
      Math.round(sampleOf(page, `homeproxy_migration_${name}_sum`, labels) * 1e5),
      Math.round((ms ?? -1) * 100),
    );
  seconds('freeze_seconds', { outcome: 'committed' }, moved.freezeMs);
  seconds('stall_seconds', { outcome: 'committed' }, moved.stallMs);
  seconds('duration_seconds', away, moved.totalMs);
  for (const [phase, ms] of Object.entries(moved.phases)) seconds('phase_seconds', { phase }, ms);
  assert.is(sampleOf(page, 'homeproxy_migration_moved_bytes_total', away), moved.bytesMoved);
  assert.is(sampleOf(page, 'homeproxy_migration_parked_packets_total'), moved.parkedPackets);
  assert.is(sampleOf(page, 'homeproxy_migration_replayed_packets_total'), moved.replayedPackets);
  assert.is(sampleOf(page, 'homeproxy_migration_lost_packets_total'), moved.droppedPackets);
  assert.is(sampleOf(page, 'homeproxy_migrations_running'), 0);
  assert.is(sumOf(page, 'homeproxy_journal_unfinished_migrations'), 0);
});

test('say where the process is, at home and on its host', async () => {
  const [home, host1] = [await pageOf('home'), await pageOf('host1')];
  const process = { home: 'home', pid: String(redis.pid), comm: 'redis-server', location: 'host1' };
  assert.is(sampleOf(home, 'homeproxy_process_info', { ...process, role: 'departed' }), 1);
  assert.is(sampleOf(home, 'homeproxy_departed_processes', { peer: 'host1' }), 1);
  assert.is(sampleOf(home, 'homeproxy_bindings', { action: 'tunnel' }), 1);
  assert.is(sampleOf(home, 'homeproxy_ports'), 2, 'of the address and of 127.0.0.1');
  assert.is(sampleOf(host1, 'homeproxy_process_info', { ...process, role: 'resident' }), 1);
  assert.is(sampleOf(host1, 'homeproxy_resident_processes', { peer: 'home' }), 1);
  assert.is(sampleOf(host1, 'homeproxy_bindings', { action: 'deliver' }), 1);
  assert.is(sumOf(host1, 'homeproxy_migrations_total'), 0, 'the home decides, and counts');
});

test('count what status and ps count', async () => {
  for (const node of ['home', 'host1']) {
    const before = await pageOf(node);
    const { status, processes } = await scenario.ask(node);
    const after = await pageOf(node);
    const between = (name: string, labels: Record<string, string>, value: number): void => {
      const [low, high] = [sumOf(before, name, labels), sumOf(after, name, labels)];
      assert.ok(low <= value && value <= high, `${node}: ${name}${JSON.stringify(labels)}: ${low} ${value} ${high}`);
    };
    for (const { hook, reason, packets, bytes } of status.counters) {
      between('homeproxy_forwarding_packets_total', { hook, reason }, packets);
      between('homeproxy_forwarding_bytes_total', { hook, reason }, bytes);
    }
    const [row] = processes;
    assert.ok(Object.keys(row?.counters ?? {}).length > 1, JSON.stringify(processes));
    for (const [reason, { packets, bytes }] of Object.entries(row?.counters ?? {})) {
      const labels = { home: 'home', pid: String(redis.pid), reason };
      between('homeproxy_process_packets_total', labels, packets);
      between('homeproxy_process_bytes_total', labels, bytes);
    }
    assert.ok(sumOf(after, 'homeproxy_process_packets_total') > 0);
  }
});

test('top shows the same process with its rate, as JSON and on a terminal', async () => {
  const { stdout } = await scenario.homeproxy('home', ['top', '--json', '--interval', '0.5']);
  const sample = JSON.parse(stdout) as TopSample;
  const [row] = sample.processes;
  assert.equal([row?.pid, row?.location, row?.role], [redis.pid, 'host1', 'departed']);
  assert.ok((row?.forwarded.packetsPerSecond ?? 0) > 0 && (row?.forwarded.bytesPerSecond ?? 0) > 0, stdout);
  assert.ok((sample.outcomes.forwarded?.packetsPerSecond ?? 0) > 0, stdout);
  const terminal = new NodeCommand(scenario.home, [
    'script',
    '-qec',
    'stty cols 100 rows 20; homeproxy top --interval 0.2',
    '/dev/null',
  ]);
  const drawn = new RegExp(`${redis.pid} +home +host1 +departed +[1-9]\\S* .*redis-server`);
  await terminal.printed(drawn);
  terminal.write('q');
  const outcome = await terminal.ended;
  assert.is(outcome.status, 0, outcome.stdout);
  assert.ok(
    outcome.stdout.startsWith('\u001b[?1049h') && outcome.stdout.endsWith('\u001b[?1049l'),
    'the screen is as before',
  );
});

test('tell a refusal from a rollback, and the rollback raises an alert that says what to do', async () => {
  const unknown = await scenario.homeproxy('home', ['migrate', '999999', 'host1', '--json']);
  const slow = ['migrate', String(redis.pid), 'host2', '--max-freeze', '1', '--json'];
  const rolledBack = await scenario.homeproxy('home', slow);
  assert.is(errorOf(rolledBack).exitStatus, 6, rolledBack.stdout);
  const page = await pageOf('home');
  assert.is(sampleOf(page, 'homeproxy_migrations_total', { outcome: 'refused', direction: 'away' }), 1);
  assert.is(sampleOf(page, 'homeproxy_migration_failures_total', { code: errorOf(unknown).code }), 1);
  assert.is(sampleOf(page, 'homeproxy_migrations_total', { outcome: 'rolled-back', direction: 'onward' }), 1);
  assert.is(sampleOf(page, 'homeproxy_migration_freeze_seconds_count', { outcome: 'rolled-back' }), 1);
  await prometheus.until('ALERTS{alertname="HomeproxyMigrationRolledBack", alertstate="firing"}');
  const alerts = await prometheus.alerts();
  assert.equal(
    alerts
      .filter(({ state }) => state === 'firing')
      .map(({ labels, annotations }) => [labels.alertname, annotations.summary]),
    [['HomeproxyMigrationRolledBack', 'A migration of a process of home was rolled back (onward)']],
  );
});

test('answer every question of the dashboard', async () => {
  const variables = (expr: string): string => expr.replaceAll('$__rate_interval', '10s').replaceAll('$instance', '.*');
  const dashboard = JSON.parse(readFileSync(projectFile('config/grafana/homeproxy.json'), 'utf8')) as {
    annotations: { list: { expr: string }[] };
    panels: { targets?: { expr: string }[] }[];
  };
  const drawn = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  assert.is(drawn.length, ROWS.flatMap(({ panels }) => panels.flatMap(({ queries }) => queries)).length);
  const expressions = [...drawn, ...dashboard.annotations.list.map(({ expr }) => expr)].map(variables);
  assert.not.match(expressions.join(), /\$/);
  assert.equal(await prometheus.without(() => prometheus.ranges(expressions, began)), []);
});

test('and every recording rule', async () => {
  const text = readFileSync(projectFile('config/prometheus/homeproxy.rules.yml'), 'utf8');
  const rules = (parse(text) as { groups: { rules: { record: string }[] }[] }).groups.flatMap((group) => group.rules);
  const records = rules.map(({ record }) => record);
  assert.ok(records.length > 5);
  assert.equal(await prometheus.without(() => prometheus.now(records)), []);
});

test('know the policies of a node', async () => {
  const page = await pageOf('home');
  assert.is(sampleOf(page, 'homeproxy_policies'), 1);
  assert.is(sampleOf(page, 'homeproxy_policy_file_valid', { file: POLICIES }), 1);
  assert.is(sumOf(page, 'homeproxy_policy_decisions_total', { policy: 'never' }), 0);
});

test('what a node records can be tried on policies before they are in place', async () => {
  const [next, records] = ['/run/next.yaml', '/run/metrics.json'];
  const write = (from: string): void => {
    const process = `processes: [{name: redis-server}], from: ${from}`;
    const rest = 'when: {availableMemory: {below: 100%}}, where: {home: only}';
    writeFileSync(scenario.home.path(next), `policies:\n  - {name: comes-home, ${process}, ${rest}}\n`);
  };
  const policy = (...args: string[]) => scenario.homeproxy('home', ['policy', ...args]);
  write('[host9]');
  const wrong = await policy('check', next);
  assert.is(wrong.status, 2, describe(wrong));
  assert.match(wrong.stderr, `${next}:2:66: policies[0].from[0]: matches no node: home, host1, host2`);
  write('hosts');
  const right = await policy('check', next);
  assert.equal([right.status, right.stdout], [0, `${next} is right: 1 policy (comes-home)\n`]);
  const record = await policy('facts', next, '--json');
  assert.is(record.status, 0, describe(record));
  writeFileSync(scenario.home.path(records), record.stdout);
  const simulated = await policy('simulate', next, '--from', records, '--json');
  assert.is(simulated.status, 0, describe(simulated));
  const { timeline } = oneLine(simulated) as { timeline: { pid: number; outcome: string; from: string; to: string }[] };
  assert.equal(
    timeline.map(({ pid, outcome, from, to }) => [pid, outcome, from, to]),
    [[redis.pid, 'return', 'host1', 'home']],
  );
  const [row] = (await scenario.ask('home')).processes;
  assert.is(row?.location, 'host1', 'nothing of it was done');
});

test('know which nodes answer', async () => {
  const page = await pageOf('home');
  for (const peer of ['host1', 'host2']) {
    assert.is(sampleOf(page, 'homeproxy_peer_up', { peer }), 1);
    assert.ok(sampleOf(page, 'homeproxy_peer_round_trip_seconds', { peer }) > 0);
  }
});

test('and being watched has hurt no client', async () => {
  assert.equal(faultsOf(await load.stop()), NO_FAULTS);
  await prometheus.stop();
});

test.run();
