// limit: 180 s
/**
 * Correspondents that are not on other machines: on the home node itself, on the care-of host, in the same tree, and in other
 * departed processes. All of them keep numbered requests going, on connections from before the move and from after it.
 */

import * as assert from 'uvu/assert';
import { suite } from '../suite.js';
import { installProgram, startServer } from './c-program.js';
import { Dialer } from './dialer.js';
import { downAll } from './lab-fixture.js';
import { Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

/** `wide`, `wide6` and `own` depart; `stays` does not; `inner` is a child of the departing dialer. */
const PORTS = { wide: 7300, wide6: 7301, own: 7302, datagrams: 7304, stays: 7310, inner: 7320 };
const ORDERS = { atHome: 7330, atHost: 7331, departing: 7332 };

const test = suite('correspondents on nodes');
let scenario: Scenario;
let atHome: Dialer;
let atHost: Dialer;
let departing: Dialer;
const servers: number[] = [];

async function start(): Promise<void> {
  scenario = await Scenario.start('correspondents');
  const { home, client, lab } = scenario;
  const nodes = [home, lab.node('host1'), lab.node('host2')];
  const counters = await installProgram('counters', ...nodes);
  const datagrams = await installProgram('datagrams', ...nodes);
  const dialer = await installProgram('dialer', ...nodes);
  const serve = (address: string, port: number, program = counters): Promise<number> =>
    startServer(home, [program, address, String(port)], port);
  servers.push(
    await serve('0.0.0.0', PORTS.wide),
    await serve('::', PORTS.wide6),
    await serve(home.address, PORTS.own),
    await serve('::', PORTS.datagrams, datagrams),
  );
  await serve('::', PORTS.stays);
  const tree = 'counters=$1; shift; "$counters" 127.0.0.1 "$1" & shift; exec "$@"';
  atHome = await Dialer.start([dialer, '::', String(ORDERS.atHome)], home, ORDERS.atHome, client);
  atHost = await Dialer.start([dialer, '::', String(ORDERS.atHost)], lab.node('host1'), ORDERS.atHost, client);
  departing = await Dialer.start(
    ['sh', '-c', tree, 'sh', counters, String(PORTS.inner), dialer, '::', String(ORDERS.departing)],
    home,
    ORDERS.departing,
    client,
  );
}

test.before(start);
test.after(downAll);

/** What a process of the home node reaches there, on every address. */
async function dialAtHome(dialer: Dialer): Promise<void> {
  const { address, address6 } = scenario.home;
  for (const to of [address, '127.0.0.1']) {
    await dialer.dial('tcp', to, PORTS.wide);
    await dialer.dial('udp', to, PORTS.datagrams);
  }
  for (const to of [address, address6, '127.0.0.1', '::1']) await dialer.dial('tcp', to, PORTS.wide6);
  await dialer.dial('udp', '::1', PORTS.datagrams);
  await dialer.dial('tcp', address, PORTS.own);
}

/** Services of its home that stay there, and its own child. */
async function dialHomeward(dialer: Dialer): Promise<void> {
  const { address, address6 } = scenario.home;
  for (const to of [address, address6, '127.0.0.1', '::1']) await dialer.dial('tcp', to, PORTS.stays);
  await dialer.dial('tcp', '127.0.0.1', PORTS.inner);
}

async function dialFromHost(): Promise<void> {
  const { address, address6 } = scenario.home;
  await atHost.dial('tcp', address, PORTS.wide);
  await atHost.dial('tcp', address6, PORTS.wide6);
  await atHost.dial('tcp', address, PORTS.own);
  await atHost.dial('udp', address, PORTS.datagrams);
}

async function allGoOn(): Promise<void> {
  for (const [name, dialer] of Object.entries({ atHome, atHost, departing })) {
    await dialer.goesOn(10).catch((error: Error) => assert.unreachable(`${name}: ${error.message}`));
  }
}

test('connections are there before anything moves', async () => {
  await dialAtHome(atHome);
  await dialAtHome(departing);
  await dialHomeward(departing);
  await dialFromHost();
  await allGoOn();
});

test('servers and a client of theirs depart at the same time: all go on, on the care-of host and at home', async () => {
  await Promise.all([...servers, departing.pid].map((pid) => scenario.migrate(pid, 'host1')));
  await allGoOn();
});

test('new ones reach it over the home address and over loopback, and from the care-of host', async () => {
  await dialAtHome(atHome);
  await dialFromHost();
  await allGoOn();
});

test('it opens new ones to services of its home, to its child, and to other departed processes', async () => {
  await dialAtHome(departing);
  await dialHomeward(departing);
  await allGoOn();
});

test('a server goes on to another host than its client', async () => {
  await Promise.all(servers.slice(0, 2).map((pid) => scenario.migrate(pid, 'host2')));
  await allGoOn();
});

test('all come home at the same time', async () => {
  await Promise.all([...servers, departing.pid].map((pid) => scenario.recall(pid)));
  await allGoOn();
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
