// limit: 180 s

import * as assert from 'uvu/assert';
import { Lab } from '../../cli/lab/lab.js';
import type { LabNode } from '../../cli/lab/lab-node.js';
import type { LabAttach } from '../../cli/lab/plan.js';
import { LabFiles } from '../../cli/lab/state.js';
import { run } from '../../cli/system/command.js';
import { suite } from '../suite.js';
import { downAll, labName } from './lab-fixture.js';
import { Scenario } from './scenario.js';
import { SocketAgent } from './socket-agent.js';

const PORTS = { control: 7300, bulk: 7301, echo: 7302, nobody: 7303 };
const OUTER = 20; // bytes: the tunnels of these labs are IP in IP, over IPv4
const ROUTER_MTU = 1300;
const JUMBO_MTU = 9000;
const LONGEST_FROM_POD = 1400; // bytes of UDP payload
const ROUTING = ['net.ipv4.ip_forward=1', 'net.ipv4.conf.all.send_redirects=0', 'net.ipv4.conf.eth0.send_redirects=0'];
const FAMILIES = ['4', '6'] as const;
const TIMESTAMPS = 12; // bytes in each segment (RFC 7323, A)
const TCP_MAXSEG = [6, 2]; // level and option; of a connection: bytes of payload

let scenario: Scenario;
let server: SocketAgent;
let client: SocketAgent;

const addressOf = (family: '4' | '6'): string => (family === '4' ? scenario.home.address : scenario.home.address6);

/** @param prepare before the daemons start */
async function start(purpose: string, attach: LabAttach, prepare?: (lab: Lab) => Promise<void>): Promise<void> {
  const options = { attach } as const;
  if (prepare !== undefined) await prepare(await Lab.up({ ...options, name: labName(purpose), daemons: false }));
  scenario = await Scenario.start(purpose, options);
  client = SocketAgent.start(scenario.client);
  server = await SocketAgent.serve(scenario.home, scenario.client, PORTS.control);
  await server.do('listen', 'bulk', '::', PORTS.bulk);
  for (const family of FAMILIES) {
    await server.do('udp', `echo${family}`, addressOf(family), PORTS.echo);
    await server.do('begin_echo', `echo${family}`);
  }
}

/** Bulk transfers of both families, each way, while something happens: every byte comes, in its place. */
async function carriesBulk(meanwhile: () => Promise<unknown>): Promise<void> {
  const names = FAMILIES.flatMap((family) => [`up${family}`, `down${family}`]);
  for (const name of names) {
    await client.do('connect', name, addressOf(name.endsWith('4') ? '4' : '6'), PORTS.bulk);
    await server.do('accept', 'bulk', name);
    const [source, sink] = name.startsWith('up') ? [client, server] : [server, client];
    await sink.do('begin_sink', name);
    await source.do('begin_source', name, 5);
  }
  await meanwhile();
  for (const name of names) {
    const [source, sink] = name.startsWith('up') ? [client, server] : [server, client];
    const sent = await source.do<number>('end', `source ${name}`);
    assert.equal(await sink.do('end', `sink ${name}`), [sent, true], name);
    assert.ok(sent > 0, name);
    await client.do('close', name);
    await server.do('close', name);
  }
}

/** Datagrams of 8 kB, which a link of 1500 carries in six fragments. */
async function carriesLongDatagrams(): Promise<void> {
  for (const family of FAMILIES) {
    assert.is(await client.do('exchange', addressOf(family), PORTS.echo, 8000, 100), 100, `IPv${family}`);
  }
}

/** What a correspondent is told when it sends a packet as long as its link takes, which may not be split. */
async function toldMtus(linkMtu: number): Promise<number[]> {
  const told: number[] = [];
  for (const family of FAMILIES) {
    const size = linkMtu - (family === '4' ? 28 : 48);
    told.push(await client.do<number>('path_mtu', addressOf(family), PORTS.echo, size));
  }
  return told;
}

const plain = suite('links of 1500 bytes everywhere');
plain.after(downAll);

plain('bulk transfers each way go on over the move, and datagrams of 8 kB arrive', async () => {
  await start('mtu', 'xdp');
  await carriesBulk(() => scenario.migrate(server.pid, 'host1'));
  await carriesBulk(carriesLongDatagrams);
});

plain('a segment to the process leaves room for the tunnel, one of its own fills the link that it takes', async () => {
  for (const [family, headers] of [
    ['4', 20 + 20 + TIMESTAMPS],
    ['6', 40 + 20 + TIMESTAMPS],
  ] as const) {
    // What it was told of the tunnel, when its connections went on through it, it offers to take itself (ipv4_default_advmss).
    await scenario.client.run(['ip', `-${family}`, 'route', 'flush', 'cache']);
    await client.do('connect', 'new', addressOf(family), PORTS.bulk);
    await server.do('accept', 'bulk', 'new');
    assert.is(await longestSegment(server, 'new'), 1500 - headers, `IPv${family}`);
    const there = await longestSegment(client, 'new');
    assert.ok(there <= 1500 - OUTER - headers && there > 1300, `${there} bytes over IPv${family}`);
    for (const end of [client, server]) await end.do('close', 'new');
  }
});

async function longestSegment(agent: SocketAgent, name: string): Promise<number> {
  const told = await agent.do<Record<string, string[]>>('options', [TCP_MAXSEG]);
  return Buffer.from(told[name]?.[0] ?? '', 'hex').readUInt32LE();
}

plain('who sends 1500 bytes that may not be split is told what fits into the tunnel', async () => {
  assert.equal(await toldMtus(1500), [1500 - OUTER, 1500 - OUTER]);
});

plain('what a router or a correspondent says about its packets reaches the process where it is', async () => {
  const { client } = scenario;
  for (const address of [client.address, client.address6]) {
    assert.match(await failureOf(server.do('exchange', address, PORTS.nobody, 100, 2)), /refused/i, address);
  }
  const [router, host] = [scenario.lab.node('host2'), scenario.lab.node('host1')];
  await router.run(['sysctl', '--quiet', '--write', ...ROUTING]);
  await router.run(['ip', 'route', 'add', `${client.address}/32`, 'dev', 'eth0', 'mtu', 'lock', String(ROUTER_MTU)]);
  await host.run(['ip', 'route', 'add', `${client.address}/32`, 'via', router.address]);
  assert.is(await server.do('path_mtu', client.address, PORTS.nobody, LONGEST_FROM_POD), ROUTER_MTU);
  await host.run(['ip', 'route', 'del', `${client.address}/32`]);
  await router.run(['ip', 'route', 'del', `${client.address}/32`]);
});

async function failureOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    (answer) => `no failure: ${JSON.stringify(answer)}`,
    (error: Error) => error.message,
  );
}

plain('a router with a smaller link between home and care-of host: the same', async () => {
  await routeThrough(scenario.lab.node('host2'), scenario.lab.node('host1'));
  await carriesBulk(async () => {
    assert.equal(await toldMtus(1500 - OUTER), [ROUTER_MTU - OUTER, ROUTER_MTU - OUTER]);
    await carriesLongDatagrams();
  });
  await carriesBulk(() => scenario.recall(server.pid));
});

/** What home sends to a host goes through another one, which cannot hand on more than its link takes. */
async function routeThrough(router: LabNode, host: LabNode): Promise<void> {
  await router.run(['sysctl', '--quiet', '--write', ...ROUTING]);
  await router.run(['ip', 'route', 'add', `${host.address}/32`, 'dev', 'eth0', 'mtu', 'lock', String(ROUTER_MTU)]);
  await scenario.home.run(['ip', 'route', 'add', `${host.address}/32`, 'via', router.address]);
}

const jumbo = suite('links of 9000 bytes everywhere');
jumbo.after(downAll);

jumbo('bulk transfers each way go on over the moves, and datagrams of 8 kB are not split', async () => {
  await start('mtu-jumbo', 'auto', async (lab) => {
    const hub = new LabFiles(lab.name).read()?.switch.pid ?? 0;
    for (const { name } of lab.nodes) {
      await run('nsenter', [`--net=/proc/${hub}/ns/net`, 'ip', 'link', 'set', name, 'mtu', String(JUMBO_MTU)]);
      await lab.node(name).run(['ip', 'link', 'set', 'eth0', 'mtu', String(JUMBO_MTU)]);
    }
  });
  const { stdout } = await scenario.homeproxy('home', ['status']);
  assert.match(stdout, /^ +eth0: tc \(auto: native XDP on veth loses partial checksums/m);
  await carriesBulk(() => scenario.migrate(server.pid, 'host1'));
  await carriesBulk(carriesLongDatagrams);
  assert.equal(await toldMtus(JUMBO_MTU), [JUMBO_MTU - OUTER, JUMBO_MTU - OUTER]);
  await carriesBulk(() => scenario.migrate(server.pid, 'host2'));
  await carriesBulk(() => scenario.recall(server.pid));
});

plain.run();
jumbo.run();
