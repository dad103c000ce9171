// limit: 120 s
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { StepName } from '../../cli/migration/steps.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { type DaemonNode, FaultLab } from '../fault/fault-lab.js';
import { suite } from '../suite.js';
import { startServer } from './c-program.js';
import { downAll } from './lab-fixture.js';
import { APP, buildLedger } from './ledger.js';
import { LineClient } from './line-client.js';

const PORT = 7300;
const test = suite('files that go with a process, and daemons that are killed on the way');
let lab: FaultLab;
let pid: number;
let client: LineClient;

test.before(async () => {
  lab = await FaultLab.start('carry-crash');
  const home = lab.node('home');
  const built = await buildLedger();
  for (const name of ['bin', 'lib', 'data']) mkdirSync(home.path(`${APP}/${name}`), { recursive: true });
  cpSync(join(built, 'ledger'), home.path(`${APP}/bin/ledger`));
  cpSync(join(built, 'libledger.so.1'), home.path(`${APP}/lib/libledger.so.1`));
  rmSync(built, { recursive: true });
  pid = await startServer(home, ['sh', '-c', `cd ${APP}/data && exec ${APP}/bin/ledger ${PORT} journal`], PORT);
  client = await LineClient.connect(lab.lab.node('client'), home.address, PORT);
});
test.after(async () => {
  await client?.close();
  await lab?.load.stop();
  await downAll();
});

const journal = (): string => readFileSync(lab.node('home').path(`${APP}/data/journal`), 'utf8');
const atHome = (): string[] => readdirSync(lab.node('home').path(`${APP}/data`));

async function move(to: DaemonNode): Promise<void> {
  await streamControl(lab.socket('home'), migrateMethod, { pid, to, files: 'carry' }, () => undefined);
}

async function until(holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 20_000; !holds(); await sleep(20))
    assert.ok(Date.now() < deadline, 'it takes too long');
}

/** Kills a daemon that stands at a step of a move, and starts it again. */
async function crash(node: DaemonNode, step: StepName, to: DaemonNode): Promise<void> {
  lab.stopAt(node, step);
  const moving = move(to).catch(() => undefined);
  await until(() => lab.arrived(node));
  await lab.killDaemon(node);
  await lab.startDaemon(node);
  await moving;
}

/** Tries until what a crash has left is cleared up. */
async function moveAtLast(to: DaemonNode): Promise<void> {
  for (const deadline = Date.now() + 20_000; ; await sleep(200)) {
    try {
      return await move(to);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

const carried = (): string[] => {
  try {
    return readdirSync(lab.node('host1').path('/var/lib/homeproxy/carried'));
  } catch {
    return [];
  }
};

test('the host dies when it has the files: the process stays at home, and the host keeps none', async () => {
  assert.is(await client.ask('add one'), '1 version 1');
  await crash('host1', 'destination:files-received', 'host1');
  await until(() => carried().length === 0);
  assert.is(await client.ask('add two'), '2 version 1');
  await moveAtLast('host1');
  assert.is(carried().length, 1);
});

test('home dies when the files have taken their places: they are what they were, and the process is away', async () => {
  assert.is(await client.ask('add three'), '3 version 1');
  await crash('home', 'destination:files-exchanged', 'home');
  await until(() => atHome().length === 1);
  assert.is(journal(), 'one\ntwo\n');
  assert.is(await client.ask('add four'), '4 version 1');
  await moveAtLast('home');
  assert.is(await client.ask('add five'), '5 version 1');
  assert.is(journal(), 'one\ntwo\nthree\nfour\nfive\n');
  assert.equal([atHome(), carried()], [['journal'], []]);
});

test.run();
