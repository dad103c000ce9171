// limit: 180 s
import { readFileSync, writeFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { parse, stringify } from 'yaml';
import { GUE_PORT } from '../../cli/forwarding/encapsulation.js';
import { suite } from '../suite.js';
import { Capture } from './capture.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { readIpv4, readIpv6 } from './pcap.js';
import { type Redis, startRedis } from './redis.js';
import { rested, Scenario } from './scenario.js';
import { settledTraces } from './traces.js';

const CONFIG = '/etc/homeproxy/homeproxy.yaml';
const DAEMONS = ['home', 'host1', 'host2'] as const;
const IP_IN_IP = { ipv4: 4, ipv6: 41 } as const;
const UDP = 17;

interface Written {
  nodes: { name: string; address: string; otherAddress?: string; encapsulation?: 'udp' }[];
  uplinks: object[];
}

const test = suite('host1 is reached by IPv6, home and host2 by IPv4, host2 with UDP around');
let scenario: Scenario;
let redis: Redis;
let loads: readonly Load[];
let untouched: Record<string, string[]>;

/**
 * Gives every node its address of the other family too, and host1 the IPv6 one first; host2 wants its packets in UDP. Hosts attach to tc: a capture sees what
 * comes to them before.
 */
function mixFamilies(node: string): void {
  const path = scenario.lab.node(node).path(CONFIG);
  const config = parse(readFileSync(path, 'utf8')) as Written;
  const nodes = config.nodes.map(({ name, address }) => {
    const { address6 } = scenario.lab.node(name);
    return name === 'host1'
      ? { name, address: address6, otherAddress: address }
      : { name, address, otherAddress: address6, ...(name === 'host2' ? { encapsulation: 'udp' as const } : {}) };
  });
  const uplinks = node === 'home' ? config.uplinks : [{ interface: 'eth0', attach: 'tc' }];
  writeFileSync(path, stringify({ ...config, nodes, uplinks }));
}

test.before(async () => {
  scenario = await Scenario.start('mixed', { daemons: false });
  for (const node of DAEMONS) mixFamilies(node);
  await Promise.all(DAEMONS.map((node) => scenario.lab.startDaemon(node)));
  untouched = await rested(scenario.lab, DAEMONS);
  const { home, client } = scenario;
  redis = await startRedis(home, { bind: '* -::*' });
  const options = { connections: 10, paceMs: 10 };
  loads = [await Load.start(client, home.address, options), await Load.start(client, home.address6, options)];
});
test.after(downAll);

/** The protocols of tunnels to a node within a second, by what carries them. */
async function tunnelsTo(node: string): Promise<string[]> {
  const capture = await Capture.start(scenario.lab.node(node));
  await loads[0]?.nextSecond();
  const packets = (await capture.stop()).flatMap((frame) => readIpv4(frame) ?? readIpv6(frame) ?? []);
  const tunnelled = packets.filter(
    ({ protocol, payload }) =>
      protocol === IP_IN_IP.ipv4 ||
      protocol === IP_IN_IP.ipv6 ||
      (protocol === UDP && payload.readUInt16BE(2) === GUE_PORT),
  );
  return [
    ...new Set(tunnelled.map(({ source, destination, protocol }) => `${source} -> ${destination}: ${protocol}`)),
  ].sort();
}

for (const [to, address, protocols] of [
  ['host1', 'address6', [IP_IN_IP.ipv4, IP_IN_IP.ipv6]],
  ['host2', 'address', [UDP]],
] as const) {
  test(`at ${to} its correspondents of both families are served through a tunnel to its ${address}, by ${protocols}`, async () => {
    await scenario.migrate(redis.pid, to);
    assert.equal(placesOf(scenario.lab, 'redis-server'), [`${to} (in a pod)`]);
    const ends = `${scenario.home[address]} -> ${scenario.lab.node(to)[address]}`;
    assert.equal(
      await tunnelsTo(to),
      protocols.map((protocol) => `${ends}: ${protocol}`),
    );
  });
}

test('and it comes home: no reply was lost, repeated or out of order, and no connection was reset', async () => {
  await scenario.recall(redis.pid);
  assert.equal(placesOf(scenario.lab, 'redis-server'), ['home']);
  for (const load of loads) assert.equal(faultsOf(await load.stop()), NO_FAULTS);
  assert.equal(await settledTraces(scenario.lab, untouched), untouched);
});

test.run();
