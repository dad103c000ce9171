// limit: 180 s
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { Clients } from '../apps/clients.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { NUMBERS_CLIENT, type NumbersPort, type NumbersResult } from './numbers.js';
import { Scenario } from './scenario.js';
import { shareFolder } from './shared-folder.js';

const FOLDER = '/run/shared';
/** More than the five sockets that MIGSOCK moves of a process. */
const MANY = 8;
/** Numbers that every connection brings after each move. */
const ON = 20;

interface Program {
  readonly kind: string;
  readonly what: string;
  readonly port: number;
  readonly clients: readonly NumbersPort[];
  /** How many processes it has with these clients. */
  readonly processes: number;
  /** Whether clients may come at any time. */
  readonly open: boolean;
}

const client = (port: number, connections = 1, kind?: 'echo' | 'totals'): NumbersPort =>
  kind === undefined ? { port, connections } : { port, connections, kind };
/** Section 5.6 of the paper. */
const PROGRAMS: readonly Program[] = [
  {
    kind: 'two',
    what: 'two sockets in one process',
    port: 7400,
    clients: [client(7400), client(7401)],
    processes: 1,
    open: false,
  },
  { kind: 'one', what: 'one socket', port: 7402, clients: [client(7402)], processes: 1, open: false },
  { kind: 'echo', what: 'an echo', port: 7403, clients: [client(7403, 1, 'echo')], processes: 1, open: false },
  {
    kind: 'files',
    what: 'processes and threads, each with a file',
    port: 7404,
    clients: [client(7404, 1, 'totals')],
    processes: 4,
    open: true,
  },
  {
    kind: 'processes',
    what: `${MANY} processes with a socket each`,
    port: 7405,
    clients: [client(7405, MANY)],
    processes: 1 + MANY,
    open: true,
  },
  {
    kind: 'threads',
    what: `${MANY} threads with a socket each`,
    port: 7406,
    clients: [client(7406, MANY)],
    processes: 1,
    open: true,
  },
];

const test = suite('the test programs of MIGSOCK II, all under load, home -> host1 -> host2 -> home');
let scenario: Scenario;
let migsock: string;
const pids: number[] = [];
const clients: Clients<NumbersResult>[] = [];

async function connectTo(ports: readonly NumbersPort[]): Promise<void> {
  const options = { host: scenario.home.address, ports };
  clients.push(await Clients.start<NumbersResult>(scenario.client, NUMBERS_CLIENT, options));
}

test.before(async () => {
  scenario = await Scenario.start('migsock');
  const { home, lab } = scenario;
  const nodes = [home, lab.node('host1'), lab.node('host2')] as const;
  migsock = await installProgram('migsock', ...nodes);
  await shareFolder(FOLDER, ...nodes);
  for (const { kind, port } of PROGRAMS)
    pids.push(await startServer(home, [migsock, kind, '::', String(port), FOLDER], port));
  await connectTo(PROGRAMS.flatMap(({ clients: own }) => own));
});
test.after(downAll);

for (const to of ['host1', 'host2', 'home']) {
  test(`to ${to}: ${PROGRAMS.map(({ what }) => what).join('; ')}`, async () => {
    await Promise.all(pids.map((pid) => (to === 'home' ? scenario.recall(pid) : scenario.migrate(pid, to))));
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    const count = PROGRAMS.reduce((sum, { processes }) => sum + processes, clients.length - 1);
    assert.equal(placesOf(scenario.lab, migsock), new Array(count).fill(place));
    for (const some of clients) await some.goesOn(ON);
    // one more process and one more thread, born there
    await connectTo([client(7405), client(7406)]);
  });
}

test('every number came once and in order on every connection, those too that were made on the way', async () => {
  const results = await Promise.all(clients.map((some) => some.stop()));
  assert.equal(
    results.flatMap(({ faults }) => faults),
    [],
  );
  assert.ok((results[0]?.fewest ?? 0) > 3 * ON);
  const told = results[0]?.totals ?? [];
  assert.is(told.length, 4);
  told.forEach((total, writer) => {
    const lines = readFileSync(scenario.home.path(`${FOLDER}/${writer}`), 'utf8')
      .trimEnd()
      .split('\n');
    assert.ok(lines.length >= total, `writer ${writer} has written ${total} numbers, ${lines.length} are there`);
    assert.is(
      lines.findIndex((line, index) => line !== String(index + 1)),
      -1,
      `all of writer ${writer}, in order`,
    );
  });
});

test.run();
