// limit: 300 s
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { PHASES } from '../../cli/migration/records.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { attachedPrograms, hasClsact } from './attached.js';
import { downAll, homeproxy } from './lab-fixture.js';
import { startHomeproxy } from './node-command.js';
import { type Redis, startRedis, stopRedis } from './redis.js';
import { describe, errorOf, oneLine, Scenario } from './scenario.js';

const PINS = '/sys/fs/bpf/homeproxy';
const COMMANDS = readdirSync(projectFile('cli/commands'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replace(/\.ts$/, '').split('/'))
  .sort();

const help = suite('every command');

for (const words of COMMANDS) {
  help(`homeproxy ${words.join(' ')} --help shows usage, exit statuses and examples`, async () => {
    const { status, stdout } = await homeproxy([...words, '--help']);
    assert.is(status, 0);
    assert.match(stdout, new RegExp(`USAGE\\s+\\$ homeproxy ${words.join(' ')}\\b`));
    assert.match(stdout, /exit\s+status/i);
    const examples = /^EXAMPLES\n([\s\S]*)/m.exec(stdout)?.[1] ?? '';
    assert.match(examples, new RegExp(`\\$ homeproxy ${words.join(' ')}\\b`), stdout);
  });
}

help('the overview names every command or its topic, and the exit statuses', async () => {
  const { status, stdout } = await homeproxy(['--help']);
  assert.is(status, 0);
  for (const [word] of COMMANDS) assert.match(stdout, new RegExp(`^ +${word}\\b`, 'm'));
  for (const exit of ['0', '1', '2', '3', '4', '5', '6', '7', '130']) {
    assert.match(stdout, new RegExp(`^ +${exit} +\\w`, 'm'), `exit status ${exit}`);
  }
});

help('can be completed by the shell', async () => {
  const { status, stdout } = await homeproxy(['autocomplete', 'script', 'bash']);
  assert.is(status, 0, stdout);
});

help.run();

const usage = suite('homeproxy exits with 2 and says how to use it after');

for (const { what, args, message } of [
  { what: 'an unknown command', args: ['migrte'], message: /migrte/ },
  { what: 'a missing argument', args: ['migrate', '42'], message: /host/ },
  { what: 'a pid that is no number', args: ['migrate', 'redis', 'host1'], message: /redis/ },
  { what: 'a pid below 1', args: ['recall', '0'], message: /0/ },
  { what: 'an unknown flag', args: ['ps', '--fast'], message: /--fast/ },
  { what: 'one argument too many', args: ['status', 'home'], message: /home/ },
  { what: 'an unknown action', args: ['lab', 'daemon', 'home', 'pause'], message: /pause/ },
  { what: 'a configuration that is not there', args: ['ps', '--config', '/nowhere.yaml'], message: /nowhere\.yaml/ },
]) {
  usage(what, async () => {
    const text = await homeproxy(args);
    assert.is(text.status, 2, describe(text));
    assert.is(text.stdout, '');
    assert.match(text.stderr, message);
    const json = await homeproxy([...args, '--json']);
    assert.is(json.status, 2, describe(json));
    const error = errorOf(json);
    assert.match(error.message, message);
    assert.is(error.exitStatus, 2);
    assert.ok(error.remedy !== undefined, JSON.stringify(error));
  });
}

usage.run();

const node = suite('on a node');
let scenario: Scenario;
let redis: Redis;

node.before(async () => {
  scenario = await Scenario.start('commands');
  redis = await startRedis(scenario.home);
});
node.after(downAll);

for (const args of [['status'], ['ps'], ['hosts'], ['check'], ['ca', 'show', '/etc/homeproxy/node.pem']]) {
  node(`homeproxy ${args[0]} prints words, or one line of JSON with --json, and exits with 0`, async () => {
    const [text, json] = await Promise.all([
      scenario.homeproxy('home', args),
      scenario.homeproxy('home', [...args, '--json']),
    ]);
    assert.is(text.status, 0, describe(text));
    assert.match(text.stdout, /\w/);
    assert.throws(() => JSON.parse(text.stdout));
    assert.is(json.status, 0, describe(json));
    assert.is(typeof oneLine(json), 'object');
    assert.is(json.stderr, '');
  });
}

node('status says that XDP runs in the driver, and hosts that all trust each other', async () => {
  const { uplinks } = await scenario.status('home');
  assert.is(uplinks.length, 1);
  assert.is(uplinks[0]?.interface, 'eth0');
  assert.match(uplinks[0]?.mode ?? '', /^xdp/);
  assert.equal(
    (await scenario.hosts('host1')).map(({ name, self, reachable }) => ({ name, self, reachable })),
    ['home', 'host1', 'host2'].map((name) => ({ name, self: name === 'host1', reachable: true })),
  );
});

node('ps and hosts say why a node does not answer', async () => {
  await scenario.lab.stopDaemon('host2');
  const row = (await scenario.hosts('home')).find(({ name }) => name === 'host2');
  assert.is(row?.reachable, false);
  assert.is(row?.error?.code, 'HOST_UNREACHABLE');
  for (const args of [['ps'], ['status'], ['hosts'], ['migrate', '5', 'home'], ['recall', '5']]) {
    const outcome = await scenario.homeproxy('host2', [...args, '--json']);
    assert.is(outcome.status, 7, describe(outcome));
    assert.is(errorOf(outcome).code, 'DAEMON_DOWN');
    assert.match(errorOf(outcome).remedy ?? '', /homeproxy up/);
  }
  await scenario.lab.startDaemon('host2');
});

node('migrate shows each phase when it is over, and ends with a summary', async () => {
  const { status, stdout, stderr } = await scenario.homeproxy('home', ['migrate', String(redis.pid), 'host1']);
  assert.is(status, 0, stderr);
  const phases = [...stderr.matchAll(/✔ (\w+) +[\d.]+ ms/g)].map((match) => match[1]);
  assert.equal(phases, [...PHASES]);
  assert.match(stdout, new RegExp(`^process ${redis.pid} moved from home to host1\n`));
  for (const words of [/frozen +[\d.]+ ms/, /connections +0/, /packets +\d+ parked, \d+ replayed, 0 dropped/]) {
    assert.match(stdout, words);
  }
});

node('a second migration to the same place, and a recall of what is at home, are refused with 3', async () => {
  const again = await scenario.homeproxy('home', ['migrate', String(redis.pid), 'host1', '--json']);
  assert.equal([again.status, errorOf(again).code], [3, 'ALREADY_THERE']);
  const never = await scenario.homeproxy('home', ['recall', '1', '--json']);
  assert.equal([never.status, errorOf(never).code], [3, 'NOT_AWAY']);
});

node('a second daemon on the same node is refused, and the first goes on', async () => {
  const second = await scenario.homeproxy('home', ['up']);
  assert.ok(second.status === 7 || second.status === 2, describe(second));
  assert.match(second.stderr, /another daemon|runs already|DAEMON_RUNNING/);
  assert.is((await scenario.status('home')).departed, 1);
});

for (const name of ['home', 'host1']) {
  node(`down on ${name} is refused with 3 while a process needs it`, async () => {
    const before = await attachedPrograms(scenario.lab.node(name));
    const outcome = await scenario.homeproxy(name, ['down', '--json']);
    assert.is(outcome.status, 3, describe(outcome));
    const error = errorOf(outcome);
    assert.is(error.code, 'STILL_NEEDED');
    assert.match(error.message, new RegExp(`process ${redis.pid}`));
    assert.match(error.remedy ?? '', /recall/);
    assert.equal(await attachedPrograms(scenario.lab.node(name)), before);
    assert.is((await scenario.status(name)).node, name);
  });

  node(`also when no daemon runs on ${name}`, async () => {
    await scenario.lab.stopDaemon(name);
    const outcome = await scenario.homeproxy(name, ['down', '--json']);
    assert.equal([outcome.status, errorOf(outcome).code], [3, 'STILL_NEEDED'], describe(outcome));
    await scenario.lab.startDaemon(name);
  });
}

/** Nothing of homeproxy is on the node any more. */
async function assertDetached(name: string): Promise<void> {
  const target = scenario.lab.node(name);
  assert.not(existsSync(target.path(PINS)), `${PINS} is still there`);
  assert.not(existsSync(target.path('/sys/fs/cgroup/homeproxy')), 'the cgroup of the pods is still there');
  assert.equal(await attachedPrograms(target), {});
}

node('down ends the daemon and removes all it owns: pins, XDP program, tc programs', async () => {
  await scenario.recall(redis.pid);
  assert.ok(existsSync(scenario.home.path(PINS)));
  const outcome = await scenario.homeproxy('home', ['down', '--json']);
  assert.is(outcome.status, 0, describe(outcome));
  assert.ok((oneLine(outcome) as { removed: string[] }).removed.length > 0);
  await assertDetached('home');
  assert.not(await hasClsact(scenario.home));
  const status = await scenario.homeproxy('home', ['status', '--json']);
  assert.equal([status.status, errorOf(status).code], [7, 'DAEMON_DOWN']);
  const again = await scenario.homeproxy('home', ['down', '--json']);
  assert.equal([again.status, oneLine(again)], [0, { removed: [] }]);
  await scenario.lab.stopDaemon('home');
  await scenario.lab.startDaemon('home');
  assert.is((await scenario.status('home')).bindings, 0);
});

node('down without a daemon does the same', async () => {
  await scenario.lab.stopDaemon('host1', 'SIGKILL');
  const outcome = await scenario.homeproxy('host1', ['down', '--json']);
  assert.is(outcome.status, 0, describe(outcome));
  await assertDetached('host1');
  assert.not(await hasClsact(scenario.lab.node('host1')));
  await scenario.lab.startDaemon('host1');
});

node('down leaves a tc filter of somebody else, and the clsact that it needs', async () => {
  const host = scenario.lab.node('host1');
  await host.run(['tc', 'qdisc', 'replace', 'dev', 'eth0', 'clsact']);
  const filter = ['protocol', 'ip', 'prio', '77', 'u32', 'match', 'u32', '0', '0', 'flowid', '1:1'];
  await host.run(['tc', 'filter', 'add', 'dev', 'eth0', 'ingress', ...filter]);
  const outcome = await scenario.homeproxy('host1', ['down', '--json']);
  assert.is(outcome.status, 0, describe(outcome));
  await assertDetached('host1');
  assert.match((await host.run(['tc', 'filter', 'show', 'dev', 'eth0', 'ingress'])).stdout, /pref 77 u32/);
  await host.run(['tc', 'qdisc', 'del', 'dev', 'eth0', 'clsact']);
  await scenario.lab.stopDaemon('host1');
  await scenario.lab.startDaemon('host1');
});

const FOREIGN_SOURCE = `
__attribute__((section("xdp"), used)) int somebody_elses(void *context) { return 2; /* XDP_PASS */ }
char _license[] __attribute__((section("license"), used)) = "GPL";
`;

node('up refuses an interface with an XDP program of somebody else, names it and leaves it', async () => {
  const host = scenario.lab.node('host2');
  assert.is((await scenario.homeproxy('host2', ['down'])).status, 0);
  await scenario.lab.stopDaemon('host2');
  writeFileSync(host.path('/tmp/foreign.c'), FOREIGN_SOURCE);
  await host.run(['clang', '-O2', '-g', '-target', 'bpf', '-c', '/tmp/foreign.c', '-o', '/tmp/foreign.o']);
  await host.run(['ip', 'link', 'set', 'dev', 'eth0', 'xdpdrv', 'obj', '/tmp/foreign.o', 'sec', 'xdp']);
  const before = await attachedPrograms(host);
  assert.equal(Object.keys(before), ['xdp']);

  const command = startHomeproxy(host, ['up']);
  const outcome = await Promise.race([command.ended, sleep(15_000, undefined)]);
  if (outcome === undefined) command.kill('SIGTERM');
  assert.ok(outcome !== undefined, `it came up: ${command.stderr}`);
  assert.is(outcome?.status, 7, command.stderr);
  assert.match(command.stderr, /somebody_elses/);
  assert.match(command.stderr, /eth0/);
  assert.equal(await attachedPrograms(host), before);
  assert.not(existsSync(host.path(PINS)), 'a failed start left pins');

  await host.run(['ip', 'link', 'set', 'dev', 'eth0', 'xdp', 'off']);
  await scenario.lab.startDaemon('host2');
});

node('up refuses a configuration with a mistake, and says where it is: exit 2', async () => {
  const host = scenario.lab.node('host2');
  await scenario.lab.stopDaemon('host2');
  const path = '/etc/homeproxy/homeproxy.yaml';
  const good = readFileSync(host.path(path), 'utf8');
  writeFileSync(host.path(path), good.replace('interface: eth0', 'interfce: eth0'));
  const outcome = await scenario.homeproxy('host2', ['up']);
  assert.is(outcome.status, 2, describe(outcome));
  assert.match(outcome.stderr, /homeproxy\.yaml:\d+:\d+: uplinks/);
  writeFileSync(host.path(path), good);
  await scenario.lab.startDaemon('host2');
});

node('and after all this the nodes move a process as before', async () => {
  await stopRedis(scenario.home, redis);
  redis = await startRedis(scenario.home);
  for (const host of ['host1', 'host2']) await scenario.migrate(redis.pid, host);
  await scenario.recall(redis.pid);
});

node.run();
