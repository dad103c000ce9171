// limit: 180 s
/** `homeproxy trace` on a node: every client gets what it asked for, and nobody pays when none is there. */

import * as assert from 'uvu/assert';
import type { PacketEventRow, TraceReport } from '../../cli/node/trace-method.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';
import { downAll } from './lab-fixture.js';
import { NodeCommand, startHomeproxy, type Wanted } from './node-command.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { describe, errorOf, Scenario } from './scenario.js';

const test = suite('homeproxy trace');
let scenario: Scenario;
let redis: Redis;
let homeAddress: string;

test.before(async () => {
  scenario = await Scenario.start('trace');
  redis = await startRedis(scenario.home);
  await scenario.migrate(redis.pid, 'host1');
  homeAddress = scenario.home.address;
});
test.after(downAll);

const ping = (port = String(REDIS_PORT)) => scenario.client.run(['redis-cli', '-h', homeAddress, '-p', port, 'ping']);
const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');

/** Keeps the process busy until a command has ended. */
async function pingUntilEnded(command: NodeCommand) {
  let over = false;
  const ended = command.ended.finally(() => {
    over = true;
  });
  while (!over) await ping();
  return await ended;
}

/** Repeats `work` until the command has printed a match: the daemon may not have heard of the client at the first. */
async function until(command: NodeCommand, wanted: Wanted, work: () => Promise<unknown>): Promise<void> {
  let printed = false;
  const waiting = command.printed(wanted).then(() => {
    printed = true;
  });
  while (!printed && command.running) await work();
  await waiting;
}

test('shows the packets of a process, one readable line each, and ends after --count with 0', async () => {
  const command = startHomeproxy(scenario.home, ['trace', '--pid', String(redis.pid), '--count', '6']);
  const outcome = await pingUntilEnded(command);
  assert.is(outcome.status, 0, describe(outcome));
  const lines = linesOf(outcome.stdout);
  assert.is(lines.length, 6);
  for (const line of lines) {
    assert.match(
      line,
      new RegExp(
        `^\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z (xdp|ingress) eth0 +redirect tunnelled +[\\d.]+:\\d+ > ${homeAddress.replaceAll('.', '\\.')}:${REDIS_PORT} tcp, \\d+ bytes, [\\w-]+/${redis.pid}$`,
      ),
    );
  }
});

test('--json prints a line of JSON for each event, and the report as the last', async () => {
  const command = startHomeproxy(scenario.home, ['trace', '--reason', 'tunnelled', '--count', '3', '--json']);
  const outcome = await pingUntilEnded(command);
  assert.is(outcome.status, 0, describe(outcome));
  const rows = linesOf(outcome.stdout).map((line) => JSON.parse(line) as PacketEventRow & TraceReport);
  assert.equal(rows.at(-1), { events: 3, missed: 0 } as never);
  const [binding] = (await scenario.ps('home')).map((row) => row.binding);
  for (const row of rows.slice(0, -1)) {
    assert.equal(
      [row.interface, row.verdict, row.reason, row.pid, row.binding, row.protocol, row.flow?.family],
      ['eth0', 'redirect', 'tunnelled', redis.pid, binding, 6, 4],
    );
    assert.is(row.flow?.destination.port, REDIS_PORT);
  }
});

test('several clients at once each see their own choice; Ctrl-C ends one with 0 and leaves the other', async () => {
  const all = startHomeproxy(scenario.home, ['trace', '--binding', '1', '--json']);
  const foreign = startHomeproxy(scenario.home, ['trace', '--reason', 'not_ours', '--json']);
  await until(all, /"tunnelled"/, () => ping());
  await until(foreign, /"not_ours"/, () => ping('9').catch(() => undefined)); // nobody listens there
  foreign.kill('SIGINT');
  const outcome = await foreign.ended;
  assert.is(outcome.status, 0, describe(outcome));
  const rows = linesOf(outcome.stdout).map((line) => JSON.parse(line) as PacketEventRow & TraceReport);
  assert.ok((rows.pop()?.events ?? 0) > 0);
  assert.ok(rows.every(({ reason }) => reason === 'not_ours'));
  const before = linesOf(all.stdout).length;
  await until(
    all,
    (text) => linesOf(text).length > before + 2,
    () => ping(),
  );
  all.kill('SIGINT');
  assert.is((await all.ended).status, 0);
});

test('ends with 0 when its reader does', async () => {
  const script = `{ ${process.execPath} ${projectFile('cli/bin/run.js')} trace; echo "status $?" >&2; } | head -n 1`;
  const command = new NodeCommand(scenario.home, ['sh', '-c', script]);
  command.finishInput();
  const outcome = await pingUntilEnded(command);
  assert.is(linesOf(outcome.stdout).length, 1, describe(outcome));
  assert.is(outcome.stderr, 'status 0\n');
});

test('a process of which no packet is ours is refused with 3, an unknown reason with 2', async () => {
  const nobody = await scenario.homeproxy('home', ['trace', '--pid', '1', '--json']);
  assert.equal([nobody.status, errorOf(nobody).code], [3, 'NOT_BOUND']);
  const reason = await scenario.homeproxy('home', ['trace', '--reason', 'bad-luck', '--json']);
  assert.is(reason.status, 2, describe(reason));
  assert.match(errorOf(reason).message, /bad-luck/);
});

/** The kernel's own SYN with the process's address and port, which the guard at the way out must not let through. */
const SPEAK_FOR_PROCESS = `
  const [localAddress, localPort, host] = process.argv.slice(1);
  require('net').connect({ localAddress, localPort: Number(localPort), host, port: 9 }).on('error', () => undefined);
  setImmediate(() => process.exit());
`;

test('drops are kept for those who come later', async () => {
  const speaker = [homeAddress, String(REDIS_PORT), scenario.client.address];
  await scenario.home.run([process.execPath, '-e', SPEAK_FOR_PROCESS, ...speaker]);
  const outcome = await scenario.homeproxy('home', ['trace', '--drops', '--recent', '1', '--count', '1', '--json']);
  assert.is(outcome.status, 0, describe(outcome));
  const [event] = linesOf(outcome.stdout).map((line) => JSON.parse(line) as PacketEventRow);
  assert.equal(
    [event?.hook, event?.verdict, event?.reason, event?.pid, event?.flow?.destination],
    ['egress', 'drop', 'guarded', redis.pid, { address: scenario.client.address, port: 9 }],
  );
});

test('when the daemon ends, its clients do, with 7', async () => {
  const command = startHomeproxy(scenario.home, ['trace', '--json']);
  await until(command, /"tunnelled"/, ping);
  await scenario.lab.stopDaemon('home');
  const outcome = await command.ended;
  assert.is(outcome.status, 7, describe(outcome));
  await ping(); // forwarding goes on
  await scenario.lab.startDaemon('home');
});

test.run();
