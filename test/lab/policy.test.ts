// limit: 300 s
import { readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import * as assert from 'uvu/assert';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { journalMethod } from '../../cli/node/control-methods.js';
import { callControl } from '../../cli/node/control-transport.js';
import { drainReport } from '../../cli/node/policy-methods.js';
import { suite } from '../suite.js';
import { startServer } from './c-program.js';
import { CpuHog } from './cpu-hog.js';
import { IoHog } from './io-hog.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { MemoryHog } from './memory-hog.js';
import { DAEMONS, PolicyScene, policyOfReadme } from './policy-scene.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { describe, errorOf, oneLine, type Scenario } from './scenario.js';
import { askTicker, installTicker, TICKER } from './ticker.js';

const TICKER_PORT = 7000;
const BIG = '/var/big';
/** Somebody at a terminal of his own. */
const TYPIST =
  'import os, pty, time; a, b = pty.openpty(); os.write(a, bytes([120, 10])); os.read(b, 9); time.sleep(1000)';
const isHost = (place: string): boolean => place !== 'home';

const test = suite('policies move processes, and nodes are drained');
let scene: PolicyScene;
let scenario: Scenario;
let redis: Redis;
let ticker: number;
/** Connections that live through all of it. */
let toRedis: LineClient;
let toTicker: LineClient;

test.before(async () => {
  scene = await PolicyScene.start('policy');
  ({ scenario } = scene);
  const { home, client, lab } = scenario;
  redis = await startRedis(home);
  await installTicker(...DAEMONS.map((name) => lab.node(name)));
  ticker = await startServer(home, [TICKER, String(TICKER_PORT)], TICKER_PORT);
  toRedis = await LineClient.connect(client, home.address, REDIS_PORT);
  toTicker = await LineClient.connect(client, home.address, TICKER_PORT);
});
test.after(async () => {
  await Promise.all([toRedis?.close(), toTicker?.close()]);
  await downAll();
});

/** Both connections answer: they were made before anything moved. */
async function assertServed(): Promise<void> {
  assert.is(await toRedis.ask('PING'), '+PONG');
  assert.ok((await askTicker(toTicker)).awakenings > 0);
}

test("README's policy sends Redis away when the disk is full, and leaves others alone", async () => {
  const before = await scene.explain(redis.pid);
  assert.equal(
    before.policies.map(({ policy, outcome }) => [policy, outcome]),
    [['cache-flees', 'stay']],
  );
  await scenario.home.run(['fallocate', '-l', '60M', BIG]);
  const place = await scene.comesTo(redis.pid, isHost);
  assert.is(await scene.placeOf(ticker), 'home');
  await assertServed();
  const { process, policies, decisions } = await scene.explain(redis.pid);
  assert.is(process.location, place);
  const disk = policies[0]?.when?.parts?.find(({ path }) => path === 'when.any[1]');
  assert.is(disk?.truth, 'yes', JSON.stringify(disk));
  assert.match(`${disk?.text}: ${disk?.value}`, /^free space of \/var on home below 10%: .* MiB \(\d\.\d%\)$/);
  assert.ok(
    decisions.some(({ outcome, to }) => outcome === 'moved' && to === place),
    JSON.stringify(decisions),
  );
  const said = await scenario.homeproxy('home', ['policy', 'explain', String(ticker)]);
  assert.match(said.stdout, /^cache-flees: is not about it: its name is "ticker", not "redis-server"$/m);
});

test('a new file with a fault changes nothing, and says where the fault is', async () => {
  scene.writePolicies('policies:\n  - name: broken\n    when: {diskFree: {path: var}}\n');
  const { problem, policies } = await scene.until('the fault is seen', async () => {
    const answer = await scene.explain(redis.pid);
    return answer.problem === undefined ? undefined : answer;
  });
  assert.match(problem ?? '', /^\/etc\/homeproxy\/policies\.yaml:2:5: policies\[0\]\.processes: is missing$/m);
  assert.match(problem ?? '', /policies\.yaml:3:29: policies\[0\]\.when\.diskFree\.path: must be an absolute path$/m);
  assert.equal(
    policies.map(({ policy }) => policy),
    ['cache-flees'],
  );
  const log = readFileSync(scenario.home.path(DAEMON_LOG), 'utf8');
  assert.match(log, /the policy file has faults: the policies stay as they were/);
});

test('the policies of the last good version bring it home when there is room again, after its cooldown', async () => {
  await scenario.home.run(['rm', BIG]);
  await scene.comesTo(redis.pid, (place) => place === 'home');
  await assertServed();
  const moves = (await scene.explain(redis.pid)).decisions.filter(({ outcome }) =>
    ['move', 'return'].includes(outcome),
  );
  assert.equal(
    moves.map(({ outcome }) => outcome),
    ['move', 'return'],
  );
  assert.ok((moves[1]?.at ?? 0) - (moves[0]?.at ?? 0) >= 10_000, JSON.stringify(moves));
});

test('a host that is drained gives its guests back, and takes none, also after a restart', async () => {
  scene.writePolicies(policyOfReadme().replace('cooldown: 10s', 'cooldown: 3s'));
  await Promise.all([redis.pid, ticker].map((pid) => scene.move(pid, 'host1')));
  const outcome = await scenario.homeproxy('home', ['drain', 'host1', '--json']);
  assert.is(outcome.status, 0, describe(outcome));
  const { host, processes } = drainReport.parse(oneLine(outcome));
  assert.is(host, 'host1');
  assert.equal(
    processes.map(({ pid, home, outcome, to }) => [pid, home, outcome, to]).sort(),
    [redis.pid, ticker].sort((a, b) => a - b).map((pid) => [pid, 'home', 'moved', 'home']),
  );
  assert.equal((await scenario.status('host1')).residents, 0);
  await assertServed();
  await scenario.lab.stopDaemon('host1');
  await scenario.lab.startDaemon('host1');
  assert.equal(
    (await scenario.hosts('home')).map(({ name, draining }) => [name, draining]),
    [
      ['home', false],
      ['host1', true],
      ['host2', false],
    ],
  );
  const refused = await scenario.homeproxy('home', ['migrate', String(ticker), 'host1', '--json']);
  assert.is(refused.status, 3, describe(refused));
  assert.match(errorOf(refused).message, /\(DRAINING\)/);
  const opened = await scenario.homeproxy('home', ['undrain', 'host1']);
  assert.equal([opened.status, opened.stdout], [0, 'host1 takes processes again\n']);
  assert.is((await scene.move(ticker, 'host1')).to, 'host1');
});

test('a home that is drained sends its guests elsewhere, and away what a policy is about; until brings that back', async () => {
  // the ticker is a guest of host1: its home is drained, so that it goes on to host2 when host1 is drained as well
  const outcome = await scenario.homeproxy('home', ['drain']);
  assert.is(outcome.status, 0, describe(outcome));
  assert.match(outcome.stdout, /redis-server +home +moved +host[12] +\d+\.\d ms/);
  const place = await scene.comesTo(redis.pid, isHost);
  const drained = await scene.drainQuietly('host1');
  assert.ok(
    drained.processes.every((row) => row.outcome === 'moved'),
    JSON.stringify(drained),
  );
  assert.equal(
    [await scene.placeOf(ticker), place === 'host1' ? await scene.placeOf(redis.pid) : 'host2'],
    ['host2', 'host2'],
  );
  await assertServed();
  const recalled = await scene.move(redis.pid, 'home').catch((error: Error) => error.message);
  assert.match(String(recalled), /\(DRAINING\)/);
  await scene.undrain('home', 'host1');
  await scene.comesTo(redis.pid, (at) => at === 'home');
  await scene.move(ticker, 'home');
  await assertServed();
});

test('somebody who cannot leave is in the table, and the exit status says so', async () => {
  await scene.move(ticker, 'host1');
  for (const name of ['host2', 'home']) await scene.drainQuietly(name);
  const place = await scene.placeOf(redis.pid); // draining home has sent it to the only host that was left
  assert.is(place, 'host1');
  const outcome = await scenario.homeproxy('home', ['drain', 'host1', '--json']);
  assert.is(outcome.status, 6, describe(outcome));
  const { processes } = drainReport.parse(oneLine(outcome));
  assert.equal(
    processes.map(({ outcome, error }) => [outcome, error?.code]),
    [
      ['failed', 'NO_HOST'],
      ['failed', 'NO_HOST'],
    ],
  );
  await assertServed();
  await scene.undrain(...DAEMONS);
  await scene.comesTo(redis.pid, (at) => at === 'home');
  await scene.move(ticker, 'home');
});

test('what its labels choose goes to the host that is labelled for it, as the policy says how', async () => {
  const { home } = scenario;
  const program = '/var/only-at-home';
  await home.run(['cp', TICKER, program]);
  const start = (port: number, labels: string) =>
    startServer(home, ['env', `HOMEPROXY_LABELS=${labels}`, program, String(port)], port);
  const [batch, other] = await Promise.all([start(7001, 'kind=batch,owner=us'), start(7002, 'kind=web')]);
  const client = await LineClient.connect(scenario.client, home.address, 7001);
  const asked = `every: 500ms
policies:
  - name: batch-goes
    processes: [{labels: {kind: batch}, user: root}]
    when: {draining: false}
    where: {labels: {for: batch}, cpu: CPU}
    how: {files: carry, mode: stop-and-copy, maxFreeze: 20s}
    limits: {cooldown: 1s}
`;
  const unfit = process.arch === 'x64' ? 'sve' : 'avx2';
  scene.writePolicies(asked.replace('CPU', `[${unfit}]`));
  const waiting = await scene.until('no host has such a processor', async () => {
    const [only] = (await scene.explain(batch)).policies;
    return only?.code === 'no-host' ? only : undefined;
  });
  assert.match(waiting.why, /host1 \(not labelled for=batch\), host2 \(its processors lack (sve|avx2)\)$/);
  scene.writePolicies(asked.replace('CPU', '[]'));
  await scene.comesTo(batch, (place) => place === 'host2');
  assert.ok((await askTicker(client)).awakenings > 0);
  const { process: away, policies } = await scene.explain(batch);
  assert.equal([away.labels, policies[0]?.outcome], [{ kind: 'batch', owner: 'us' }, 'stay']);
  assert.match((await scene.explain(other)).policies[0]?.why ?? '', /^its label kind is "web", not "batch"$/);
  const { processes } = await scenario.ask('home');
  assert.is(processes.find(({ pid }) => pid === batch)?.files, 'carried');
  const { migrations } = await callControl(scene.socketOf('home'), journalMethod, { last: 1 });
  const steps = migrations[0]?.steps.map(({ step }) => step) ?? [];
  assert.equal([migrations[0]?.policy, steps.includes('source:frozen')], ['batch-goes', true], steps.join(' '));
  assert.not(
    steps.some((step) => step.endsWith(':sent-ahead')),
    steps.join(' '),
  );
  scene.writePolicies('policies: []\n');
  await scene.move(batch, 'home');
  assert.equal((await scene.explain(batch)).process.labels, { kind: 'batch', owner: 'us' });
  await client.close();
  await home.run(['kill', String(batch), String(other)]);
});

test('a process goes where its client is near, until somebody types at that host, and not there again', async () => {
  scene.writePolicies(`every: 500ms
policies:
  - name: near-its-client
    processes: [{name: ticker, port: ${TICKER_PORT}}]
    when: {draining: false}
    where: {prefer: near-correspondents}
    limits: {cooldown: 1s}
  - name: owner-is-back
    processes: [{name: ticker, port: ${TICKER_PORT}}]
    from: hosts
    when: {owner: {is: present, within: 1h}}
    where: {home: only}
    limits: {cooldown: 1s}
`);
  await scene.comesTo(ticker, (place) => place === 'host2');
  const host2 = scenario.lab.node('host2');
  const typist = await host2.detach(['python3', '-c', TYPIST]);
  await scene.comesTo(ticker, (place) => place === 'host1'); // by way of its home
  await assertServed();
  const { policies, decisions } = await scene.explain(ticker);
  const moves = decisions.filter(({ policy, outcome }) => outcome === 'moved' && policy !== 'follows-the-others');
  assert.equal(
    moves.slice(-3).map(({ policy, to }) => [policy, to]),
    [
      ['near-its-client', 'host2'],
      ['owner-is-back', 'home'],
      ['near-its-client', 'host1'],
    ],
  );
  const [, owner] = policies;
  assert.match(
    `${owner?.when?.text}: ${owner?.when?.value}`,
    /^somebody has typed at host1 within 1h: (no terminal is in use|.* ago)$/,
  );
  scene.writePolicies('policies: []\n');
  await scene.move(ticker, 'home');
  await host2.run(['kill', '-9', String(typist)]);
});

test('a host that does not answer sends a process away, and back when it answers again', async () => {
  scene.writePolicies(`every: 500ms
policies:
  - name: host2-is-ill
    processes: [{name: ticker, port: ${TICKER_PORT}}]
    when: {host: {name: host2, is: unreachable}}
    until: {host: {name: host2, is: reachable}}
    limits: {cooldown: 1s}
`);
  await scenario.lab.stopDaemon('host2');
  await scene.comesTo(ticker, (place) => place === 'host1');
  const { when } = (await scene.explain(ticker)).policies[0] ?? {};
  assert.equal([when?.text, when?.value, when?.truth], ['host2 is unreachable', 'unreachable', 'yes']);
  await scenario.lab.startDaemon('host2');
  await scene.comesTo(ticker, (place) => place === 'home');
  await assertServed();
});

test('writers that wait for the disk move a process', async () => {
  scene.writePolicies(`every: 500ms
policies:
  - name: flees-from-writers
    processes: [{name: redis-server}]
    when: {pressure: {resource: io, average: avg10, above: 5}}
    limits: {cooldown: 1s}
`);
  const hog = IoHog.start();
  try {
    await scene.comesTo(redis.pid, isHost);
  } finally {
    await hog.end();
  }
  assert.match(await scene.reasonOf(redis.pid, 'move'), /^io pressure of home, some avg10, above 5: \d/);
  await assertServed();
});

test('a memory hog in a cgroup, which makes others wait for memory, moves a process', async () => {
  const place = await scene.placeOf(redis.pid); // away, where the hog is as well: the nodes of a lab share one kernel
  scene.writePolicies(`every: 500ms
policies:
  - name: flees-from-hogs
    processes: [{name: redis-server}]
    from: hosts
    when: {pressure: {resource: memory, average: avg10, above: 1}, for: 1s}
    where: {home: only}
    limits: {cooldown: 1s}
`);
  const hog = await MemoryHog.start(`${scenario.lab.name}-hog`);
  try {
    await scene.comesTo(redis.pid, (at) => at === 'home');
  } finally {
    await hog.end();
  }
  const reason = await scene.reasonOf(redis.pid, 'return');
  assert.match(reason, new RegExp(`^memory pressure of ${place}, some avg10, above 1: \\d`));
  await assertServed();
});

/** A file for the two processes, whose policies decide twice a second. */
function policiesOf(ofRedis: string, ofTicker: string): string {
  const rest = 'limits: {cooldown: 1s}';
  return `every: 500ms
policies:
  - {name: of-redis, processes: [{name: redis-server}], ${ofRedis}, ${rest}}
  - {name: of-ticker, processes: [{name: ticker, port: ${TICKER_PORT}}], ${ofTicker}, ${rest}}
`;
}

test('load moves a process, a time of day one where it is that time; memory and the end of that time bring them home', async () => {
  const load = ((loadavg()[0] ?? 0) / cpus().length + 0.2).toFixed(2);
  const clock = (minutes: number): string => new Date(Date.now() + minutes * 60_000).toISOString().slice(11, 16);
  const within = (zone: string): string => `{time: {from: ${clock(-30)}, to: ${clock(30)}, zone: ${zone}}}`;
  const during = (zone: string): string => `when: ${within(zone)}, until: {not: ${within(zone)}}`;
  const whenLoaded = `when: {loadPerCpu: {above: ${load}}}`;
  scene.writePolicies(policiesOf(whenLoaded, during('Asia/Kolkata'))); // five and a half hours later there
  const hog = CpuHog.start();
  try {
    await scene.comesTo(redis.pid, isHost);
  } finally {
    await hog.end();
  }
  const [, measured] =
    /^load per CPU of home above ([\d.]+: [\d.]+)$/.exec(await scene.reasonOf(redis.pid, 'move')) ?? [];
  const [above = 0, found = 0] = measured?.split(': ').map(Number) ?? [];
  assert.ok(above === Number(load) && found > above, measured);
  const [, { outcome, when } = {}] = (await scene.explain(ticker)).policies;
  assert.equal([await scene.placeOf(ticker), outcome, when?.truth], ['home', 'stay', 'no']);

  scene.writePolicies(policiesOf(whenLoaded, during('UTC')));
  await scene.comesTo(ticker, isHost);
  assert.match(await scene.reasonOf(ticker, 'move'), /^time every day [\d:]+ to [\d:]+ UTC: \w{3} \d\d:\d\d$/);
  const forMemory = 'from: hosts, when: {availableMemory: {below: 100%}}, where: {home: only}';
  scene.writePolicies(policiesOf(forMemory, during('Asia/Kolkata')));
  for (const pid of [redis.pid, ticker]) await scene.comesTo(pid, (place) => place === 'home');
  assert.match(
    await scene.reasonOf(redis.pid, 'return'),
    /^available memory of host[12] below 100%: [\d.]+ [GM]iB \([\d.]+%\)$/,
  );
  assert.match(await scene.reasonOf(ticker, 'return'), /^not time every day .* Asia\/Kolkata: /);
  await assertServed();
});

test('real pressure on the processors moves a process, and so does a real Prometheus', async () => {
  await scene.startPrometheus();
  scene.writePolicies(`every: 1s
policies:
  - name: flees-from-pressure
    processes: [{commandLine: '*redis-server*'}]
    when: {pressure: {resource: cpu, average: avg10, above: 3}, for: 1s}
    limits: {cooldown: 1s}
  - name: follows-the-others
    processes: [{user: root, port: ${TICKER_PORT}}]
    when:
      promql: {url: 'http://127.0.0.1:9090', query: 'sum(homeproxy_departed_processes)', above: 0.5}
    limits: {cooldown: 1s}
`);
  const burners = Array.from({ length: 4 }, () => scenario.home.detach(['sh', '-c', 'while :; do :; done']));
  const burning = await Promise.all(burners);
  await scene.comesTo(redis.pid, isHost);
  await scenario.home.run(['kill', '-9', ...burning.map(String)]);
  await scene.comesTo(ticker, isHost);
  const [, { when } = {}] = (await scene.explain(ticker)).policies;
  assert.match(`${when?.text}: ${when?.value}`, /^promql sum\(homeproxy_departed_processes\) above 0\.5: [12]$/);
  await assertServed();
});

test.run();
