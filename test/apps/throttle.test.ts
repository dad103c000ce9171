// limit: 180 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { StepName } from '../../cli/migration/steps.js';
import { journalMethod, migrateMethod, psMethod, statusMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { type DaemonNode, FaultLab } from '../fault/fault-lab.js';
import { installProgram, startServer } from '../lab/c-program.js';
import { processesOf } from '../lab/copies.js';
import { downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { killQuietly, startHomeproxy } from '../lab/node-command.js';
import { describe } from '../lab/scenario.js';
import { suite } from '../suite.js';
import { isSlowed } from './slowed.js';

const PORT = 7300;
/** Of so many megabytes, so many pages are written every 10 ms: 160 MB a second, of which a fifth can be sent. */
const SIZE = ['32', '400'];
const SHORT_MS = 900;
const NARROW = { bandwidthLimit: 30_000_000, maxFreezeMs: SHORT_MS };
const SLOWING = { ...NARROW, throttle: 10 };
const NARROW_FLAGS = ['--bandwidth-limit', '30M', '--max-freeze', String(SHORT_MS)];
/** A process stays slowed down for so long after the copying, when its home says nothing any more (cli/migration/copy-ahead.ts). */
const LET_GO_MS = 15_000;

const test = suite('a process that writes more than can be sent');
let lab: FaultLab;
let pid: number;
let client: LineClient;

test.before(async () => {
  lab = await FaultLab.start('throttle');
  const home = lab.node('home');
  const program = await installProgram('remembering', home, lab.node('host1'));
  pid = await startServer(home, [program, home.address, String(PORT), ...SIZE], PORT);
  client = await LineClient.connect(lab.lab.node('client'), home.address, PORT);
});
test.after(async () => {
  await client?.close();
  await lab?.load.stop();
  await downAll();
});

function move(to: DaemonNode | undefined, how: object = {}, onPace: (pace: number | undefined) => void = () => {}) {
  const asked = { pid, ...(to === undefined || to === 'home' ? {} : { to }), ...how };
  return streamControl(
    lab.socket('home'),
    migrateMethod,
    asked,
    ({ copied }) => void (copied !== undefined && onPace(copied.pace)),
  );
}

const slowed = (ms: number): Promise<boolean> => isSlowed(lab.lab, PORT, ms);

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await holds()); await sleep(10))
    assert.ok(Date.now() < deadline, 'it takes too long');
}

/** It runs there, whole and at its own pace, and nothing is under way. */
async function assertAt(node: DaemonNode): Promise<void> {
  for (const each of ['home', 'host1'] as const)
    await until(async () => (await lab.ask(each, statusMethod, {})).moving.length === 0);
  const { processes } = await lab.ask('home', psMethod, {});
  assert.is(processes.find(({ pid: of }) => of === pid)?.location ?? 'home', node);
  assert.not.ok(await slowed(200));
  assert.match(await client.ask('whole?'), /^ok /);
}

test('stays where it is, and nobody slows it down unasked', async () => {
  const flags = [...NARROW_FLAGS, '--json'];
  const command = startHomeproxy(lab.node('home'), ['migrate', String(pid), 'host1', ...flags]);
  let ever = false;
  while (command.running) ever ||= await slowed(50);
  const { stdout } = await command.ended;
  const { error } = JSON.parse(stdout) as { error: { code: string; remedy: string } };
  assert.is(error.code, 'WILL_NOT_CONVERGE');
  assert.match(error.remedy, /--throttle/);
  assert.not.ok(ever);
  await assertAt('home');
});

test('moves when it may be slowed down, stands still no longer than it may, and has its own pace there', async () => {
  const paces = new Set<number | undefined>();
  const { freezeMs, memory, migration } = await move('host1', SLOWING, (pace) => void paces.add(pace));
  assert.ok(freezeMs <= SHORT_MS, `${freezeMs} ms`);
  const { percent = 100, ms = 0 } = memory?.throttle ?? {};
  assert.ok(percent >= 10 && percent <= 50 && ms > 0, JSON.stringify(memory));
  assert.ok(paces.has(undefined) && paces.has(percent), [...paces].join());
  const [noted] = (await lab.ask('home', journalMethod, { migration })).migrations;
  assert.ok(noted?.steps.some(({ step }) => step === 'source:memory-slowed'));
  assert.equal(noted?.summary?.memory?.throttle, memory?.throttle);
  await assertAt('host1');
});

test('Ctrl-C while it is slowed down: it stays where it is, at its own pace', async () => {
  const command = startHomeproxy(lab.node('home'), ['recall', String(pid), ...NARROW_FLAGS, '--throttle', '25%']);
  while (command.running && !(await slowed(100)));
  assert.ok(command.running, 'it was never slowed down');
  command.kill('SIGINT');
  assert.is((await command.ended).status, 130, describe(await command.ended));
  await assertAt('host1');
});

test('its home dies after the copying: for a while it stays slow, for its home may come back, and then it is let go', async () => {
  lab.stopAt('home', 'coordinator:freezing' satisfies StepName);
  const moving = move('home', SLOWING).catch((error: unknown) => error);
  await until(() => lab.arrived('home'));
  const copied = Date.now();
  await lab.killDaemon('home');
  assert.ok(await slowed(200), 'it has its own pace already');
  while (await slowed(500)) assert.ok(Date.now() - copied < LET_GO_MS + 2000, 'nobody lets it go');
  assert.ok(Date.now() - copied > LET_GO_MS / 2, `it was let go after ${Date.now() - copied} ms`);
  await lab.startDaemon('home');
  assert.ok((await moving) instanceof Error);
  await assertAt('host1');
});

for (const node of ['host1', 'home'] as const) {
  test(`the daemon of ${node} is killed while it is slowed down there: it has its own pace before there is another`, async () => {
    if (node === 'home') await move('home');
    lab.stopAt(node, 'source:memory-slowed' satisfies StepName);
    const moving = move(node === 'home' ? 'host1' : 'home', SLOWING).catch((error: unknown) => error);
    await until(() => lab.arrived(node));
    await until(() => slowed(50));
    await lab.killDaemon(node);
    await until(() => throttling().length === 0);
    assert.not.ok(await slowed(200));
    assert.match(await client.ask('whole?'), /^ok /);
    await lab.startDaemon(node);
    assert.ok((await moving) instanceof Error);
    await assertAt(node);
  });
}

test('what slows it down hangs, with the process stopped, when the daemon is killed: the next daemon lets it go', async () => {
  lab.stopAt('home', 'source:memory-slowed' satisfies StepName);
  const moving = move('host1', SLOWING).catch((error: unknown) => error);
  await until(() => lab.arrived('home'));
  await until(() => throttling().length === 1);
  const [hanging = 0] = throttling();
  await until(async () => {
    killQuietly(hanging, 'SIGCONT');
    await sleep(7);
    killQuietly(hanging, 'SIGSTOP');
    return await slowed(0);
  });
  await lab.killDaemon('home');
  await sleep(500);
  assert.equal([throttling(), await slowed(0)], [[hanging], true]);
  await lab.startDaemon('home');
  assert.ok((await moving) instanceof Error);
  assert.equal(throttling(), []);
  await assertAt('home');
});

/** What slows down processes, by its pid on this machine. */
function throttling(): number[] {
  return processesOf(lab.lab)
    .filter(({ commandLine }) => commandLine.includes('throttle-main'))
    .map(({ machinePid }) => machinePid);
}

test.run();
