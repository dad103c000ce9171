// limit: 180 s
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SocketKind } from '../../addon/lib/index.js';
import { FORGOTTEN_OPTIONS } from '../../cli/process/socket-options.js';
import { downAll } from './lab-fixture.js';
import { Scenario } from './scenario.js';
import { SocketAgent } from './socket-agent.js';
import { settledTraces } from './traces.js';

const PORTS = { control: 7300, served: 7301, udp4: 7302, udp6: 7303, peer: 7310 };
const ROUTE = ['host1', 'host2', 'home'] as const;

/** Set on the sockets by their kind; to values that no new socket has. [level, option, value] */
const TCP = [
  [6, 13, 'reno'], // TCP_CONGESTION
  [6, 18, 7000], // TCP_USER_TIMEOUT
  [6, 25, 9000], // TCP_NOTSENT_LOWAT
  [0, 10, 2], // IP_MTU_DISCOVER
  [1, 47, 100_000_000], // SO_MAX_PACING_RATE
];
const LISTENER = [
  ...TCP,
  [6, 9, 7], // TCP_DEFER_ACCEPT
  [6, 23, 5], // TCP_FASTOPEN
  [0, 19, 1], // IP_TRANSPARENT
];
const IP4 = [
  [0, 1, 0x48], // IP_TOS
  [0, 2, 33], // IP_TTL
];
const IP6 = [
  [41, 67, 0x48], // IPV6_TCLASS
  [41, 16, 44], // IPV6_UNICAST_HOPS
  [41, 23, 2], // IPV6_MTU_DISCOVER
  [41, 66, 1], // IPV6_RECVTCLASS
];
const UDP = [
  [0, 12, 1], // IP_RECVTTL
  [1, 29, 1], // SO_TIMESTAMP
  [17, 104, 1], // UDP_GRO
];

const KINDS: Record<string, SocketKind> = {
  served: 'listener6',
  accepted4: 'tcp6', // a v4-mapped one
  opened4: 'tcp4',
  accepted6: 'tcp6',
  opened6: 'tcp6',
  udp4: 'udp4',
  udp6: 'udp6',
};

const test = suite('sockets of a process on its way home -> host1 -> host2 -> home');
let scenario: Scenario;
/** The process that moves, and its correspondent. */
let server: SocketAgent;
let client: SocketAgent;

/** What every socket of the process answers to every option that CRIU forgets. */
async function optionsNow(): Promise<Record<string, (string | number)[]>> {
  return await server.do(
    'options',
    FORGOTTEN_OPTIONS.map(({ level, option }) => [level, option]),
  );
}

let before: Record<string, (string | number)[]>;

test.before(async () => {
  scenario = await Scenario.start('sockets');
  const { home } = scenario;
  client = SocketAgent.start(scenario.client);
  server = await SocketAgent.serve(home, scenario.client, PORTS.control);
  await server.do('listen', 'served', '::', PORTS.served);
  await client.do('listen', 'peer', '::', PORTS.peer);
  for (const [family, address, peer] of [
    ['4', home.address, scenario.client.address],
    ['6', home.address6, scenario.client.address6],
  ] as const) {
    await client.do('connect', `to${family}`, address, PORTS.served);
    await server.do('accept', 'served', `accepted${family}`);
    await server.do('connect', `opened${family}`, peer, PORTS.peer);
    await client.do('accept', 'peer', `from${family}`);
  }
  await server.do('udp', 'udp4', home.address, PORTS.udp4);
  await server.do('udp', 'udp6', '::', PORTS.udp6);
  for (const [name, options] of Object.entries({
    served: [...LISTENER, ...IP6],
    accepted4: [...TCP, ...IP4],
    opened4: [...TCP, ...IP4],
    accepted6: [...TCP, ...IP6],
    opened6: [...TCP, ...IP6],
    udp4: [...UDP, ...IP4],
    udp6: [...UDP, ...IP6],
  })) {
    await server.do('set_options', name, options);
  }
  before = await optionsNow();
});
test.after(downAll);

for (const to of ROUTE) {
  test(`move to ${to}: every option that CRIU forgets is what it was, as the process itself is told`, async () => {
    const { notKept } = to === 'home' ? await scenario.recall(server.pid) : await scenario.migrate(server.pid, to);
    assert.equal(notKept, []);
    const after = await optionsNow();
    for (const [name, kind] of Object.entries(KINDS)) {
      for (const [index, { name: option, kinds }] of FORGOTTEN_OPTIONS.entries()) {
        if (kinds.includes(kind)) assert.is(after[name]?.[index], before[name]?.[index], `${option} of ${name}`);
      }
    }
  });
}

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
