// limit: 180 s
import { setTimeout as sleep } from 'node:timers/promises';
import ipaddr from 'ipaddr.js';
import * as assert from 'uvu/assert';
import type { SocketKind } from '../../addon/lib/index.js';
import { type MigrationReport, migrationReport } from '../../cli/node/control-methods.js';
import { FORGOTTEN_OPTIONS } from '../../cli/process/socket-options.js';
import { suite } from '../suite.js';
import { Capture } from './capture.js';
import { downAll } from './lab-fixture.js';
import { failuresOf, NewConnections } from './new-connections.js';
import { type Frame, readIpv4, readIpv6, readTcp } from './pcap.js';
import { describe, oneLine, Scenario, type Summary } from './scenario.js';
import { SocketAgent } from './socket-agent.js';
import { settledTraces } from './traces.js';
import { ahead, segmentsByConnection, wireNumbersAt } from './wire-numbers.js';

const PORTS = { control: 7300, served: 7301, udp4: 7302, udp6: 7303, plain: 7304, reuse: 7305, peer: 7310 };
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
  [0, 4, '\x01\x01\x01\x00'], // IP_OPTIONS
];
const IP6 = [
  [41, 67, 0x48], // IPV6_TCLASS
  [41, 16, 44], // IPV6_UNICAST_HOPS
  [41, 23, 2], // IPV6_MTU_DISCOVER
  [41, 66, 1], // IPV6_RECVTCLASS
  [41, 59, '\0\0\x01\x04\0\0\0\0'], // IPV6_DSTOPTS
];
const UDP = [
  [0, 12, 1], // IP_RECVTTL
  [1, 29, 1], // SO_TIMESTAMP
  [17, 104, 1], // UDP_GRO
];

/** Connections of the process, by the state in which they are when it moves (include/net/tcp_states.h). */
const STATES = { unread: 8, unsent: 1, finWait1: 4, finWait2: 5, closeWait: 8, lastAck: 9, closing: 11 } as const;

const KINDS: Record<string, SocketKind> = {
  served: 'listener6',
  accepted4: 'tcp6', // a v4-mapped one
  opened4: 'tcp4',
  accepted6: 'tcp6',
  opened6: 'tcp6',
  udp4: 'udp4',
  udp6: 'udp6',
};

/** What is not acknowledged of these has a FIN at its end, which is no byte. */
const FIN_ON_ITS_WAY = new Set(['FIN_WAIT1', 'LAST_ACK', 'CLOSING']);
/** Longer than an acknowledgement may wait (RFC 9293, 3.8.6.3). */
const QUIET_MS = 600;

/** A SYN without an answer is sent again after a second (RFC 6298); a busy machine needs some of it after the freeze. */
const SYN_TIMER_MS = 900;

const test = suite('sockets of a process on its way home -> host1 -> host2 -> home');
let scenario: Scenario;
/** The process that moves, and its correspondent. */
let server: SocketAgent;
let client: SocketAgent;
let capture: Capture;
let opening: NewConnections[];
const moves: Summary[] = [];
const reports: MigrationReport[] = [];
let frames: Frame[];

/** What every socket of the process answers to every option that CRIU forgets. */
async function optionsNow(): Promise<Record<string, (string | number)[]>> {
  return await server.do(
    'options',
    FORGOTTEN_OPTIONS.map(({ level, option }) => [level, option]),
  );
}

/** A new connection of the client to the process, which has the same name at both ends. */
async function connection(name: string, address: string): Promise<void> {
  await client.do('connect', name, address, PORTS.plain);
  await server.do('accept', 'plain', name);
}

/** Waits until a socket of the process is in a state, by its number (include/net/tcp_states.h). */
async function inState(name: string, state: number): Promise<void> {
  for (const deadline = Date.now() + 10_000; ; await sleep(5)) {
    const found = await server.do('state', name);
    if (found === state) return;
    if (Date.now() > deadline) throw new Error(`${name} is in state ${found}, not ${state}`);
  }
}

/** Brings connections into every state that one can stay in, each with what must still come in either direction. */
async function closingConnections(family: string, address: string): Promise<void> {
  const filled = async (name: string): Promise<void> => {
    expected.set(`client ${name}`, await server.do<number>('fill', name));
  };
  for (const what of Object.keys(STATES)) await connection(`${what}${family}`, address);
  expected.set(`server unread${family}`, await client.do<number>('fill', `unread${family}`));
  await client.do('shutdown', `unread${family}`);
  await server.do('shutdown', `finWait2${family}`);
  await client.do('shutdown', `closeWait${family}`);
  await filled(`unsent${family}`);
  for (const what of ['finWait1', 'lastAck', 'closing']) {
    if (what === 'lastAck') {
      await client.do('shutdown', `${what}${family}`);
      await inState(`${what}${family}`, STATES.closeWait);
    }
    await filled(`${what}${family}`);
    await server.do('shutdown', `${what}${family}`);
    if (what === 'closing') await client.do('shutdown', `${what}${family}`);
  }
}

/** How many bytes at once each correspondent takes that has closed its half, as the process's kernel has it. */
async function windowsNow(): Promise<[string, number][]> {
  const names = ['unread', 'closeWait'].flatMap((what) => [`${what}4`, `${what}6`]);
  const windows: [string, number][] = [];
  for (const name of names) windows.push([name, await server.do<number>('send_window', name)]);
  return windows;
}

async function reportOn(migration: string): Promise<MigrationReport> {
  const outcome = await scenario.homeproxy('home', [
    'report',
    migration,
    '--output',
    `/tmp/${migration}.html`,
    '--json',
  ]);
  assert.is(outcome.status, 0, describe(outcome));
  return migrationReport.parse(oneLine(outcome));
}

/** A moment at which nobody spoke for the process: its source was silent, its destination not yet heard. */
function silenceOf({ row, others }: MigrationReport): number {
  const steps = [row, ...others].flatMap((node) => node.steps);
  const [parked = 0, speaks = 0] = ['source:parked', 'destination:speaks'].map(
    (name) => steps.find(({ step }) => step === name)?.at,
  );
  return (parked + speaks) / 2;
}

/** How long a stream is that an end has to receive: `<end> <connection>`. */
const expected = new Map<string, number>();

let before: Record<string, (string | number)[]>;
let windows: [string, number][];

test.before(async () => {
  scenario = await Scenario.start('sockets');
  const { home } = scenario;
  capture = await Capture.start(scenario.client);
  client = SocketAgent.start(scenario.client);
  server = await SocketAgent.serve(home, scenario.client, PORTS.control);
  await server.do('listen', 'served', '::', PORTS.served);
  await server.do('listen', 'plain', '::', PORTS.plain);
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
  for (const [family, address] of [
    ['4', home.address],
    ['6', home.address6],
  ] as const) {
    await closingConnections(family, address);
    await connection(`up${family}`, address);
    await connection(`down${family}`, address);
    await server.do('begin_sink', `up${family}`);
    await client.do('begin_source', `up${family}`, 20);
    await client.do('begin_sink', `down${family}`);
    await server.do('begin_source', `down${family}`, 20);
  }
  windows = await windowsNow();
  for (const name of ['reuse1', 'reuse2']) {
    await server.do('listen', name, '::', PORTS.reuse, [[1, 15, 1]]); // SO_REUSEPORT
    await server.do('begin_pong', name);
  }
  opening = [
    await NewConnections.start(scenario.client, home.address, PORTS.reuse),
    await NewConnections.start(scenario.client, home.address6, PORTS.reuse),
  ];
});
test.after(downAll);

for (const to of ROUTE) {
  test(`move to ${to}: every option that CRIU forgets is what it was, as the process itself is told`, async () => {
    moves.push(to === 'home' ? await scenario.recall(server.pid) : await scenario.migrate(server.pid, to));
    assert.equal(moves.at(-1)?.notKept, []);
    reports.push(await reportOn(moves.at(-1)?.migration ?? ''));
    const after = await optionsNow();
    for (const [name, kind] of Object.entries(KINDS)) {
      for (const [index, { name: option, kinds }] of FORGOTTEN_OPTIONS.entries()) {
        if (kinds.includes(kind)) assert.is(after[name]?.[index], before[name]?.[index], `${option} of ${name}`);
      }
    }
    assert.equal(await windowsNow(), windows, 'what half-closed correspondents take at once');
  });
}

for (const family of ['4', '6']) {
  test(`IPv${family}: bulk transfers each way went on over all moves, every byte in its place`, async () => {
    const up = await client.do<number>('end', `source up${family}`);
    assert.equal(await server.do('end', `sink up${family}`), [up, true]);
    const down = await server.do<number>('end', `source down${family}`);
    assert.equal(await client.do('end', `sink down${family}`), [down, true]);
    assert.ok(up > 1 << 20 && down > 1 << 20, `${up} and ${down} bytes`);
  });

  test(`IPv${family}: half-closed and closing connections are in their state, and what was under way arrives`, async () => {
    for (const [what, state] of Object.entries(STATES)) await inState(`${what}${family}`, state);
    assert.equal(await server.do('to_end', `unread${family}`), [expected.get(`server unread${family}`), true]);
    await client.do('send', `finWait2${family}`, 'still heard');
    assert.is(await server.do('receive', `finWait2${family}`, 11), 'still heard');
    await server.do('send', `closeWait${family}`, 'still said');
    assert.is(await client.do('receive', `closeWait${family}`, 10), 'still said');
    await server.do('shutdown', `unsent${family}`);
    for (const what of ['unsent', 'finWait1', 'lastAck', 'closing']) {
      const name = `${what}${family}`;
      assert.equal(await client.do('to_end', name), [expected.get(`client ${name}`), true], name);
    }
  });

  test(`IPv${family}: connections of both directions go on`, async () => {
    for (const [ours, theirs] of [
      [`accepted${family}`, `to${family}`],
      [`opened${family}`, `from${family}`],
    ] as const) {
      await server.do('send', ours, 'to the client');
      assert.is(await client.do('receive', theirs, 13), 'to the client');
      await client.do('send', theirs, 'to the process');
      assert.is(await server.do('receive', ours, 14), 'to the process');
    }
  });
}

test('a group of SO_REUSEPORT listeners: all connections were answered, those that began in a freeze by their first SYN', async () => {
  const results = [];
  for (const one of opening) results.push(await one.stop());
  frames = await capture.stop();
  for (const result of results) assert.equal(failuresOf(result), []);
  for (const name of ['reuse1', 'reuse2']) assert.ok((await server.do<number>('pongs', name)) > 20);
  const syns = new Map<string, number[]>();
  for (const frame of frames) {
    const packet = readIpv4(frame) ?? readIpv6(frame);
    const segment = packet === undefined ? undefined : readTcp(packet);
    if (segment === undefined || segment.destinationPort !== PORTS.reuse) continue;
    if (!segment.flags.has('SYN')) continue;
    const flow = `${segment.source} ${segment.sourcePort} ${segment.sequence}`; // a port is used again, seconds later
    syns.set(flow, [...(syns.get(flow) ?? []), segment.at]);
  }
  const quick = moves.filter(({ frozenAt, resumedAt }) => resumedAt - frozenAt < SYN_TIMER_MS); // else the clients' own timers have sent it again
  assert.ok(quick.length > 0);
  for (const { frozenAt, resumedAt } of quick) {
    const begun = [...syns.values()].filter(([first = 0]) => first > frozenAt && first < resumedAt);
    assert.ok(begun.length > 0);
    assert.equal(
      begun.filter((times) => times.length !== 1),
      [],
    );
  }
});

test('the report of each move has every connection, at both ends at the same sequence numbers', () => {
  for (const { connections } of reports) {
    const { total = 0, moved = [] } = connections ?? {};
    assert.ok(total >= 2 * (Object.keys(STATES).length + 4), `${total} connections`);
    assert.is(moved.length, total);
    assert.equal(
      moved.filter(({ same }) => same !== true),
      [],
    );
  }
});

test('the report names what was set again of what CRIU forgets', () => {
  for (const { reapplied = [] } of reports) {
    for (const words of [
      'TCP_CONGESTION (reno), 5 sockets',
      'TCP_USER_TIMEOUT (7000), 5 sockets',
      'UDP_GRO (1), 2 sockets',
    ]) {
      assert.ok(reapplied.includes(words), `${words} is not among ${reapplied.join('; ')}`);
    }
  }
});

test('these are the sequence numbers on the wire, with the bytes that nobody has read and those that were not sent', () => {
  const server = [scenario.home.address, scenario.home.address6].map((text) => ipaddr.parse(text).toString());
  const segments = segmentsByConnection(frames, server);
  for (const report of reports) {
    const silence = silenceOf(report);
    let quiet = 0;
    for (const { local, remote, atSource } of report.connections?.moved ?? []) {
      const seen = segments.get(`${local} ${remote}`) ?? [];
      const wire = wireNumbersAt(seen, server, silence);
      if (wire === undefined || atSource === undefined) throw new Error(`${local} ${remote} is not on the wire`);
      const { state, sent, received, unacknowledged, unsent = 0 } = atSource;
      const fin = FIN_ON_ITS_WAY.has(state) ? 1 : 0;
      const name = `${local} ${remote} (${state}) of ${report.row.migration}`;
      assert.ok(ahead(sent, wire.sent) >= 0, `${name}: ${wire.sent} was sent, beyond ${sent}`);
      assert.ok(ahead(received, wire.received) >= 0, `${name}: ${wire.received} was acknowledged, beyond ${received}`);
      const mayCome = ahead(wire.acknowledged, sent - unacknowledged - fin); // parked meanwhile
      assert.ok(mayCome >= 0, `${name}: the client has acknowledged ${wire.acknowledged} only`);
      if (silence - wire.lastAt < QUIET_MS) continue;
      quiet++;
      assert.is(wire.received, received, `received of ${name}`);
      assert.is(wire.acknowledged, (sent - unacknowledged - fin) >>> 0, `acknowledged of ${name}`);
      const said = (sent - unsent - (unsent > 0 ? fin : 0)) >>> 0;
      if (report === reports[0]) assert.is(wire.sent, said, `sent of ${name}`);
      else assert.ok(ahead(said, wire.sent) >= 0, `sent of ${name}`); // a restored socket has spoken to nobody
    }
    assert.ok(quiet >= 5, `${quiet} connections that were quiet before ${report.row.migration}`);
  }
  const noted = reports[0]?.connections?.moved ?? [];
  assert.ok(
    noted.filter(({ atDestination }) => (atDestination?.unread ?? 0) > 1000).length >= 2,
    'unread bytes of both families',
  );
  assert.ok(
    noted.filter(({ atSource }) => (atSource?.unsent ?? 0) > 1000).length >= 2,
    'unsent bytes of both families',
  );
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test.run();
