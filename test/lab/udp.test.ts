// limit: 180 s

import * as assert from 'uvu/assert';
import type { LabNode } from '../../cli/lab/lab-node.js';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { placesOf } from './copies.js';
import { Datagrams } from './datagrams.js';
import { downAll } from './lab-fixture.js';
import { describe, errorOf, Scenario, type Summary } from './scenario.js';
import { settledTraces } from './traces.js';

const PORTS = { bound: 7101, connected: 7102, connected6: 7103, peer: 7112, peer6: 7113 };

const test = suite('servers over UDP, home -> host1 -> host2 -> home');
let scenario: Scenario;
let program: string;
const servers: Record<'bound' | 'connected' | 'connected6', number> = { bound: 0, connected: 0, connected6: 0 };
const clients: Datagrams[] = [];

test.before(async () => {
  scenario = await Scenario.start('udp');
  const { home, client, lab } = scenario;
  program = await installProgram('datagrams', home, lab.node('host1'), lab.node('host2'));
  // Answers to a correspondent that a host has not met wait for its neighbour discovery, and the kernel then sends the waiting ones
  // while it sends the next (__neigh_update, 6.18): that order is not ours to keep.
  for (const host of [lab.node('host1'), lab.node('host2')]) {
    for (const address of [client.address, client.address6]) await meet(host, address);
  }
  const start = (port: number, ...args: string[]): Promise<number> => startServer(home, [program, ...args], port);
  servers.bound = await start(PORTS.bound, '::', String(PORTS.bound));
  const connected = (own: string, port: number, peer: string, peerPort: number): Promise<number> =>
    start(port, own, String(port), peer, String(peerPort));
  servers.connected = await connected(home.address, PORTS.connected, client.address, PORTS.peer);
  servers.connected6 = await connected(home.address6, PORTS.connected6, client.address6, PORTS.peer6);
  clients.push(
    await Datagrams.start(client, home.address, PORTS.bound),
    await Datagrams.start(client, home.address6, PORTS.bound),
    await Datagrams.start(client, home.address, PORTS.connected, PORTS.peer),
    await Datagrams.start(client, home.address6, PORTS.connected6, PORTS.peer6),
  );
});
test.after(downAll);

/** Ends when a connection was refused: by then the two have each other's link-layer address. */
async function meet(node: LabNode, address: string): Promise<void> {
  await node.run(['bash', '-c', '(exec 3<>"/dev/tcp/$1/9") 2>/dev/null || true', 'bash', address]);
}

for (const to of ['host1', 'host2', 'home']) {
  test(`move to ${to}: what comes in the freeze is held, and all of it is handed on`, async () => {
    const moves: Summary[] = [];
    for (const pid of Object.values(servers)) {
      moves.push(to === 'home' ? await scenario.recall(pid) : await scenario.migrate(pid, to));
    }
    const place = to === 'home' ? 'home' : `${to} (in a pod)`;
    assert.equal(placesOf(scenario.lab, program), [place, place, place]);
    for (const { parkedPackets, replayedPackets, droppedPackets } of moves) {
      assert.ok(parkedPackets > 0);
      assert.equal([replayedPackets, droppedPackets], [parkedPackets, 0]);
    }
  });
}

test('one that does not read what has come is not moved: nothing of it is lost', async () => {
  const { home } = scenario;
  await home.run(['kill', '-STOP', String(servers.bound)]);
  const outcome = await scenario.homeproxy('home', ['migrate', String(servers.bound), 'host1', '--json']);
  await home.run(['kill', '-CONT', String(servers.bound)]);
  assert.is(outcome.status, 6, describe(outcome));
  assert.match(errorOf(outcome).message, /does not read its datagrams: \d+ bytes of them wait on port 7101/);
  assert.equal((await scenario.ask('home')).processes, []);
});

test('every datagram was answered once and in order, over IPv4 and IPv6, bound and connected', async () => {
  for (const client of clients) {
    const { sent, ...faults } = await client.stop();
    assert.equal(faults, { lost: 0, repeated: 0, outOfOrder: 0, wrong: 0 }, client.name);
    assert.ok(sent > 100, `${client.name}: only ${sent} datagrams`);
  }
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
