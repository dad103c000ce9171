// limit: 180 s

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { Capture, macOf } from './capture.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { failuresOf, NewConnections } from './new-connections.js';
import { type IpPacket, readIpv4, readIpv6, readTcp } from './pcap.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { Scenario, type Summary } from './scenario.js';
import { contradictions } from './segments.js';
import { settledTraces } from './traces.js';

const COUNTERS_PORT = 7201;
const CONNECTIONS = 20;

const test = suite('Redis on an IPv6 address, and a server on a wildcard of both families');
let scenario: Scenario;
let redis: Redis;
let counters: { readonly pid: number; readonly program: string };
let loads: Record<'Redis' | 'IPv6' | 'IPv4', Load>;
let fresh: NewConnections[];
let capture: Capture;

test.before(async () => {
  scenario = await Scenario.start('ipv6');
  const { home, client, lab } = scenario;
  redis = await startRedis(home, { bind: home.address6 });
  const program = await installProgram('counters', home, lab.node('host1'), lab.node('host2'));
  counters = { pid: await startServer(home, [program, '::', String(COUNTERS_PORT)], COUNTERS_PORT), program };
  const options = { connections: CONNECTIONS, paceMs: 20 };
  loads = {
    Redis: await Load.start(client, home.address6, options),
    IPv6: await Load.start(client, home.address6, { ...options, port: COUNTERS_PORT }),
    IPv4: await Load.start(client, home.address, { ...options, port: COUNTERS_PORT }),
  };
  capture = await Capture.start(client);
  fresh = await Promise.all([
    NewConnections.start(client, home.address6, REDIS_PORT, 20),
    NewConnections.start(client, home.address6, COUNTERS_PORT, 20),
    NewConnections.start(client, home.address, COUNTERS_PORT, 20),
  ]);
});
test.after(downAll);

/** Replies to each load, within a second. */
async function repliesInASecond(): Promise<number[]> {
  const reports = (): Promise<{ replies: number }[]> =>
    Promise.all(Object.values(loads).map((load) => load.nextSecond()));
  const before = await reports();
  const after = await reports();
  return after.map(({ replies }, index) => replies - (before[index]?.replies ?? 0));
}

for (const to of ['host1', 'host2', 'home']) {
  test(`both move to ${to}, and serve all their connections there`, async () => {
    const moves: Summary[] = [];
    for (const pid of [redis.pid, counters.pid]) {
      moves.push(to === 'home' ? await scenario.recall(pid) : await scenario.migrate(pid, to));
    }
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    assert.equal(
      [...placesOf(scenario.lab, 'redis-server'), ...placesOf(scenario.lab, counters.program)],
      [place, place],
    );
    const replies = await repliesInASecond();
    assert.ok(
      replies.every((count) => count > 100),
      replies.join(' '),
    );
    moves.forEach(({ connections, parkedPackets, replayedPackets, droppedPackets }, index) => {
      assert.ok(connections >= CONNECTIONS * (index + 1), `${connections} connections`);
      assert.ok(parkedPackets > 0);
      assert.equal([replayedPackets, droppedPackets], [parkedPackets, 0]);
    });
  });
}

/** A reset, an ICMP error or a packet of the tunnel. */
function isComplaint(packet: IpPacket): boolean {
  const { protocol, payload } = packet;
  if (protocol === 1 || protocol === 4 || protocol === 41) return true;
  if (protocol === 58) return (payload[0] ?? 0) < 128; // an error (RFC 4443, 2.1); the others find neighbours
  return readTcp(packet)?.flags.has('RST') === true;
}

test('on the wire each was one process: no reset, no ICMP error, and every new connection was answered', async () => {
  for (const attempts of fresh) assert.equal(failuresOf(await attempts.stop()), []);
  const packets = (await capture.stop()).flatMap((frame) => readIpv4(frame) ?? readIpv6(frame) ?? []);
  assert.equal(packets.filter(isComplaint).slice(0, 5), []);
  const nodes = ['home', 'host1', 'host2', 'home'].map((name) => scenario.lab.node(name));
  const stations = await Promise.all(nodes.map(macOf));
  const { address, address6 } = scenario.home;
  for (const [source, port] of [
    [address6, REDIS_PORT],
    [address6, COUNTERS_PORT],
    [address, COUNTERS_PORT],
  ] as const) {
    const segments = packets
      .filter((packet) => packet.source === source)
      .flatMap((packet) => readTcp(packet) ?? [])
      .filter(({ sourcePort }) => sourcePort === port);
    assert.ok(segments.length > 1000, `${source} ${port}: ${segments.length} segments`);
    assert.equal(contradictions(segments, stations).slice(0, 5), [], `${source} ${port}`);
  }
});

test('no reply was lost, repeated or out of order, and no connection was cut off', async () => {
  for (const [name, load] of Object.entries(loads)) assert.equal(faultsOf(await load.stop()), NO_FAULTS, name);
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
