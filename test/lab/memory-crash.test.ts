// limit: 120 s
import { readFileSync, writeFileSync } from 'node:fs';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { parse, stringify } from 'yaml';
import type { StepName } from '../../cli/migration/steps.js';
import { migrateMethod, psMethod, statusMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { readProcess, readText } from '../../cli/system/procfs.js';
import { FaultLab } from '../fault/fault-lab.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { processesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';

const PORT = 7300;
const CONFIG = '/etc/homeproxy/homeproxy.yaml';
const MEGABYTES = '100';

const test = suite('the daemon is killed while CRIU has a process with much memory in its hands');
let lab: FaultLab;

/** A process that knows its memory, and a client of it. */
interface Subject {
  readonly pid: number;
  readonly machinePid: number;
  readonly client: LineClient;
}
let single: Subject;
/** Has a child, so that CRIU carries its memory. */
let tree: Subject;

test.before(async () => {
  lab = await FaultLab.start('memory-crash');
  const home = lab.node('home');
  // CRIU is not waited for longer than it needs, where that is allowed
  const config = parse(readFileSync(home.path(CONFIG), 'utf8')) as object;
  writeFileSync(home.path(CONFIG), stringify({ ...config, timeouts: { freezeMs: 1 } }));
  await lab.killDaemon('home');
  await lab.startDaemon('home');
  const program = await installProgram('remembering', home, lab.node('host1'));
  const command = (port: number): string[] => [program, home.address, String(port), MEGABYTES, '5'];
  single = await start(command(PORT), PORT);
  tree = await start(['sh', '-c', `sleep 3600 & exec ${command(PORT + 1).join(' ')}`], PORT + 1);
});
test.after(async () => {
  await single?.client.close();
  await tree?.client.close();
  await lab?.load.stop();
  await downAll();
});

async function start(command: string[], port: number): Promise<Subject> {
  const home = lab.node('home');
  const pid = await startServer(home, command, port);
  const client = await LineClient.connect(lab.lab.node('client'), home.address, port);
  return { pid, machinePid: home.machinePid(pid) ?? 0, client };
}

async function move({ pid }: Subject): Promise<void> {
  await streamControl(lab.socket('home'), migrateMethod, { pid, to: 'host1' }, () => undefined);
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await holds()); await sleep(10))
    assert.ok(Date.now() < deadline, 'it takes too long');
}

async function settled(): Promise<void> {
  await until(async () => (await lab.ask('home', statusMethod, {})).moving.length === 0);
}

async function assertAtHome({ client, machinePid }: Subject): Promise<void> {
  await settled();
  assert.equal((await lab.ask('home', psMethod, {})).processes, []);
  assert.match(await client.ask('whole?'), /^ok /);
  assert.ok(!hasForeignCode(machinePid));
  assert.is.not(readProcess(machinePid)?.state, 't');
}

/** CRIU maps its code from a file of that name (compel, MEMFD_FNAME). */
function hasForeignCode(pid: number): boolean {
  return readText(`/proc/${pid}/maps`)?.includes('/memfd:CRIUMFD') === true;
}

function criuAtHome(): number[] {
  return processesOf(lab.lab)
    .filter(({ node, machinePid }) => node === 'home' && readText(`/proc/${machinePid}/comm`)?.trim() === 'criu')
    .map(({ machinePid }) => machinePid);
}

test('before CRIU has changed anything: it lets the process go, and it runs on before a daemon is there again', async () => {
  lab.stopAt('home', 'source:at-gate' satisfies StepName);
  const moving = move(single).catch((error: unknown) => error);
  await until(() => lab.arrived('home'));
  assert.is(readProcess(single.machinePid)?.state, 't');
  assert.ok(!hasForeignCode(single.machinePid));
  await lab.killDaemon('home');
  assert.ok((await moving) instanceof Error);
  await until(() => criuAtHome().length === 0);
  await until(() => readProcess(single.machinePid)?.state !== 't');
  await lab.startDaemon('home');
  await assertAtHome(single);
});

test("while CRIU's code is in the process: the next daemon waits until CRIU has taken it out", async () => {
  const moving = move(tree).catch((error: unknown) => error);
  let ended = false;
  moving.then(() => {
    ended = true;
  });
  while (!hasForeignCode(tree.machinePid) && !ended) await setImmediate();
  const criu = criuAtHome();
  for (const pid of criu) process.kill(pid, 'SIGSTOP');
  assert.ok(!ended && hasForeignCode(tree.machinePid));
  await lab.killDaemon('home');
  await lab.startDaemon('home', 'coordinator:reverting');
  await until(() => lab.arrived('home'));
  lab.goOn('home');
  for (let asked = 0; asked < 20; asked++) await lab.ask('home', statusMethod, {}); // it would have lost its patience long ago
  for (const pid of criu) process.kill(pid, 'SIGCONT');
  await assertAtHome(tree);
  assert.ok((await moving) instanceof Error);
});

test('both can be moved afterwards', async () => {
  for (const subject of [single, tree]) {
    await move(subject);
    assert.match(await subject.client.ask('whole?'), /^ok /);
  }
});

test.run();
