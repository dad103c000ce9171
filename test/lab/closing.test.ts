// limit: 180 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { z } from 'zod';
import { asHomeproxyError, type HomeproxyError } from '../../cli/errors.js';
import type { StepName } from '../../cli/migration/steps.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { readClosingConnections } from '../../cli/process/closing-connections.js';
import { readCommandLine } from '../../cli/system/procfs.js';
import { type DaemonNode, FaultLab } from '../fault/fault-lab.js';
import { suite } from '../suite.js';
import { Capture } from './capture.js';
import { processesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { readIpv4, readTcp, type TcpSegment } from './pcap.js';
import { SocketAgent } from './socket-agent.js';
import { mapEntries } from './traces.js';

const PORTS = { control: 7300, served: 7301, bulk: 7302 };
/** An address that a correspondent had. */
const GONE = '10.77.0.77';

const test = suite('connections that the process closes while it is about to leave');
let lab: FaultLab;
let server: SocketAgent;
let client: SocketAgent;

test.before(async () => {
  lab = await FaultLab.start('closing');
  server = await SocketAgent.serve(lab.node('home'), lab.lab.node('client'), PORTS.control);
  client = SocketAgent.start(lab.lab.node('client'));
  await server.do('listen', 'served', '0.0.0.0', PORTS.served);
  await server.do('begin_pong', 'served');
});
test.after(async () => {
  await lab?.load.stop();
  await downAll();
});

/** The process, wherever it is now. */
function found(): { node: string; machinePid: number } {
  const [process, ...others] = processesOf(lab.lab).filter(({ machinePid }) =>
    readCommandLine(machinePid).includes(`socket-agent.py ${PORTS.control}`),
  );
  assert.ok(process !== undefined && others.length === 0);
  return process;
}

type Move = z.output<typeof migrateMethod.response>;

function move(to: string, how: { resetClosing?: boolean } = {}): Promise<Move> {
  return streamControl(lab.socket('home'), migrateMethod, { pid: server.pid, to, ...how }, () => undefined);
}

async function failureOf(moving: Promise<Move>): Promise<HomeproxyError> {
  return moving.then(
    (summary) => assert.unreachable(JSON.stringify(summary)) as never,
    (error: unknown) => asHomeproxyError(error),
  );
}

/** Stops a migration at a step, does something there, and lets it go on. */
async function meanwhile(node: DaemonNode, step: StepName, moving: () => Promise<Move>, act: () => Promise<unknown>) {
  lab.stopAt(node, step);
  const moved = moving();
  moved.catch(() => undefined); // heard later
  while (!lab.arrived(node)) await Promise.race([sleep(5), moved]);
  await act();
  lab.goOn(node);
  return moved;
}

/** A connection on which nobody reads, to the process. @param source the client's address; default: its own. @returns the client's port */
async function connected(name: string, source = ''): Promise<number> {
  const port = await client.do<number>('connect', name, lab.node('home').address, PORTS.bulk, source);
  assert.is(await server.do('accept', 'bulk', name), port);
  return port;
}

/** The process says as much as both ends hold, and closes it. @returns bytes */
async function fillAndClose(name: string): Promise<number> {
  const sent = await server.do<number>('fill', name);
  await server.do('close', name);
  return sent;
}

async function segmentsOf(capture: Capture, port: number): Promise<TcpSegment[]> {
  const packets = (await capture.stop()).flatMap((frame) => readIpv4(frame) ?? []);
  return packets
    .flatMap((packet) => readTcp(packet) ?? [])
    .filter(({ sourcePort, destinationPort }) => [sourcePort, destinationPort].includes(port));
}

for (const [from, to] of [
  ['home', 'host1'],
  ['host1', 'host2'],
  ['host2', 'home'],
] as const) {
  test(`from ${from}: with all else held back already, they come to their end, and nobody is told that they were reset`, async () => {
    await client.do('connect', 'last', lab.node('home').address, PORTS.served);
    const capture = await Capture.start(lab.lab.node('client'));
    lab.stopAt(from, 'source:drained' satisfies StepName);
    const moving = move(to);
    const arrived = async (): Promise<void> => {
      while (!lab.arrived(from)) await Promise.race([sleep(5), moving]);
    };
    await arrived();
    const pid = found().machinePid;
    process.kill(pid, 'SIGSTOP'); // it reads the end of the connection when everything that can be held back is
    await client.do('send', 'last', 'PING\r\n');
    await client.do('shutdown', 'last');
    lab.goOn(from, 'source:datagrams-held' satisfies StepName);
    await arrived();
    process.kill(pid, 'SIGCONT');
    assert.equal(await client.do('to_end', 'last'), [7, false], 'its answer, and the end'); // not the stream's bytes
    lab.goOn(from);
    await moving;
    await client.do('close', 'last');
    const segments = await segmentsOf(capture, PORTS.served);
    const withFlag = (flag: 'FIN' | 'RST') => segments.filter(({ flags }) => flags.has(flag));
    assert.equal(withFlag('RST'), []);
    assert.is(withFlag('FIN').length, 2, 'each end said once that it had finished');
  });
}

test('before it leaves home: all that it had said is heard, by a correspondent that reads it only when it is away', async () => {
  await server.do('listen', 'bulk', '0.0.0.0', PORTS.bulk);
  const from = await connected('slow');
  const sent = await fillAndClose('slow');
  const capture = await Capture.start(lab.lab.node('client'));
  await move('host1');
  assert.is((await mapEntries(lab.lab, 'home'))['maps/flows'], 1);
  assert.equal(await client.do('to_end', 'slow'), [sent, true]);
  await client.do('close', 'slow');
  const segments = await segmentsOf(capture, PORTS.bulk);
  assert.is(segments.filter(({ flags }) => flags.has('RST')).length, 0);
  const ended = segments.filter(({ flags }) => flags.has('FIN')).map(({ sourcePort }) => sourcePort);
  assert.equal([...new Set(ended)].sort(), [PORTS.bulk, from].sort(), 'both ends have said that they had finished');
});

/** How often somebody has reset an established connection of the client's (/proc/net/snmp). */
async function resets(): Promise<number> {
  const { stdout } = await lab.lab.node('client').run(['grep', '^Tcp:', '/proc/net/snmp']);
  const [names = [], values = []] = stdout.split('\n').map((line) => line.split(' '));
  return Number(values[names.indexOf('EstabResets')]);
}

for (const { when, at, from, to, code, message } of [
  {
    when: 'before',
    at: undefined,
    from: 'host1',
    to: 'host2',
    code: 'REFUSED',
    message: /has not taken \d{5,} bytes and its end: .* \(CLOSING_CONNECTION\)/,
  },
  {
    when: 'while it is about to leave',
    at: ['home', 'coordinator:prepared'],
    from: 'host2',
    to: 'home',
    code: 'CLOSING_CONNECTION',
    message: /has not taken all of it, .*: \d{5,} bytes and its end would be lost/,
  },
  {
    when: 'when all is held back already',
    at: ['host1', 'source:datagrams-held'],
    from: 'host1',
    to: 'host2',
    code: 'ROLLED_BACK',
    message: /closed a connection in the very moment .* has not taken \d{5,} bytes and its end/,
  },
] as const) {
  test(`${when}, with a correspondent that reads late: it does not go from ${from} to ${to}, and nothing is lost`, async () => {
    if (found().node !== from) await move(from);
    const port = await connected('late');
    const before = await resets();
    let sent = 0;
    const closing = async (): Promise<void> => {
      sent = await fillAndClose('late');
    };
    if (at === undefined) await closing();
    await server.do('begin_stops');
    const moving = at === undefined ? move(to) : meanwhile(at[0], at[1], () => move(to), closing);
    const failure = await failureOf(moving);
    const stops = await server.do<number>('end', 'stops');
    assert.is(failure.code, code, failure.message);
    assert.match(failure.message, message);
    assert.match(failure.message, `${lab.node('home').address} port ${PORTS.bulk} to `);
    assert.match(failure.message, ` port ${port}`);
    assert.ok((failure.remedy ?? '').includes('try again'), failure.remedy);
    assert.is(stops > 0, code === 'ROLLED_BACK', `it was stopped ${stops} times`);
    assert.is(found().node, from);
    assert.equal(await client.do('to_end', 'late'), [sent, true], 'all of it, and the end');
    assert.is(await resets(), before);
    await client.do('close', 'late');
    assert.equal((await move(to)).notKept, [], 'and then it does');
  });
}

test('from host2: correspondents that are dead do not keep it from leaving, and what they have not got is named', async () => {
  assert.is(found().node, 'host2');
  const node = lab.lab.node('client');
  await node.run(['ip', 'address', 'add', `${GONE}/24`, 'dev', 'eth0']);
  const ports = [await connected('full', GONE), await connected('quiet', GONE)];
  await node.run(['ip', 'address', 'delete', `${GONE}/24`, 'dev', 'eth0']);
  await fillAndClose('full');
  await server.do('send', 'quiet', 'farewell');
  await server.do('close', 'quiet');
  const dead = () => readClosingConnections(found().machinePid).filter((each) => each.dead).length;
  for (const deadline = Date.now() + 20_000; dead() < 2; await sleep(50)) assert.ok(Date.now() < deadline, `${dead()}`);
  const { notKept = [] } = await move('host1');
  assert.is(notKept.length, 2);
  for (const [index, what] of [/: \d{5,} bytes and its end$/, /: 8 bytes and its end$/].entries()) {
    const named = notKept.find((words) => words.includes(`${GONE} port ${ports[index]},`)) ?? '';
    assert.match(named, what, JSON.stringify(notKept));
  }
});

test('from host1, told that it may be lost: it leaves a correspondent that reads late, and says what that does not get', async () => {
  assert.is(found().node, 'host1');
  const port = await connected('late');
  await fillAndClose('late');
  assert.is((await failureOf(move('home'))).code, 'REFUSED');
  const before = await resets();
  const { notKept = [] } = await move('home', { resetClosing: true });
  assert.is(notKept.length, 1);
  assert.match(
    notKept[0] ?? '',
    new RegExp(` port ${port}, what its correspondent had not taken: \\d{5,} bytes and its end$`),
  );
  const end = await client.do('to_end', 'late').catch((error: Error) => error.message);
  assert.match(String(end), /Connection reset by peer/);
  assert.is(await resets(), before + 1);
});

test.run();
