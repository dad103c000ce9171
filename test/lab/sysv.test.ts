// limit: 240 s

import * as assert from 'uvu/assert';
import type { ProcessCheck } from '../../cli/check-report.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { letRestoreFail } from './failing-restore.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import type { Outcome } from './node-command.js';
import { describe, errorOf, oneLine, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const PORT = 7401;
const POSIX_PORT = 7411;
/** What the POSIX program has in /dev/shm. */
const OBJECTS = ['hp-board', 'hp-notes', 'sem.hp-mine', 'sem.hp-yours'];

const test = suite(
  'parents and children that work with shared memory and semaphores, System V and POSIX, and with a queue',
);
let scenario: Scenario;
let program: string;
let pid: number;
let client: LineClient;
let asked = 0;
let posixProgram: string;
let posix: number;
let posixClient: LineClient;
let posixAsked = 0;

test.before(async () => {
  scenario = await Scenario.start('sysv');
  const { home, lab } = scenario;
  // Others on each node have objects too, under numbers that the tree has at home, and with its key: both stay theirs.
  for (const name of ['home', 'host1', 'host2']) {
    await lab.node(name).run(['sh', '-c', 'ipcmk -M 5000 -S 2 -Q']);
  }
  program = await installProgram('sysv', home, lab.node('host1'), lab.node('host2'));
  pid = await startServer(home, [program, String(PORT)], PORT);
  client = await LineClient.connect(scenario.client, home.address, PORT);
  posixProgram = await installProgram('posix', home, lab.node('host1'), lab.node('host2'));
  posix = await startServer(home, [posixProgram, String(POSIX_PORT)], POSIX_PORT);
  posixClient = await LineClient.connect(scenario.client, home.address, POSIX_PORT);
  await lab.node('host1').run(['sh', '-c', 'echo of another >/dev/shm/hp-board']);
});
test.after(downAll);

/** Lets both take a turn; it must find what it left. */
async function turn(): Promise<void> {
  const word = `word${asked++ % 3}`;
  assert.is(await client.ask('?'), `${asked} ${asked} 3 ${word} found whole`);
}

/** The same with POSIX shared memory and named semaphores; what they have must be what is there under its name. */
async function posixTurn(): Promise<void> {
  posixAsked++;
  assert.is(await posixClient.ask('?'), `${posixAsked} ${posixAsked} ${posixAsked - 1} found whole`);
}

const refusals = (check: Outcome): string[] =>
  (oneLine(check) as ProcessCheck).verdicts.filter(({ outcome }) => outcome === 'refused').map(({ code }) => code);

/** What a node's own processes see in /dev/shm. */
async function sharedMemory(node: string): Promise<string[]> {
  const { stdout } = await scenario.lab.node(node).run(['ls', '/dev/shm']);
  return stdout.split('\n').filter((name) => name !== '');
}

/** The System V objects that a node's own processes see, by their keys. */
async function objects(node: string): Promise<string[]> {
  const { stdout } = await scenario.lab.node(node).run(['sh', '-c', 'tail -qn +2 /proc/sysvipc/*']);
  const keys = stdout.split('\n').map((line) => Number(line.trim().split(/\s+/)[0]) >>> 0);
  return keys.filter((key) => key === 0x484f4d45).map((key) => key.toString(16));
}

test('work together at home', async () => {
  for (let index = 0; index < 5; index++) await Promise.all([turn(), posixTurn()]);
  assert.equal(await objects('home'), ['484f4d45', '484f4d45', '484f4d45']);
  assert.equal(await sharedMemory('home'), OBJECTS);
  const check = (of: number) => scenario.homeproxy('home', ['check', String(of), 'host1']);
  const [sysv, named] = await Promise.all([check(pid), check(posix)]);
  assert.match(sysv.stdout, /1 memory segment, 1 message queue, 1 semaphore set.* go with it/);
  assert.is(named.status, 0, describe(named));
  assert.match(named.stdout, /its 4 objects in \/dev\/shm .*go with it/);
});

test('a move that fails leaves them everything', async () => {
  const restores = await letRestoreFail(scenario.lab.node('host1'), [program, posixProgram]);
  const move = (of: number) => scenario.homeproxy('home', ['migrate', String(of), 'host1', '--json']);
  const outcomes = await Promise.all([move(pid), move(posix)]);
  await restores();
  assert.equal(
    outcomes.map((outcome) => errorOf(outcome).code),
    ['ROLLED_BACK', 'ROLLED_BACK'],
  );
  await Promise.all([turn(), posixTurn()]);
  assert.equal(await sharedMemory('home'), OBJECTS);
});

const TOUR: readonly (readonly [string, string])[] = [
  ['host1', 'shared'],
  ['host2', 'shared'],
  ['home', ''],
  ['host1', 'carry'],
  ['home', ''],
];
for (const [to, files] of TOUR) {
  test(`move to ${to} ${files}: they go on with what they had, and it is nowhere else`, async () => {
    const move = async (of: number): Promise<void> => {
      const args = to === 'home' ? ['recall', String(of)] : ['migrate', String(of), to, '--files', files];
      const outcome = await scenario.homeproxy('home', args);
      assert.is(outcome.status, 0, describe(outcome));
    };
    await Promise.all([move(pid), move(posix)]);
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    for (const one of [program, posixProgram]) assert.equal(placesOf(scenario.lab, one), [place, place]);
    for (let index = 0; index < 5; index++) await Promise.all([turn(), posixTurn()]);
    for (const node of ['home', 'host1', 'host2']) assert.equal(await objects(node), [], node);
    assert.equal(await sharedMemory('home'), to === 'home' ? OBJECTS : []);
    assert.equal(await sharedMemory('host1'), ['hp-board'], 'that of another');
    assert.equal(await sharedMemory('host2'), []);
  });
}

test('one that shares its memory with a process that stays is refused: they cannot be in two places', async () => {
  const { home } = scenario;
  const both = await Promise.all([PORT + 1, PORT + 2].map((port) => startServer(home, [program, String(port)], port)));
  const outcome = await scenario.homeproxy('home', ['migrate', String(both[0]), 'host1', '--json']);
  assert.is(outcome.status, 3, describe(outcome));
  assert.match(
    errorOf(outcome).message,
    new RegExp(`System V memory \\d+: pid ${both[1]} \\(sysv\\), outside .*SYSV_SHARED`),
  );
  await home.run(['kill', ...both.map(String)]);
});

test('so is one that shares an object in /dev/shm, and that process is named', async () => {
  const { home } = scenario;
  const other = await startServer(home, [posixProgram, String(POSIX_PORT + 1), '/hp-other'], POSIX_PORT + 1);
  const outcome = await scenario.homeproxy('home', ['migrate', String(posix), 'host1', '--json']);
  assert.is(outcome.status, 3, describe(outcome));
  const { message, remedy = '' } = errorOf(outcome);
  assert.match(message, new RegExp(`/dev/shm/sem\\.hp-mine: pid ${other} \\(posix\\), outside .*SHM_SHARED`));
  assert.match(message, /\/dev\/shm\/hp-notes: .*SHM_SHARED/);
  assert.not.match(message, /hp-board/);
  assert.match(remedy, /end the other one/);
  await home.run(['sh', '-c', `kill ${other}; rm /dev/shm/hp-other`]);
  await posixTurn();
});

test('a name that somebody at home takes meanwhile: the recall says so, and they go on where they are', async () => {
  const { home } = scenario;
  await scenario.migrate(posix, 'host1');
  await home.run(['sh', '-c', 'echo stranger >/dev/shm/hp-notes']);
  const outcome = await scenario.homeproxy('home', ['recall', String(posix), '--json']);
  assert.is(outcome.status, 3, describe(outcome));
  assert.match(errorOf(outcome).message, /\/dev\/shm\/hp-notes: .* at home meanwhile.*SHM_TAKEN/);
  await posixTurn();
  assert.equal(await sharedMemory('home'), ['hp-notes']);
  const other = await scenario.homeproxy('home', ['check', String(posix), 'host2', '--files', 'carry', '--json']);
  assert.equal(refusals(other), ['FILES_SHARED'], describe(other));
  await home.run(['rm', '/dev/shm/hp-notes']);
  await scenario.recall(posix);
  await posixTurn();
});

test('and nothing is left over on any node', async () => {
  await Promise.all([client.close(), posixClient.close()]);
  await scenario.home.run(['sh', '-c', `kill ${posix}; rm /dev/shm/*`]);
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
