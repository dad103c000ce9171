// limit: 240 s
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { installProgram, startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { describe, errorOf, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const PORT = 7401;

const test = suite('a parent and its child that work with System V memory, semaphores and a message queue');
let scenario: Scenario;
let program: string;
let pid: number;
let client: LineClient;
let asked = 0;

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
});
test.after(downAll);

/** Lets both take a turn; it must find what it left. */
async function turn(): Promise<void> {
  const word = `word${asked++ % 3}`;
  assert.is(await client.ask('?'), `${asked} ${asked} 3 ${word} found whole`);
}

/** The System V objects that a node's own processes see, by their keys. */
async function objects(node: string): Promise<string[]> {
  const { stdout } = await scenario.lab.node(node).run(['sh', '-c', 'tail -qn +2 /proc/sysvipc/*']);
  const keys = stdout.split('\n').map((line) => Number(line.trim().split(/\s+/)[0]) >>> 0);
  return keys.filter((key) => key === 0x484f4d45).map((key) => key.toString(16));
}

test('work together at home', async () => {
  for (let index = 0; index < 5; index++) await turn();
  assert.equal(await objects('home'), ['484f4d45', '484f4d45', '484f4d45']);
  const { stdout } = await scenario.homeproxy('home', ['check', String(pid), 'host1']);
  assert.match(stdout, /1 memory segment, 1 message queue, 1 semaphore set.* go with it/);
});

test('a move that fails leaves them everything', async () => {
  await scenario.lab.node('host1').run(['mount', '--bind', '/dev/null', program]);
  const outcome = await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']);
  assert.is.not(outcome.status, 0);
  await scenario.lab.node('host1').run(['umount', program]);
  await turn();
});

for (const to of ['host1', 'host2', 'home', 'host1', 'home']) {
  test(`move to ${to}: they go on with what they had, and it is nowhere else`, async () => {
    if (to === 'home') await scenario.recall(pid);
    else await scenario.migrate(pid, to);
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    assert.equal(placesOf(scenario.lab, program), [place, place]);
    for (let index = 0; index < 5; index++) await turn();
    for (const node of ['home', 'host1', 'host2']) assert.equal(await objects(node), [], node);
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

test('and nothing is left over on any node', async () => {
  await client.close();
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
