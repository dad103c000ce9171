import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as assert from 'uvu/assert';
import { decide, type Verdict } from '../../cli/policy/engine.js';
import { type Facts, queryKey } from '../../cli/policy/facts.js';
import { NO_HISTORY } from '../../cli/policy/history.js';
import { HostReader } from '../../cli/policy/host-reader.js';
import { nearness } from '../../cli/policy/nearness.js';
import { terminalIdleMs } from '../../cli/system/terminals.js';
import { suite } from '../suite.js';
import { facts, GIB, memory, policies } from './policy-fixtures.js';

const PROMQL = { url: 'http://p:9090', query: 'up' };
const TYPED = { terminalIdleMs: 1000 };
const QUIET = { terminalIdleMs: null };

function verdicts(text: string, given: Facts): Verdict[] {
  return [...decide(policies(`policies:\n${text}`), given, NO_HISTORY, new Map()).verdicts];
}

function outcomes(text: string, given: Facts): string[] {
  return verdicts(text, given).map((verdict) => {
    if (verdict.outcome === 'wait') return `wait: ${verdict.code}`;
    return 'to' in verdict ? `${verdict.outcome} ${verdict.to}` : verdict.outcome;
  });
}

const eviction = suite('guests, when the owner of their host is back');

const EVICT = (where: string) =>
  `  - {name: evict, processes: [{name: a}], from: hosts, when: {owner: {is: present}}, where: ${where}}\n`;
const FLEE = '  - {name: flee, processes: [{name: a}], when: {loadPerCpu: {above: 1}}}\n';
const BUSY = { cpus: 1, load1: 2 };

function guestOf(host: string, hosts: Parameters<typeof facts>[0]): Facts {
  return facts({ ...hosts, processes: [{ pid: 7, location: host }] });
}

eviction('go home, whatever home is like, if nothing else will do', () => {
  const hosts = { home: BUSY, host1: TYPED, host2: memory(8 * GIB) };
  assert.equal(outcomes(EVICT('{home: only}'), guestOf('host1', { hosts })), ['return home']);
  assert.equal(outcomes(EVICT('{home: only}'), guestOf('host1', { hosts: { ...hosts, home: { draining: true } } })), [
    'wait: no-host',
  ]);
  assert.equal(outcomes(EVICT('{home: only}'), guestOf('host1', { hosts: { ...hosts, host1: QUIET } })), ['stay']);
});

eviction('go home first, and elsewhere when home has no room, or would send them away again', () => {
  const hosts = { home: { ...BUSY, ...memory(4 * GIB) }, host1: TYPED, host2: { ...QUIET, ...memory(8 * GIB) } };
  assert.equal(outcomes(EVICT('{home: first}'), guestOf('host1', { hosts })), ['return home']);
  const full = { ...hosts, home: memory(0) };
  const large = facts({ hosts: full, processes: [{ pid: 7, location: 'host1', residentBytes: GIB }] });
  assert.equal(outcomes(EVICT('{home: first}'), large), ['move host2']);
  assert.equal(outcomes(EVICT('{home: first}') + FLEE, guestOf('host1', { hosts })), ['move host2', 'stay']);
});

eviction('are not sent to a host whose owner is there, by any policy', () => {
  const hosts = { home: BUSY, host1: { ...TYPED, ...memory(8 * GIB) }, host2: { ...QUIET, ...memory(4 * GIB) } };
  const atHome = facts({ hosts, processes: [{ pid: 7 }] });
  assert.equal(outcomes(FLEE, atHome), ['move host1']);
  assert.equal(outcomes(EVICT('{home: only}') + FLEE, atHome), ['stay', 'move host2']);
  const both = facts({ hosts: { ...hosts, host2: TYPED }, processes: [{ pid: 7 }] });
  const [, flee] = verdicts(EVICT('{home: only}') + FLEE, both);
  assert.match(
    flee?.why ?? '',
    /^no host: host1 \(it would leave again: somebody has typed at host1 within 5m: 1s ago\), host2 \(/,
  );
});

eviction('stay when they are at home, or on a host that the policy does not name', () => {
  const hosts = { home: TYPED, host1: TYPED, host2: TYPED };
  const named = (from: string) =>
    `  - {name: p, processes: [{name: a}], from: ${from}, when: {owner: {is: present}}, where: {home: only}}\n`;
  assert.equal(outcomes(named('hosts'), guestOf('home', { hosts })), ['stay']);
  assert.equal(outcomes(named("['host1']"), guestOf('host1', { hosts })), ['return home']);
  assert.equal(outcomes(named("['host[1]', 'ho*2']"), guestOf('host2', { hosts })), ['return home']);
  const [other] = verdicts(named("['host1']"), guestOf('host2', { hosts }));
  assert.equal([other?.outcome, other?.why], ['stay', 'the policy is not about what runs on host2']);
});

eviction('of a sick host go on to another, and not back to it', () => {
  const text = `  - {name: p, processes: [{name: a}], from: [host1], when: {promql: {url: 'http://p:9090', query: up, above: 0}}}\n`;
  const queries = { [queryKey(PROMQL)]: { values: [1] } };
  const hosts = { home: BUSY, host1: memory(8 * GIB), host2: memory(4 * GIB) };
  assert.equal(outcomes(text, guestOf('host1', { hosts, queries })), ['move host2']);
  assert.equal(outcomes(text + FLEE, facts({ hosts, queries, processes: [{ pid: 7 }] })), ['stay', 'move host2']);
});

eviction.run();

const circles = suite('moves that would go round in a circle');

circles('are not begun: nothing goes where the condition holds that it flees from', () => {
  const text = '  - {name: p, processes: [{name: a}], from: anywhere, when: {loadPerCpu: {above: 1}}}\n';
  const ask = (load1: number) =>
    outcomes(text, facts({ hosts: { home: BUSY, host1: { cpus: 1, load1 } }, processes: [{ pid: 7 }] }));
  assert.equal([ask(0.5), ask(1.5)], [['move host1'], ['wait: no-host']]);
});

circles('are not begun either when it has not held for long enough there', () => {
  const ask = (when: string) =>
    outcomes(
      `  - {name: p, processes: [{name: a}], from: anywhere, when: ${when}}\n`,
      facts({ hosts: { home: { ...BUSY, draining: true }, host1: BUSY }, processes: [{ pid: 7 }] }),
    );
  assert.equal(ask('{any: [{draining: true}, {loadPerCpu: {above: 1}, for: 10m}]}'), ['wait: no-host']);
  assert.equal(ask('{any: [{draining: true}, {not: {loadPerCpu: {above: 1}, for: 10m}}]}'), ['wait: no-host']);
  assert.equal(ask('{any: [{draining: true}, {loadPerCpu: {above: 3}, for: 10m}]}'), ['move host1']);
});

circles('are not begun by what holds everywhere: it makes a process leave home, and not go on', () => {
  const text = `  - {name: p, processes: [{name: a}], from: anywhere, when: {any: [
    {promql: {url: 'http://p:9090', query: up, above: 0}}, {loadPerCpu: {above: 1}}]}}\n`;
  const queries = { [queryKey(PROMQL)]: { values: [1] } };
  const calm = { cpus: 1, load1: 0 };
  const ask = (location: string, hosts: object) =>
    outcomes(text, facts({ queries, hosts: { home: calm, ...hosts }, processes: [{ pid: 7, location }] }));
  assert.equal(ask('home', { host1: calm, host2: calm }), ['move host1']);
  assert.equal(ask('host1', { host1: calm, host2: calm }), ['stay']);
  assert.equal(ask('host1', { host1: BUSY, host2: calm }), ['move host2']);
  assert.equal(ask('home', { host1: BUSY, host2: calm }), ['move host2']);
});

circles('are not begun by two policies: none brings home what another would send away', () => {
  const text = `  - {name: p, processes: [{name: a}], when: {draining: true}, until: {draining: false}}\n${FLEE}`;
  const moves = [
    { pid: 7, policy: 'p', direction: 'away', from: 'home', to: 'host1', at: 0, endedAt: 0, outcome: 'moved' },
  ] as const;
  const ask = (home: object) => {
    const given = facts({ at: 3_600_000, hosts: { home, host1: {} }, processes: [{ pid: 7, location: 'host1' }] });
    const past = { moves, senders: new Map([[7, 'p']]) };
    const [first] = decide(policies(`policies:\n${text}`), given, past, new Map()).verdicts;
    return first?.outcome === 'wait' ? first.code : first?.outcome;
  };
  assert.equal([ask({ cpus: 1, load1: 0 }), ask(BUSY)], ['return', 'would-leave-again']);
});

circles.run();

const near = suite('the host that is near the correspondents of a process');

for (const [what, correspondents, expected] of [
  ['in one network', ['10.1.0.9', '10.1.0.8'], { one: 2 }],
  ['in both', ['10.1.0.9', '10.2.0.9', '10.2.0.8'], { one: 1, two: 2 }],
  ['on a node itself, which is nearer than its network', ['10.1.0.1'], { one: 1 }],
  ['in a network that two nodes are in', ['10.9.1.1'], { two: 1, three: 1 }],
  ['in a network within that, where one is', ['10.9.7.1'], { three: 1 }],
  ['of the other family', ['fd00::9', 'fe00::1'], { one: 1 }],
  ['nowhere near', ['192.0.2.1', 'nonsense', '10.1.1.0'], {}],
  ['written as mapped addresses are', ['::ffff:0a01:0009'], {}],
] as const) {
  near(`counts those that are ${what}`, () => {
    const places = [
      { name: 'one', networks: ['10.1.0.1/24', 'fd00::1/64'] },
      { name: 'two', networks: ['10.2.0.1/24', '10.9.0.0/16', 'nonsense', '10.0.0.0/99'] },
      { name: 'three', networks: ['10.9.0.0/16', '10.9.7.0/24', '10.1.0.2/24'] },
    ];
    const shared = { '10.1.0.9': 1, '10.1.0.8': 1 } as Record<string, number>;
    const both = correspondents.reduce((sum, address) => sum + (shared[address] ?? 0), 0);
    const found = Object.fromEntries(nearness(correspondents, places));
    assert.equal(found, { ...expected, ...(both > 0 ? { three: both } : {}) });
  });
}

near('is preferred; of equals the one with the most free memory', () => {
  const p = (prefer: string) =>
    `  - {name: p, processes: [{name: a}], when: {draining: true}, where: {prefer: ${prefer}}}\n`;
  const hosts = {
    home: { draining: true, networks: ['10.9.0.1/24'] },
    host1: { ...memory(2 * GIB), networks: ['10.1.0.1/24'] },
    host2: { ...memory(4 * GIB), networks: ['10.2.0.1/24'] },
    host3: { ...memory(8 * GIB), networks: ['10.3.0.1/24'] },
  };
  const ask = (prefer: string, ...correspondents: string[]) =>
    outcomes(p(prefer), facts({ hosts, processes: [{ pid: 7, correspondents }] }));
  assert.equal(ask('near-correspondents', '10.1.0.7', '10.1.0.8', '10.2.0.7', '10.9.0.7'), ['move host1']);
  assert.equal(ask('near-correspondents', '10.1.0.7', '10.2.0.7'), ['move host2']);
  assert.equal(ask('near-correspondents', '192.0.2.1'), ['move host3']);
  assert.equal(ask('most-free-memory', '10.1.0.7'), ['move host3']);
  const given = facts({ hosts, processes: [{ pid: 7, correspondents: ['192.0.2.1'] }] });
  const told = { ...given.hosts, host1: { reachable: true, facts: hosts.host1, near: ['192.0.2.0/24'] } };
  assert.equal(outcomes(p('near-correspondents'), { ...given, hosts: told } as Facts), ['move host1']);
});

near.run();

const reading = suite<{ folder: string }>('what a node tells of its terminals and networks');

reading.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-terminals-'));
});
reading.after.each(({ folder }) => rmSync(folder, { recursive: true }));

const TYPIST = `
import os, pty, sys
master, slave = pty.openpty()
os.utime(os.ttyname(slave), (1000, 1000))
print(os.ttyname(slave), flush=True)
for line in sys.stdin:
    os.write(master, bytes([120, 10]))
    os.read(slave, 100)
    print('read', flush=True)
`;

reading('it is when a program last read what somebody typed at a terminal', async () => {
  const child = spawn('python3', ['-c', TYPIST], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const said = async (): Promise<string> => (await lines.next()).value ?? 'nothing more';
  try {
    assert.match(await said(), /^\/dev\/pts\/\d+$/);
    const before = terminalIdleMs(Date.now());
    assert.ok(before !== null && before >= 0, `${before}`);
    child.stdin.write('type\n');
    assert.is(await said(), 'read');
    const after = terminalIdleMs(Date.now());
    assert.ok(after !== null && after < 20_000, `${after}`); // the kernel counts in steps of 8 s
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

reading('what is no terminal does not count', ({ folder }) => {
  assert.is(terminalIdleMs(Date.now(), folder), null);
  mkdirSync(join(folder, 'pts'));
  for (const name of ['tty1', 'pts/3', 'null']) writeFileSync(join(folder, name), '');
  assert.is(terminalIdleMs(Date.now(), folder), null);
});

reading('it tells its addresses with their networks, loopback excepted', async () => {
  const { networks = [] } = await new HostReader(() => false).read([]);
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  for (const { cidr, internal } of own) if (internal) assert.not(networks.includes(cidr ?? ''), cidr ?? '');
  for (const network of networks)
    assert.ok(
      own.some(({ cidr }) => cidr === network),
      network,
    );
});

reading.run();
