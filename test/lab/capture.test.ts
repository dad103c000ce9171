// limit: 120 s

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { Capture, macOf } from './capture.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { failuresOf, NewConnections } from './new-connections.js';
import { type IpPacket, readIpv4, readPcap, readTcp, type TcpSegment } from './pcap.js';
import { REDIS_PORT, startRedis, stopRedis } from './redis.js';
import { Scenario } from './scenario.js';
import { contradictions } from './segments.js';

const HOME = '02:00:00:00:00:02';
const HOST = '02:00:00:00:00:03';

/** An Ethernet frame with an IPv4 TCP segment, padded as short frames are. */
function frameBytes(sourceMac: string, sequence: number, payload: string, flags = 0x18): Buffer {
  const tcp = Buffer.alloc(20);
  tcp.writeUInt16BE(6379, 0);
  tcp.writeUInt16BE(40_000, 2);
  tcp.writeUInt32BE(sequence, 4);
  tcp[12] = 5 << 4;
  tcp[13] = flags;
  const ip = Buffer.alloc(20);
  ip[0] = 0x45;
  ip.writeUInt16BE(40 + payload.length, 2);
  ip.writeUInt16BE(0x4000, 6); // don't fragment
  ip[9] = 6;
  Buffer.from([10, 77, 0, 2, 10, 77, 0, 1]).copy(ip, 12);
  const ethernet = Buffer.from(`020000000001${sourceMac.replaceAll(':', '')}0800`, 'hex');
  return Buffer.concat([ethernet, ip, tcp, Buffer.from(payload), Buffer.alloc(Math.max(0, 6 - payload.length))]);
}

function pcapFile(frames: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt32LE(1, 20);
  const records = frames.flatMap((bytes, index) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(100, 0);
    record.writeUInt32LE(index * 1500, 4);
    record.writeUInt32LE(bytes.length, 8);
    record.writeUInt32LE(bytes.length, 12);
    return [record, bytes];
  });
  return Buffer.concat([header, ...records]);
}

function segmentsOf(frames: readonly Buffer[]): TcpSegment[] {
  return readPcap(pcapFile(frames)).flatMap((frame) => {
    const packet = readIpv4(frame);
    const segment = packet === undefined ? undefined : readTcp(packet);
    return segment === undefined ? [] : [segment];
  });
}

const reading = suite('the capture reader');

reading('reads the segments of a pcap file without the padding of short frames', () => {
  const [first, second] = segmentsOf([frameBytes(HOME, 7, 'ab'), frameBytes(HOST, 9, '', 0x14)]);
  assert.is(first?.at, 100_000);
  assert.is(second?.at, 100_001.5);
  assert.is(first?.payload.toString(), 'ab');
  assert.is(first?.source, '10.77.0.2');
  assert.is(first?.destinationPort, 40_000);
  assert.equal([...(second?.flags ?? [])], ['RST', 'ACK']);
  assert.is(second?.payload.length, 0);
  assert.throws(() => readPcap(Buffer.alloc(24)), /wrong magic/);
});

for (const { what, frames, expected } of [
  {
    what: 'no contradiction in a process that moves, and in what is sent again',
    frames: [
      frameBytes(HOME, 0xffff_fffe, 'abcd'),
      frameBytes(HOME, 0, 'cd'),
      frameBytes(HOST, 0, 'cdef'),
      frameBytes(HOST, 4, 'g'),
    ],
    expected: [],
  },
  {
    what: 'two different payloads for the same sequence numbers',
    frames: [frameBytes(HOME, 10, 'abcd'), frameBytes(HOST, 12, 'cX')],
    expected: [/other bytes than before from byte 3/],
  },
  {
    what: 'a segment from the old place after the first from the new',
    frames: [frameBytes(HOME, 1, 'a'), frameBytes(HOST, 2, 'b'), frameBytes(HOME, 3, 'c')],
    expected: [/comes from 02:00:00:00:00:02 while the process is at 02:00:00:00:00:03/],
  },
  {
    what: 'a segment from a place that is not on the way',
    frames: [frameBytes(HOME, 1, 'a'), frameBytes('02:00:00:00:00:09', 2, 'b'), frameBytes(HOST, 2, 'b')],
    expected: [/comes from 02:00:00:00:00:09 while the process is at 02:00:00:00:00:02/],
  },
  {
    what: 'a process that never arrived',
    frames: [frameBytes(HOME, 1, 'a')],
    expected: [/before the end of the way/],
  },
]) {
  reading(`finds ${what}`, () => {
    const found = contradictions(segmentsOf(frames), [HOME, HOST]);
    assert.is(found.length, expected.length, found.join('\n'));
    expected.forEach((pattern, index) => {
      assert.match(found[index] ?? '', pattern);
    });
  });
}

reading.run();

const wire = suite('what the client sees on the wire while Redis moves home -> host1 -> host2 -> home');
let scenario: Scenario;

wire.before(async () => {
  scenario = await Scenario.start('capture');
});
wire.after(downAll);

/** Moves Redis all the way under load, and returns what tcpdump saw, with the MACs of its stations in turn. */
async function captureWay(withNewConnections: boolean): Promise<{ packets: IpPacket[]; stations: string[] }> {
  const { lab, home, client } = scenario;
  const redis = await startRedis(home);
  const load = await Load.start(client, home.address, { paceMs: 8 });
  const capture = await Capture.start(client);
  const fresh = withNewConnections ? await NewConnections.start(client, home.address, REDIS_PORT) : undefined;
  await load.nextSecond();
  for (const host of ['host1', 'host2']) {
    await scenario.migrate(redis.pid, host);
    await load.nextSecond();
  }
  await scenario.recall(redis.pid);
  await load.nextSecond();
  if (fresh !== undefined) assert.equal(failuresOf(await fresh.stop()), []);
  const frames = await capture.stop(); // before the clients close: a reset of their own is no matter
  assert.equal(faultsOf(await load.stop()), NO_FAULTS);
  await stopRedis(home, redis);
  const stations = await Promise.all(['home', 'host1', 'host2', 'home'].map((name) => macOf(lab.node(name))));
  return { packets: frames.flatMap((frame) => readIpv4(frame) ?? []), stations };
}

function assertOneProcess(packets: readonly IpPacket[], stations: readonly string[]): void {
  const fromHome = packets.filter(({ source }) => source === scenario.home.address);
  const segments = fromHome.flatMap((packet) => readTcp(packet) ?? []);
  assert.ok(segments.length > 2000, `${segments.length} segments`);
  assert.is(segments.length, fromHome.length, 'all whole segments of TCP');
  assert.equal(contradictions(segments, stations).slice(0, 5), []);
}

/** Packets that must not be there, in words. */
function complaints(packets: readonly IpPacket[]): string[] {
  return packets.flatMap((packet) => {
    const { source, destination, sourceMac, protocol, at } = packet;
    const where = `${source} (${sourceMac}) -> ${destination} at ${at.toFixed(2)}`;
    if (protocol === 1) return [`ICMP ${packet.payload[0]}/${packet.payload[1]} ${where}`];
    if (protocol === 4) return [`a tunnelled packet ${where}`];
    const segment = readTcp(packet);
    if (segment?.flags.has('RST') !== true) return [];
    return [`RST ${where}, port ${segment.sourcePort} -> ${segment.destinationPort}, seq ${segment.sequence}`];
  });
}

wire('is one process with 50 connections: no RST, no ICMP, no segment from a second copy', async () => {
  const { packets, stations } = await captureWay(false);
  assert.equal(complaints(packets).slice(0, 5), []);
  assertOneProcess(packets, stations);
});

wire('and so it is while 100 connections a second open and close', async () => {
  const { packets, stations } = await captureWay(true);
  assert.equal(complaints(packets).slice(0, 5), []);
  assertOneProcess(packets, stations);
});

wire.run();
