// limit: 120 s
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type InternetSocket, readInternetSockets, readSocketHolders } from '../../cli/process/sockets.js';
import { readChildren, readNamespacePids } from '../../cli/system/procfs.js';
import { Clients } from '../apps/clients.js';
import { installProgram, startServer } from './c-program.js';
import { copiesOf } from './copies.js';
import { letRestoreFail } from './failing-restore.js';
import { downAll } from './lab-fixture.js';
import { killQuietly } from './node-command.js';
import { NUMBERS_CLIENT, type NumbersResult } from './numbers.js';
import { describe, Scenario } from './scenario.js';
import { settledTraces, tracesOfAll } from './traces.js';

const test = suite('a worker that leaves its parent, its siblings and their listener at home');

/** A parent and two workers that accept from its listener. */
interface Server {
  readonly port: number;
  readonly parent: number;
  /** Pids at home. */
  readonly workers: readonly number[];
}

let scenario: Scenario;
let program: string;
let untouched: Record<string, string[]>;
const servers = new Map<string, Server>();
const numbers: Clients<NumbersResult>[] = [];

test.before(async () => {
  scenario = await Scenario.start('preforked');
  const { home, lab } = scenario;
  program = await installProgram('preforked', home, lab.node('host1'), lab.node('host2'));
  untouched = await tracesOfAll(lab, Object.keys(scenario.untouched));
  for (const [how, address, port] of [
    ['accept', '::', 7310],
    ['epoll', '0.0.0.0', 7311],
    ['late', home.address, 7312],
  ] as const) {
    servers.set(how, await start(how, address, port));
  }
});
test.after(downAll);

async function start(how: string, address: string, port: number): Promise<Server> {
  const { home } = scenario;
  const parent = await startServer(home, [program, how, address, String(port)], port);
  const children = readChildren(home.machinePid(parent) ?? 0);
  return { port, parent, workers: children.map((pid) => readNamespacePids(pid).at(-1) ?? 0) };
}

/** Ends all of a server that is at home. */
function end({ parent, workers }: Server): void {
  for (const pid of [parent, ...workers]) {
    const machinePid = scenario.home.machinePid(pid);
    if (machinePid !== undefined) killQuietly(machinePid, 'SIGKILL');
  }
}

function server(how: string): Server {
  const found = servers.get(how);
  if (found === undefined) throw new Error(`no server ${how}`);
  return found;
}

function connect(port: number, connections: number): Promise<Clients<NumbersResult>> {
  const options = { host: scenario.home.address, ports: [{ port, connections }] };
  return Clients.start<NumbersResult>(scenario.client, NUMBERS_CLIENT, options);
}

/** New connections, which are all answered. */
async function add(how: string, connections: number): Promise<void> {
  numbers.push(await connect(server(how).port, connections));
}

/** The sockets of a process at home. */
function socketsOf(pid: number): InternetSocket[] {
  const machinePid = scenario.home.machinePid(pid) ?? 0;
  const held = readSocketHolders([machinePid]);
  return readInternetSockets(machinePid, ['tcp', 'tcp6']).filter(({ inode }) => held.has(inode));
}

function listenersOf(pid: number): (string | undefined)[] {
  return socketsOf(pid).flatMap(({ state, cookie }) => (state === 'LISTEN' ? [cookie] : []));
}

const connectionsOf = (pid: number): number => socketsOf(pid).filter(({ state }) => state === 'ESTABLISHED').length;

/** All listeners of a port at home, whoever has them. */
function listenersAt({ parent, port }: Server): (string | undefined)[] {
  const sockets = readInternetSockets(scenario.home.machinePid(parent) ?? 0, ['tcp', 'tcp6'], ['LISTEN']);
  return sockets.filter(({ local }) => local.port === port).map(({ cookie }) => cookie);
}

for (const how of ['accept', 'epoll']) {
  test(`${how}: what it has accepted goes with it to two hosts; its parent's listener is its own again at home`, async () => {
    const { port, parent, workers } = server(how);
    const [worker = 0] = workers;
    while (connectionsOf(worker) === 0) await add(how, 2);
    const [listener] = listenersOf(parent);
    const check = await scenario.homeproxy('home', ['check', String(worker), 'host1', '--json']);
    assert.is(check.status, 0, describe(check));
    assert.match(check.stdout, /LISTENER_STAYS.*accepts no new connections while it is away/);
    for (const to of ['host1', 'host2', 'home']) {
      // some are made while it is about to leave: whoever accepts them, they go on
      const made = connect(port, 20);
      await (to === 'home' ? scenario.recall(worker) : scenario.migrate(worker, to));
      numbers.push(await made);
      for (const some of numbers) await some.goesOn(20);
      assert.equal(listenersAt(server(how)), [listener], `at home while it is at ${to}`);
      await add(how, 4);
    }
    assert.equal(listenersOf(worker), [listener]);
  });
}

test('connections that wait in the queue when it leaves are accepted by those who stay; by itself after it has come home', async () => {
  const { port, parent, workers } = server('late');
  await add('late', 2);
  const [worker = 0, sibling = 0] = workers;
  const waiting = connect(port, 3);
  while (readInternetSockets(scenario.home.machinePid(parent) ?? 0, ['tcp'], ['LISTEN']).every(waitsFor(port, 3)));
  await scenario.migrate(worker, 'host1');
  const signal = (pid: number): boolean => process.kill(scenario.home.machinePid(pid) ?? 0, 'SIGUSR1');
  signal(sibling);
  numbers.push(await waiting);
  assert.is(connectionsOf(sibling), 1 + 3);
  await scenario.recall(worker);
  killQuietly(scenario.home.machinePid(sibling) ?? 0, 'SIGSTOP');
  signal(worker);
  const own = connectionsOf(worker);
  await add('late', 2);
  killQuietly(scenario.home.machinePid(sibling) ?? 0, 'SIGCONT');
  assert.ok(connectionsOf(worker) > own, 'it has accepted one');
  assert.equal(listenersOf(worker), listenersOf(parent));
});

function waitsFor(port: number, connections: number): (socket: InternetSocket) => boolean {
  return ({ local, receiveQueue }) => local.port !== port || receiveQueue < connections;
}

test('a recall that fails, at home, leaves the listener as it was: one, with those that have it', async () => {
  const { parent, workers } = server('accept');
  const [worker = 0] = workers;
  const before = listenersAt(server('accept'));
  await scenario.migrate(worker, 'host1');
  const undo = await letRestoreFail(scenario.home, [program]);
  try {
    const outcome = await scenario.homeproxy('home', ['recall', String(worker)]);
    assert.is(outcome.status, 6, describe(outcome));
  } finally {
    await undo();
  }
  assert.equal(listenersAt(server('accept')), before);
  await add('accept', 2);
  await scenario.recall(worker);
  assert.equal(listenersOf(worker), listenersOf(parent));
});

test('when its parent and its siblings have ended meanwhile, it gets a listener of its own, unless the port is taken', async () => {
  const address = scenario.home.address6;
  const ended = await start('accept', address, 7313);
  const [worker = 0] = ended.workers;
  const [before] = listenersAt(ended);
  await scenario.migrate(worker, 'host1');
  end(ended);
  const other = await start('accept', address, ended.port);
  const outcome = await scenario.homeproxy('home', ['recall', String(worker)]);
  assert.is(outcome.status, 3, describe(outcome));
  assert.match(outcome.stdout + outcome.stderr, /PORT_TAKEN/);
  end(other);
  await scenario.recall(worker);
  const [after, ...more] = listenersOf(worker);
  assert.equal(more, []);
  assert.ok(after !== undefined && after !== before);
  const options = { host: address, ports: [{ port: ended.port, connections: 2 }] };
  numbers.push(await Clients.start<NumbersResult>(scenario.client, NUMBERS_CLIENT, options));
});

test('every number on every connection came once and in order', async () => {
  const results = await Promise.all(numbers.map((some) => some.stop()));
  assert.equal(
    results.flatMap(({ faults }) => faults),
    [],
  );
});

test('and when they have ended, nothing is left over on any node', async () => {
  for (const { machinePid } of copiesOf(scenario.lab, program)) killQuietly(machinePid, 'SIGKILL');
  assert.equal(await settledTraces(scenario.lab, untouched), untouched);
});

test.run();
