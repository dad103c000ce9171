// limit: 120 s
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { StepName } from '../../cli/migration/steps.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { readCommandLine } from '../../cli/system/procfs.js';
import { FaultLab } from '../fault/fault-lab.js';
import { suite } from '../suite.js';
import { Capture } from './capture.js';
import { processesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { readIpv4, readTcp, type TcpSegment } from './pcap.js';
import { SocketAgent } from './socket-agent.js';
import { mapEntries } from './traces.js';

const PORTS = { control: 7300, served: 7301, bulk: 7302 };

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

/** Of the process, wherever it is now. */
function machinePid(): number {
  const found = processesOf(lab.lab).find(({ machinePid }) =>
    readCommandLine(machinePid).includes(`socket-agent.py ${PORTS.control}`),
  );
  assert.ok(found);
  return found.machinePid;
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
    const moving = streamControl(lab.socket('home'), migrateMethod, { pid: server.pid, to }, () => undefined);
    const arrived = async (): Promise<void> => {
      while (!lab.arrived(from)) await Promise.race([sleep(5), moving]);
    };
    await arrived();
    const pid = machinePid();
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
  const from = await client.do<number>('connect', 'slow', lab.node('home').address, PORTS.bulk);
  assert.is(await server.do('accept', 'bulk', 'slow'), from);
  const sent = await server.do('fill', 'slow');
  await server.do('close', 'slow');
  const capture = await Capture.start(lab.lab.node('client'));
  await streamControl(lab.socket('home'), migrateMethod, { pid: server.pid, to: 'host1' }, () => undefined);
  assert.is((await mapEntries(lab.lab, 'home'))['maps/flows'], 1);
  assert.equal(await client.do('to_end', 'slow'), [sent, true]);
  await client.do('close', 'slow');
  const segments = await segmentsOf(capture, PORTS.bulk);
  assert.is(segments.filter(({ flags }) => flags.has('RST')).length, 0);
  const ended = segments.filter(({ flags }) => flags.has('FIN')).map(({ sourcePort }) => sourcePort);
  assert.equal([...new Set(ended)].sort(), [PORTS.bulk, from].sort(), 'both ends have said that they had finished');
});

test.run();
