// limit: 120 s
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { StepName } from '../../cli/migration/steps.js';
import { migrateMethod } from '../../cli/node/control-methods.js';
import { streamControl } from '../../cli/node/control-transport.js';
import { FaultLab } from '../fault/fault-lab.js';
import { Capture } from './capture.js';
import { downAll } from './lab-fixture.js';
import { readIpv4, readTcp, type TcpSegment } from './pcap.js';
import { SocketAgent } from './socket-agent.js';

const PORTS = { control: 7300, served: 7301 };

const test = suite('connections that the process closes while it is about to leave');
let lab: FaultLab;
let server: SocketAgent;
let client: SocketAgent;

test.before(async () => {
  lab = await FaultLab.start('closing');
  server = await SocketAgent.serve(lab.node('home'), lab.lab.node('client'), PORTS.control);
  client = SocketAgent.start(lab.lab.node('client'));
  await server.do('listen', 'served', '0.0.0.0', PORTS.served);
});
test.after(async () => {
  await lab?.load.stop();
  await downAll();
});

async function segmentsOf(capture: Capture): Promise<TcpSegment[]> {
  const packets = (await capture.stop()).flatMap((frame) => readIpv4(frame) ?? []);
  return packets
    .flatMap((packet) => readTcp(packet) ?? [])
    .filter(({ sourcePort, destinationPort }) => [sourcePort, destinationPort].includes(PORTS.served));
}

for (const [from, to] of [
  ['home', 'host1'],
  ['host1', 'host2'],
  ['host2', 'home'],
] as const) {
  test(`from ${from}: with all else held back already, they come to their end, and nobody is told that they were reset`, async () => {
    for (const name of ['first', 'second']) {
      await client.do('connect', name, lab.node('home').address, PORTS.served);
      await server.do('accept', 'served', name);
    }
    const capture = await Capture.start(lab.lab.node('client'));
    lab.stopAt(from, 'source:datagrams-held' satisfies StepName);
    const moving = streamControl(lab.socket('home'), migrateMethod, { pid: server.pid, to }, () => undefined);
    while (!lab.arrived(from)) await Promise.race([sleep(5), moving]);
    await server.do('close', 'first'); // first of both
    await client.do('close', 'first');
    await client.do('close', 'second');
    await server.do('close', 'second'); // last of both
    lab.goOn(from);
    await moving;
    const segments = await segmentsOf(capture);
    const resets = segments.filter(({ flags }) => flags.has('RST'));
    assert.equal(resets, []);
    const ends = segments.filter(({ flags }) => flags.has('FIN'));
    assert.is(ends.length, 4, 'each end said once that it had finished');
  });
}

test.run();
