// limit: 120 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { asHomeproxyError } from '../../cli/errors.js';
import type { StepName } from '../../cli/migration/steps.js';
import { assessMethod, migrateMethod, statusMethod } from '../../cli/node/control-methods.js';
import { callControl, streamControl } from '../../cli/node/control-transport.js';
import { type InternetSocket, readInternetSockets, readSocketHolders } from '../../cli/process/sockets.js';
import { readChildren, readNamespacePids } from '../../cli/system/procfs.js';
import { Clients } from '../apps/clients.js';
import { type DaemonNode, FaultLab } from '../fault/fault-lab.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { copiesOf } from './copies.js';
import { letRestoreFail } from './failing-restore.js';
import { downAll } from './lab-fixture.js';
import { killQuietly } from './node-command.js';
import { NUMBERS_CLIENT, type NumbersResult } from './numbers.js';
import { rested } from './scenario.js';
import { settledTraces } from './traces.js';

const test = suite('a worker that leaves its parent, its siblings and their listener at home');

/** A parent and two workers that accept from its listener. */
interface Server {
  readonly address: string;
  readonly port: number;
  readonly parent: number;
  /** Pids at home. */
  readonly workers: readonly [number, number];
}

let lab: FaultLab;
let program: string;
let untouched: Record<string, string[]>;
const numbers: Clients<NumbersResult>[] = [];

test.before(async () => {
  lab = await FaultLab.start('preforked');
  program = await installProgram('preforked', lab.node('home'), lab.node('host1'), lab.node('host2'));
  untouched = await rested(lab.lab, ['home', 'host1', 'host2']);
});
test.after(async () => {
  await lab?.load.stop();
  await downAll();
});

async function start(how: string, address: string, port: number): Promise<Server> {
  const home = lab.node('home');
  const parent = await startServer(home, [program, how, address, String(port)], port);
  let children: number[] = [];
  while (children.length < 2) children = readChildren(machinePid(parent));
  const [one = 0, other = 0] = children.map((pid) => readNamespacePids(pid).at(-1) ?? 0);
  return { address, port, parent, workers: [one, other] };
}

function machinePid(pid: number): number {
  return lab.node('home').machinePid(pid) ?? 0;
}

function signal(name: NodeJS.Signals, ...pids: number[]): void {
  for (const pid of pids.map(machinePid)) if (pid !== 0) killQuietly(pid, name);
}

async function move(pid: number, to: DaemonNode): Promise<void> {
  await streamControl(lab.socket('home'), migrateMethod, { pid, to }, () => undefined);
}

/** What a move that must fail says. */
async function failure(pid: number, to: DaemonNode): Promise<{ code: string; message: string }> {
  return await move(pid, to).then(
    () => ({ code: 'none', message: 'it moved' }),
    (error: unknown) => asHomeproxyError(error).toDocument(),
  );
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await holds()); await sleep(5))
    assert.ok(Date.now() < deadline, 'it takes too long');
}

/** New connections; returns when all are answered. */
async function connect({ address, port }: Server, connections: number): Promise<void> {
  const host = address.includes(':') && address !== '::' ? address : lab.node('home').address;
  const options = { host, ports: [{ port, connections }] };
  numbers.push(await Clients.start<NumbersResult>(lab.lab.node('client'), NUMBERS_CLIENT, options));
}

async function allGoOn(): Promise<void> {
  await Promise.all(numbers.map((some) => some.goesOn(20)));
}

/** The sockets of a process at home. */
function socketsOf(pid: number): InternetSocket[] {
  const held = readSocketHolders([machinePid(pid)]);
  return readInternetSockets(machinePid(pid), ['tcp', 'tcp6']).filter(({ inode }) => held.has(inode));
}

const connectionsOf = (pid: number): number => socketsOf(pid).filter(({ state }) => state === 'ESTABLISHED').length;

/** By the names that the kernel has for them: the same name is the same socket, with the same queue. */
function listenersOf(pid: number): (string | undefined)[] {
  return socketsOf(pid).flatMap(({ state, cookie }) => (state === 'LISTEN' ? [cookie] : []));
}

/** All listeners of a port at home, whoever has them. */
function listenersAt({ parent, port }: Server): InternetSocket[] {
  const sockets = readInternetSockets(machinePid(parent), ['tcp', 'tcp6'], ['LISTEN']);
  return sockets.filter(({ local }) => local.port === port);
}

for (const [how, address, port] of [
  ['accept', '::', 7310],
  ['epoll', '0.0.0.0', 7311],
] as const) {
  test(`${how}: what it has accepted goes with it to two hosts; at home its listener is its parent's again`, async () => {
    const server = await start(how, address, port);
    const [worker] = server.workers;
    while (connectionsOf(worker) === 0) await connect(server, 4);
    const listener = listenersOf(server.parent);
    const { verdicts } = await callControl(lab.socket('home'), assessMethod, { pid: worker, to: 'host1' });
    const changes = verdicts.filter(({ code }) => code === 'LISTENER_STAYS');
    assert.equal(
      changes.map(({ subject }) => subject),
      [`port tcp ${port}`],
    );
    for (const to of ['host1', 'host2', 'home'] as const) {
      // made before it leaves, in the midst of it and after that: whoever accepts them, they go on
      await Promise.all([connect(server, 20), move(worker, to)]);
      await allGoOn();
      assert.equal(
        listenersAt(server).map(({ cookie }) => cookie),
        listener,
        `at home while it is at ${to}`,
      );
    }
    assert.equal(listenersOf(worker), listener);
    await connect(server, 4);
  });
}

test('what waits in the queue when it leaves is accepted by those who stay; what comes when it is back, by itself', async () => {
  const server = await start('late', lab.node('home').address, 7312);
  const [worker, sibling] = server.workers;
  await connect(server, 2); // one for each of them
  const waiting = connect(server, 3);
  await until(() => listenersAt(server).some(({ receiveQueue }) => receiveQueue === 3));
  await move(worker, 'host1');
  assert.is(listenersAt(server)[0]?.receiveQueue, 3);
  signal('SIGUSR1', sibling);
  await waiting;
  assert.is(connectionsOf(sibling), 1 + 3);
  await move(worker, 'home');
  signal('SIGSTOP', sibling);
  signal('SIGUSR1', worker);
  const later = connect(server, 2);
  await until(() => connectionsOf(worker) === 1 + 2);
  await later;
  signal('SIGCONT', sibling);
  assert.equal(listenersOf(worker), listenersOf(server.parent));
});

test('two workers of the same parent are away together; new connections wait for the first that comes home', async () => {
  const server = await start('accept', '::', 7316);
  const [one, other] = server.workers;
  await connect(server, 6);
  await Promise.all([move(one, 'host1'), move(other, 'host1')]);
  await allGoOn();
  const waiting = connect(server, 2);
  await until(() => listenersAt(server).some(({ receiveQueue }) => receiveQueue === 2));
  await move(other, 'host2');
  await move(other, 'home');
  await waiting;
  await allGoOn();
  await move(one, 'home');
  await allGoOn();
});

test('what it accepts in the moment before it is stopped goes with it', async () => {
  const server = await start('late', '0.0.0.0', 7313);
  const [worker, sibling] = server.workers;
  signal('SIGSTOP', sibling);
  await connect(server, 1);
  lab.stopAt('home', 'source:datagrams-held');
  const moving = move(worker, 'host1');
  await until(() => lab.arrived('home'));
  signal('SIGUSR1', worker);
  await connect(server, 3);
  assert.is(connectionsOf(worker), 1 + 3);
  lab.goOn('home');
  await moving;
  await allGoOn();
  await move(worker, 'home');
  await allGoOn();
  signal('SIGCONT', sibling);
  assert.is(connectionsOf(worker), 1 + 3);
});

test('a recall that fails at home, or whose daemon dies, leaves the listener as it was', async () => {
  const server = await start('accept', '::', 7314);
  const [worker] = server.workers;
  await connect(server, 4);
  const listener = listenersOf(server.parent);
  const asBefore = (): void => {
    assert.equal(
      listenersAt(server).map(({ cookie }) => cookie),
      listener,
    );
  };
  await move(worker, 'host1');
  const undo = await letRestoreFail(lab.node('home'), [program]);
  assert.is((await failure(worker, 'home')).code, 'ROLLED_BACK');
  await undo();
  asBefore();
  for (const step of ['destination:restoring', 'destination:restored'] satisfies StepName[]) {
    lab.stopAt('home', step);
    const moving = failure(worker, 'home');
    await until(() => lab.arrived('home'));
    await lab.killDaemon('home');
    await lab.startDaemon('home');
    await moving;
    await until(async () => (await callControl(lab.socket('home'), statusMethod, {})).moving.length === 0);
    asBefore();
    await allGoOn();
  }
  await move(worker, 'home');
  assert.equal(listenersOf(worker), listener);
});

test('when all others have ended meanwhile it gets a listener of its own, unless the port is taken', async () => {
  const ended = await start('accept', lab.node('home').address6, 7315);
  const [worker, sibling] = ended.workers;
  const [before] = listenersOf(ended.parent);
  await move(worker, 'host1');
  signal('SIGKILL', ended.parent, sibling);
  const other = await start('accept', ended.address, ended.port);
  const { code, message } = await failure(worker, 'home');
  assert.is(code, 'REFUSED');
  assert.match(message, /PORT_TAKEN/);
  signal('SIGKILL', other.parent, ...other.workers);
  await move(worker, 'home');
  const [after, ...more] = listenersOf(worker);
  assert.equal(more, []);
  assert.ok(after !== undefined && after !== before);
  await connect(ended, 2);
  assert.is(connectionsOf(worker), 2);
});

test('every number on every connection came once and in order', async () => {
  const results = await Promise.all(numbers.map((some) => some.stop()));
  assert.equal(
    results.flatMap(({ faults }) => faults),
    [],
  );
});

test('and when they have ended, nothing is left over on any node', async () => {
  for (const { machinePid } of copiesOf(lab.lab, program)) killQuietly(machinePid, 'SIGKILL');
  assert.equal(await settledTraces(lab.lab, untouched), untouched);
});

test.run();
