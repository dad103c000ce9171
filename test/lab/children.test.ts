// limit: 120 s

import * as assert from 'uvu/assert';
import { readChildren, readNamespacePids } from '../../cli/system/procfs.js';
import { Clients } from '../apps/clients.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { NUMBERS_CLIENT, type NumbersResult } from './numbers.js';
import { Scenario } from './scenario.js';

const PORT = 7304;

const test = suite('a child that leaves its parent and the listener at home');
let scenario: Scenario;
let migsock: string;
let parent: number;
let child: number;
const numbers: Clients<NumbersResult>[] = [];

async function connect(connections: number): Promise<void> {
  const options = { host: scenario.home.address, ports: [{ port: PORT, connections }] };
  numbers.push(await Clients.start<NumbersResult>(scenario.client, NUMBERS_CLIENT, options));
}

test.before(async () => {
  scenario = await Scenario.start('children');
  const { home, lab } = scenario;
  migsock = await installProgram('migsock', home, lab.node('host1'), lab.node('host2'));
  parent = await startServer(home, [migsock, 'processes', '::', String(PORT)], PORT);
  await connect(1);
  child = readChildren(home.machinePid(parent) ?? 0).map((pid) => readNamespacePids(pid).at(-1) ?? 0)[0] ?? 0;
  await connect(2); // with children who stay
});
test.after(downAll);

for (const to of ['host1', 'host2', 'home']) {
  test(`to ${to}: its connection goes on there, those of its siblings and new ones at home`, async () => {
    if (to === 'home') await scenario.recall(child);
    else await scenario.migrate(child, to);
    const away = placesOf(scenario.lab, migsock).filter((place) => place !== 'home');
    assert.equal(away, to === 'home' ? [] : [`${to} (in a pod)`]);
    for (const some of numbers) await some.goesOn(20);
    await connect(1);
  });
}

test('while a child is away, its parent is told to wait for it before it leaves', async () => {
  await scenario.migrate(child, 'host1');
  for (const args of [
    ['check', String(parent), 'host2'],
    ['migrate', String(parent), 'host2'],
  ]) {
    const outcome = await scenario.homeproxy('home', args);
    assert.is.not(outcome.status, 0);
    assert.match(outcome.stdout + outcome.stderr, /PORT_AWAY/);
    assert.match(outcome.stdout + outcome.stderr, `homeproxy recall ${child}`);
  }
  await scenario.recall(child);
  for (const some of numbers) await some.goesOn(20);
});

test('every number came once and in order', async () => {
  const results = await Promise.all(numbers.map((some) => some.stop()));
  assert.equal(
    results.flatMap(({ faults }) => faults),
    [],
  );
});

test.run();
