// limit: 120 s
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { DAEMON_LOG } from '../../cli/lab/daemon.js';
import { journalReport } from '../../cli/node/control-methods.js';
import { suite } from '../suite.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { type Redis, startRedis } from './redis.js';
import { describe, errorOf, oneLine, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const SERVER = 'redis-server';

const test = suite('what is asked of a migration, and what the journal tells afterwards');
let scenario: Scenario;
let redis: Redis;

test.before(async () => {
  scenario = await Scenario.start('journal', { hosts: 1 });
  redis = await startRedis(scenario.home);
});
test.after(downAll);

async function journal(node: string, ...args: string[]) {
  return journalReport.parse(oneLine(await scenario.homeproxy(node, ['journal', '--json', ...args])));
}

test('--dry-run says that nothing is in the way, and touches nothing', async () => {
  const outcome = await scenario.homeproxy('home', ['migrate', String(redis.pid), 'host1', '--dry-run']);
  assert.is(outcome.status, 0, describe(outcome));
  assert.match(outcome.stdout, /can be moved from home to host1; nothing was touched/);
  assert.equal((await journal('home')).migrations, []);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test('--dry-run hears the destination too', async () => {
  const host = scenario.lab.node('host1');
  await host.run(['mount', '-t', 'tmpfs', 'lab', '/opt']);
  await scenario.home.run(['mount', '-t', 'tmpfs', 'lab', '/opt']);
  await scenario.home.run(['cp', '/bin/sleep', '/opt/only-at-home']);
  const pid = await scenario.home.detach(['/opt/only-at-home', '1000']);
  const outcome = await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--dry-run', '--json']);
  await scenario.home.run(['kill', '-9', String(pid)]);
  await scenario.home.run(['umount', '-l', '/opt']);
  await host.run(['umount', '-l', '/opt']);
  assert.is(outcome.status, 3, describe(outcome));
  assert.match(errorOf(outcome).message, /only-at-home.*FILE_MISSING/);
});

test('--max-freeze rolls back what would stand still for longer, and says so', async () => {
  const outcome = await scenario.homeproxy('home', ['migrate', String(redis.pid), 'host1', '--max-freeze', '3']);
  assert.is(outcome.status, 6, describe(outcome));
  assert.match(outcome.stderr, /runs on home as before: it would have stood still for more than 3 ms/);
  assert.equal(placesOf(scenario.lab, SERVER), ['home']);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test('the journal shows each migration with its outcome, and its steps in order with their times', async () => {
  const { migration } = await scenario.migrate(redis.pid, 'host1');
  const { migrations, departing, arriving } = await journal('home');
  assert.equal(
    migrations.map(({ state, from, to, error }) => [state, from, to, error?.code]),
    [
      ['rolled-back', 'home', 'host1', 'FREEZE_TOO_LONG'],
      ['done', 'home', 'host1', undefined],
    ],
  );
  assert.equal([departing, arriving], [[], []]);
  const steps = migrations[1]?.steps ?? [];
  const names = steps.map(({ step }) => step);
  const order = ['coordinator:preparing', 'source:frozen', 'coordinator:committed', 'source:ended', 'coordinator:done'];
  assert.equal(
    names.filter((name) => order.includes(name)),
    order,
  );
  assert.ok(steps.every(({ at }, index) => at >= (steps[index - 1]?.at ?? 0)));

  const [there] = (await journal('host1', migration)).migrations;
  assert.is(there?.state, 'taken-part');
  assert.ok(there?.steps.some(({ step }) => step === 'destination:runs'));
});

test('report writes one page with the steps of every node that took part, and not over what is there', async () => {
  const [, { migration = '', summary } = {}] = (await journal('home')).migrations;
  const written = await scenario.homeproxy('home', ['report', migration, '--output', '/tmp/move.html', '--json']);
  assert.is(written.status, 0, describe(written));
  const page = readFileSync(scenario.home.path('/tmp/move.html'), 'utf8');
  for (const words of ['It runs on host1.', 'source:frozen', '<td>host1</td><td>destination:runs</td>']) {
    assert.match(page, words);
  }
  assert.match(page, `${summary?.freezeMs.toFixed(1)} ms`);
  const again = await scenario.homeproxy('home', ['report', migration, '--output', '/tmp/move.html', '--json']);
  assert.equal([again.status, errorOf(again).code], [2, 'FILE_EXISTS']);
});

/** The lines of a daemon's log. */
function logOf(node: string): Record<string, unknown>[] {
  const text = readFileSync(scenario.lab.node(node).path(DAEMON_LOG), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

test('the log of each node has the migration in every line that belongs to one, from its begin to its end', async () => {
  const [rolledBack, done] = (await journal('home')).migrations.map(({ migration }) => migration);
  const saidOf = (node: string, migration: string | undefined): unknown[] =>
    logOf(node)
      .filter((line) => line.migration === migration)
      .map(({ msg }) => msg);
  assert.equal(saidOf('home', done), [
    'a migration begins',
    'a process is to leave',
    'a process has left',
    'a process has moved',
  ]);
  assert.equal(saidOf('host1', done), ['a process is to come', 'a process has come']);
  assert.equal(saidOf('home', rolledBack), [
    'a migration begins',
    'a process is to leave',
    'a process that was to leave runs on here',
    'a process was not moved',
  ]);
  const abroad = saidOf('host1', rolledBack);
  assert.equal([abroad[0], abroad.at(-1)], ['a process is to come', 'a process that was to come does not']);
  for (const node of ['home', 'host1']) {
    for (const { level, time, node: of, migration, ...rest } of logOf(node)) {
      assert.equal([typeof level, typeof time, of], ['number', 'number', node]);
      assert.is(
        /"m-[0-9a-z]{8}-|migrat|process (is|has|was|that)/.test(JSON.stringify(rest)),
        migration !== undefined,
        JSON.stringify(rest),
      );
    }
  }
});

test('for people too; a migration that nobody knows is exit 3', async () => {
  const all = await scenario.homeproxy('home', ['journal']);
  assert.match(all.stdout, /MIGRATION +BEGUN +PID +COMMAND +FROM +TO +STATE +WHY\n.*rolled-back.*FREEZE_TOO_LONG/);
  const unknown = await scenario.homeproxy('home', ['journal', 'm-aaaaaaaa-00000000', '--json']);
  assert.equal([unknown.status, errorOf(unknown).code], [3, 'UNKNOWN_MIGRATION']);
  const page = await scenario.homeproxy('home', ['report', 'm-aaaaaaaa-00000000', '--json']);
  assert.equal([page.status, errorOf(page).code], [3, 'UNKNOWN_MIGRATION']);
});

test('recall strikes off a process that has ended where it lived', async () => {
  const host = scenario.lab.node('host1');
  await host.run(['sh', '-c', 'kill -9 $(pidof redis-server redis-check-rdb)']);
  const outcome = await scenario.homeproxy('home', ['recall', String(redis.pid), '--json']);
  assert.equal([outcome.status, errorOf(outcome).code], [3, 'RESIDENT_ENDED'], describe(outcome));
  assert.equal(await scenario.ps('home'), []);
  const { host1 = [] } = scenario.untouched;
  assert.equal(await settledTraces(scenario.lab, { host1 }), { host1 });
});

test.run();
