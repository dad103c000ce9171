// limit: 240 s
import { writeFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { copiesOf, placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { killQuietly } from './node-command.js';
import { Scenario } from './scenario.js';
import { shareFolder } from './shared-folder.js';
import { settledTraces, tracesOfAll } from './traces.js';

const SHARED = '/run/shared';
const OWN = '/run/own';
const CHECKS = 7300;
/** What serves, by its workers: processes, and threads in each. */
const SERVERS = [
  { name: 'a parent and 3 processes', port: 7301, processes: 3, threads: 1 },
  { name: '4 threads', port: 7302, processes: 0, threads: 4 },
  { name: 'a parent and 3 processes with 3 threads each', port: 7303, processes: 3, threads: 3 },
] as const;
const CONNECTIONS = 24;

/** Of `belongings` that run: the root, a leader of a session and its child, a leader of a group, one with threads. Two more are zombies. */
const MEMBERS = 5;

const test = suite('process trees with all that they own, home -> host1 -> host2 -> home');
let scenario: Scenario;
let untouched: Record<string, string[]>;
let workers: string;
let belongings: string;
let owner: number;
let checks: LineClient;
const servers: number[] = [];
const loads: Load[] = [];

test.before(async () => {
  scenario = await Scenario.start('trees');
  const { home, client, lab } = scenario;
  const nodes = [home, lab.node('host1'), lab.node('host2')] as const;
  workers = await installProgram('workers', ...nodes);
  belongings = await installProgram('belongings', ...nodes);
  await shareFolder(SHARED, ...nodes);
  for (const node of nodes) {
    await node.run(['mkdir', OWN]);
    for (const name of ['flocked', 'locked']) writeFileSync(node.path(`${OWN}/${name}`), Buffer.alloc(100));
  }
  untouched = await tracesOfAll(lab, Object.keys(scenario.untouched));
  for (const { port, processes, threads } of SERVERS) {
    const command = [workers, '::', String(port), String(processes), String(threads)];
    servers.push(await startServer(home, command, port));
    loads.push(await Load.start(client, home.address, { port, connections: CONNECTIONS, paceMs: 10 }));
  }
  owner = await startServer(home, [belongings, '::', String(CHECKS), SHARED, OWN], CHECKS);
  checks = await LineClient.connect(client, home.address, CHECKS);
});
test.after(downAll);

/** Brings a process to the next node of its journey. */
async function move(pid: number, to: string): Promise<void> {
  if (to === 'home') await scenario.recall(pid);
  else await scenario.migrate(pid, to);
}

/** The threads of each process that serves on a port, the fewest first. */
function threadsOn(port: number): (number | undefined)[] {
  const all = copiesOf(scenario.lab, workers).filter(({ commandLine }) => commandLine.includes(` ${port} `));
  return all.map(({ machinePid }) => readProcess(machinePid)?.threads).sort();
}

test('at home everything is as it was left', async () => {
  assert.is(await checks.ask('check'), 'ok');
});

for (const to of ['host1', 'host2', 'home']) {
  test(`to ${to}: sessions, zombies, pipes, sockets, timers, descriptors that wait, memory, files and locks`, async () => {
    await move(owner, to);
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    assert.equal(placesOf(scenario.lab, belongings), new Array(MEMBERS).fill(place));
    assert.is(await checks.ask('check'), 'ok');
    assert.is(await checks.ask('check'), 'ok', 'and what it set up there');
  });

  test(`to ${to}: workers that accept from one listener, in processes, in threads, in both`, async () => {
    await Promise.all(servers.map((pid) => move(pid, to)));
    for (const { name, port, processes, threads } of SERVERS) {
      const workersOf = new Array(Math.max(processes, 1)).fill(threads);
      assert.equal(threadsOn(port), processes === 0 ? workersOf : [1, ...workersOf], name);
      loads.push(await Load.start(scenario.client, scenario.home.address6, { port, connections: 4, paceMs: 10 }));
    }
  });
}

test('every reply on every connection was right, of those too that were made while the servers were away', async () => {
  await loads.at(-1)?.nextSecond();
  for (const load of loads) {
    const result = await load.stop();
    assert.equal(faultsOf(result), NO_FAULTS);
    assert.ok(result.replies > 0);
  }
});

test('and when they have ended, nothing is left over on any node', async () => {
  await checks.close();
  for (const program of [workers, belongings]) {
    for (const { machinePid } of copiesOf(scenario.lab, program)) killQuietly(machinePid, 'SIGKILL');
  }
  assert.equal(await settledTraces(scenario.lab, untouched), untouched);
});

test.run();
