import * as assert from 'uvu/assert';
import { evaluate, type Finding, type Holding, reasonText } from '../../cli/policy/conditions.js';
import { decide, type Verdict } from '../../cli/policy/engine.js';
import { type Facts, MAX_AGE_MS, queryKey } from '../../cli/policy/facts.js';
import { Chronicle, type Move, NO_HISTORY } from '../../cli/policy/history.js';
import { suite } from '../suite.js';
import { facts, GIB, memory, policies, policy } from './policy-fixtures.js';

const NOTHING: Holding = new Map();
const MINUTE = 60_000;

/** What a condition is, given as YAML. */
function found(condition: string, given: Facts, before: Holding = NOTHING): Finding {
  const { when } = policy(`when: ${condition}`);
  return evaluate(when, { facts: given, policy: 'p', node: 'home', before, after: new Map() });
}

function truth(condition: string, given: Facts): string {
  return found(condition, given).truth;
}

function only(verdicts: readonly Verdict[]): Verdict {
  assert.is(verdicts.length, 1);
  const [verdict] = verdicts;
  if (verdict === undefined) throw new Error('no verdict');
  return verdict;
}

function outcome(verdict: Verdict): string {
  if (verdict.outcome === 'wait') return `wait: ${verdict.code}`;
  return verdict.outcome === 'stay' ? 'stay' : `${verdict.outcome} ${verdict.to}`;
}

function moved(pid: number, at: number, more: Partial<Move> = {}): Move {
  return { pid, policy: 'p', direction: 'away', from: 'home', to: 'host1', at, endedAt: at, outcome: 'moved', ...more };
}

const conditions = suite('policy conditions');

const averages = { avg10: 0, avg60: 0 };
const calm = { some: averages, full: averages };
const pressed = { cpu: calm, memory: { some: { avg10: 30, avg60: 5 }, full: { avg10: 10, avg60: 1 } }, io: calm };

for (const [condition, given, expected] of [
  ['{pressure: {resource: memory, above: 20}}', facts({ hosts: { home: { pressure: pressed } } }), 'yes'],
  ['{pressure: {resource: memory, share: full, above: 20}}', facts({ hosts: { home: { pressure: pressed } } }), 'no'],
  [
    '{pressure: {resource: memory, average: avg60, below: 6}}',
    facts({ hosts: { home: { pressure: pressed } } }),
    'yes',
  ],
  ['{pressure: {resource: cpu, above: 0}}', facts({ hosts: { home: { pressure: pressed } } }), 'no'],
  ['{pressure: {resource: io, above: 0}}', facts(), 'unknown'],
  ['{loadPerCpu: {above: 1.5}}', facts({ hosts: { home: { cpus: 2, load1: 3.2 } } }), 'yes'],
  ['{loadPerCpu: {above: 1.5}}', facts({ hosts: { home: { cpus: 4, load1: 3.2 } } }), 'no'],
  ['{loadPerCpu: {above: 1.5}}', facts({ hosts: { home: { load1: 3.2 } } }), 'unknown'],
  ['{availableMemory: {below: 1GiB}}', facts({ hosts: { home: memory(GIB - 1) } }), 'yes'],
  ['{availableMemory: {below: 1GiB}}', facts({ hosts: { home: memory(GIB) } }), 'no'],
  ['{availableMemory: {above: 50%}}', facts({ hosts: { home: memory(9 * GIB) } }), 'yes'],
  [
    '{diskFree: {path: /var, below: 10%}}',
    facts({ hosts: { home: { disks: { '/var': { totalBytes: 100, freeBytes: 9 } } } } }),
    'yes',
  ],
  [
    '{diskFree: {path: /var, below: 10%}}',
    facts({ hosts: { home: { disks: { '/var': { totalBytes: 100, freeBytes: 10 } } } } }),
    'no',
  ],
  ['{diskFree: {path: /opt, below: 10%}}', facts({ hosts: { home: { disks: {} } } }), 'unknown'],
  ['{draining: true}', facts({ hosts: { home: { draining: true } } }), 'yes'],
  ['{draining: false}', facts({ hosts: { home: { draining: true } } }), 'no'],
  ['{owner: {is: present, within: 1m}}', facts({ hosts: { home: { terminalIdleMs: 59_999 } } }), 'yes'],
  ['{owner: {is: present, within: 1m}}', facts({ hosts: { home: { terminalIdleMs: 60_000 } } }), 'no'],
  ['{owner: {is: absent, within: 1m}}', facts({ hosts: { home: { terminalIdleMs: 60_000 } } }), 'yes'],
  ['{owner: {is: present}}', facts({ hosts: { home: { terminalIdleMs: null } } }), 'no'],
  ['{owner: {is: absent}}', facts({ hosts: { home: { terminalIdleMs: null } } }), 'yes'],
  ['{owner: {is: present}}', facts(), 'unknown'],
  ['{owner: {is: absent}}', facts(), 'unknown'],
  ['{host: {name: host1, is: reachable}}', facts({ hosts: { host1: {} } }), 'yes'],
  ['{host: {name: host1, is: unreachable}}', facts({ hosts: { host1: 'down' } }), 'yes'],
  ['{host: {name: host1, is: unreachable}}', facts(), 'unknown'],
  ['{not: {loadPerCpu: {above: 1}}}', facts({ hosts: { home: { cpus: 1, load1: 0 } } }), 'yes'],
  ['{not: {loadPerCpu: {above: 1}}}', facts(), 'unknown'],
  ['{all: [{draining: false}, {loadPerCpu: {above: 1}}]}', facts(), 'unknown'],
  ['{all: [{draining: true}, {loadPerCpu: {above: 1}}]}', facts(), 'no'],
  ['{any: [{draining: false}, {loadPerCpu: {above: 1}}]}', facts(), 'yes'],
  ['{any: [{draining: true}, {loadPerCpu: {above: 1}}]}', facts(), 'unknown'],
] as const) {
  conditions(`${condition} is ${expected}: ${JSON.stringify(given.hosts)}`, () => {
    assert.is(truth(condition, given), expected);
  });
}

conditions(
  'a query holds when any value of its result does; without result it does not, with an error nobody knows',
  () => {
    const query = { url: 'http://p:9090', query: 'up' };
    const above = '{promql: {url: "http://p:9090", query: up, above: 3}}';
    const ask = (answer: Facts['queries'][string]) => truth(above, facts({ queries: { [queryKey(query)]: answer } }));
    assert.is(ask({ values: [1, 4] }), 'yes');
    assert.is(ask({ values: [1, 3] }), 'no');
    assert.is(ask({ values: [] }), 'no');
    assert.is(ask({ error: 'it did not answer' }), 'unknown');
    assert.is(truth(above, facts()), 'unknown');
  },
);

conditions('a window of time is one of its zone, and may go over midnight', () => {
  const night = '{time: {days: [mon, fri], from: 22:00, to: 06:00, zone: Europe/Berlin}}';
  const at = (iso: string) => truth(night, facts({ at: Date.parse(iso) }));
  // 2026-11-23 is a Monday; Berlin is one hour ahead of UTC in winter, two in summer
  assert.is(at('2026-11-23T20:59:00Z'), 'no');
  assert.is(at('2026-11-23T21:00:00Z'), 'yes');
  assert.is(at('2026-11-24T04:59:59Z'), 'yes', 'the window of Monday ends on Tuesday');
  assert.is(at('2026-11-24T05:00:00Z'), 'no');
  assert.is(at('2026-11-24T22:00:00Z'), 'no', 'Tuesday has none');
  assert.is(at('2026-07-24T20:00:00Z'), 'yes', 'a Friday in summer');
  assert.is(truth('{time: {from: 09:00, to: 17:00}}', facts({ at: Date.parse('2026-11-22T17:00:00Z') })), 'no');
  assert.is(truth('{time: {from: 09:00, to: 17:00}}', facts({ at: Date.parse('2026-11-22T16:59:00Z') })), 'yes');
});

conditions('with `for` it holds once it has held without interruption for so long', () => {
  const [p] = policies('policies: [{name: p, processes: [{name: a}], when: {draining: true, for: 30s}}]');
  let holding = NOTHING;
  const truths = [
    [0, true],
    [29_999, true],
    [30_000, true],
    [31_000, false],
    [32_000, true],
    [61_999, true],
    [62_000, true],
  ].map(([at, draining]) => {
    const given = facts({ at: Number(at), hosts: { home: { draining: draining === true } } });
    const decisions = decide(p === undefined ? [] : [p], { ...given, processes: [] }, NO_HISTORY, holding);
    const finding = found('{draining: true, for: 30s}', given, holding);
    holding = decisions.holding;
    return finding.truth;
  });
  assert.equal(truths, ['no', 'no', 'yes', 'no', 'no', 'no', 'yes']);
});

conditions('what a host said long ago is not known any more', () => {
  const given = facts({ at: MAX_AGE_MS + 1, hosts: { home: { draining: true } } });
  const old = { ...given, hosts: { home: { reachable: true, readAt: 0, facts: given.hosts.home?.facts } } };
  assert.is(truth('{draining: true}', old), 'unknown');
});

conditions('the reason names what decided, with its value', () => {
  const given = facts({ hosts: { home: { ...memory(GIB), cpus: 2, load1: 1 } } });
  const finding = found('{any: [{availableMemory: {below: 2GiB}}, {loadPerCpu: {above: 2}}]}', given);
  assert.is(reasonText(finding), 'available memory of home below 2 GiB: 1 GiB (6.3%)');
});

conditions.run();

const engine = suite('policy engine');
const DRAINED = { hosts: { home: { draining: true }, host1: memory(4 * GIB), host2: memory(8 * GIB) } };

engine('moves what matches when the condition holds, to the host with the most free memory', () => {
  const decisions = decide(
    [policy('when: {draining: true}')],
    facts({ ...DRAINED, processes: [{ pid: 7 }] }),
    NO_HISTORY,
    NOTHING,
  );
  const verdict = only(decisions.verdicts);
  assert.is(outcome(verdict), 'move host2');
  assert.is(verdict.why, 'home is being drained: draining');
});

engine('says nothing about processes that no policy chooses', () => {
  const given = facts({ ...DRAINED, processes: [{ pid: 7, name: 'b' }] });
  assert.equal(decide([policy('when: {draining: true}')], given, NO_HISTORY, NOTHING).verdicts, []);
});

engine('chooses by name, command line, user, cgroup, unit and port, all of them', () => {
  const process = {
    pid: 7,
    name: 'redis-server',
    commandLine: 'redis-server 0.0.0.0:6379',
    user: 'redis',
    uid: 112,
    cgroup: '/system.slice/redis.service/main',
    ports: [6379],
  };
  const chooses = (selector: string): boolean => {
    const [p] = policies(`policies: [{name: p, processes: [${selector}], when: {draining: true}}]`);
    return (
      decide(p === undefined ? [] : [p], facts({ processes: [process] }), NO_HISTORY, NOTHING).verdicts.length === 1
    );
  };
  for (const part of [
    'name: redis-*',
    'commandLine: "*:6379"',
    'user: redis',
    'user: "112"',
    'cgroup: /system.slice/*',
    'unit: redis.service',
    'port: 6379',
  ]) {
    assert.ok(chooses(`{${part}}`), part);
    assert.not(chooses(`{${part}, name: other}`.replace('name: redis-*, ', '')), part);
  }
  for (const part of ['name: redis', 'commandLine: redis-server', 'user: root', 'unit: ssh.service', 'port: 22']) {
    assert.not(chooses(`{${part}}`), part);
  }
});

engine('the unit is the one that the service manager made, not one that somebody has put below his own', () => {
  const own = '/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service';
  const chosenBy = (unit: string) => {
    const p = policies(`policies: [{name: p, processes: [{unit: ${unit}}], when: {draining: true}}]`);
    return decide(p, facts({ processes: [{ pid: 7, cgroup: own }] }), NO_HISTORY, NOTHING).verdicts.length;
  };
  assert.equal([chosenBy('redis.service'), chosenBy('user@1000.service')], [0, 1]);
});

engine('moves a tree by its root', () => {
  const given = facts({
    ...DRAINED,
    processes: [{ pid: 7 }, { pid: 8, ancestors: [7, 1] }, { pid: 9, ancestors: [8, 7, 1] }],
  });
  const { verdicts } = decide([policy('when: {draining: true}')], given, NO_HISTORY, NOTHING);
  assert.equal(
    verdicts.map(({ process }) => process.pid),
    [7],
  );
});

engine('does not move a child while its parent is about to leave', () => {
  const text = `policies:
    - {name: parents, processes: [{name: a}], when: {draining: true}}
    - {name: children, processes: [{name: b}], when: {draining: true}}`;
  const given = facts({ ...DRAINED, processes: [{ pid: 7 }, { pid: 8, name: 'b', ancestors: [7, 1] }] });
  assert.equal(decide(policies(text), given, NO_HISTORY, NOTHING).verdicts.map(outcome), [
    'move host2',
    'wait: other-policy',
  ]);
});

for (const [where, expected] of [
  ['{among: [host1]}', 'move host1'],
  ["{not: ['host*']}", 'wait: no-host'],
  ['{prefer: least-load}', 'move host1'],
  ['{minAvailableMemory: 5GiB}', 'move host2'],
  ['{minAvailableMemory: 7.5GiB}', 'wait: no-host'],
  ['{maxLoadPerCpu: 0.5}', 'move host1'],
  ["{apartFrom: ['other*']}", 'move host1'],
] as const) {
  engine(`where ${where}: ${expected}`, () => {
    const hosts = {
      home: { draining: true },
      host1: { ...memory(4 * GIB), cpus: 4, load1: 1 },
      host2: { ...memory(8 * GIB), cpus: 1, load1: 1 },
      host3: { ...memory(15 * GIB), draining: true },
      host4: 'down' as const,
    };
    const other = { pid: 9, name: 'other-1', location: 'host2' };
    const given = facts({ hosts, processes: [{ pid: 7, residentBytes: GIB }, other] });
    const { verdicts } = decide([policy('when: {draining: true}', `where: ${where}`)], given, NO_HISTORY, NOTHING);
    assert.is(outcome(only(verdicts)), expected);
  });
}

engine('counts what it sends to a host against its memory, and against those that want to be apart', () => {
  const hosts = { home: { draining: true }, host1: memory(3 * GIB), host2: memory(2.5 * GIB) };
  const processes = [
    { pid: 7, residentBytes: 2 * GIB },
    { pid: 8, residentBytes: 2 * GIB },
    { pid: 9, residentBytes: 2 * GIB },
  ];
  const many = policy('when: {draining: true}', 'limits: {atOnce: 9}');
  assert.equal(decide([many], facts({ hosts, processes }), NO_HISTORY, NOTHING).verdicts.map(outcome), [
    'move host1',
    'move host2',
    'wait: no-host',
  ]);
  const apart = policy('when: {draining: true}', "where: {apartFrom: ['a']}", 'limits: {atOnce: 9}');
  const small = processes.map(({ pid }) => ({ pid }));
  assert.equal(decide([apart], facts({ hosts, processes: small }), NO_HISTORY, NOTHING).verdicts.map(outcome), [
    'move host1',
    'move host2',
    'wait: no-host',
  ]);
});

engine('sends home what it has sent away, when `until` holds and it would not leave again at once', () => {
  const p = policy('when: {loadPerCpu: {above: 2}}', 'until: {loadPerCpu: {below: 1}, for: 1m}');
  const history = { moves: [moved(7, 0)], senders: new Map([[7, 'p']]) };
  const away = (
    load1: number,
    at: number,
    holding: Holding,
    senders: ReadonlyMap<number, string> = history.senders,
  ) => {
    const given = facts({
      at,
      hosts: { home: { cpus: 1, load1 }, host1: {} },
      processes: [{ pid: 7, location: 'host1' }],
    });
    return decide([p], given, { ...history, senders }, holding);
  };
  const first = away(0.5, 20 * MINUTE, NOTHING);
  assert.is(outcome(only(first.verdicts)), 'stay');
  assert.match(only(first.verdicts).why, /`until` does not hold: load per CPU of home below 1: 0\.5 \(for 0ms of 1m\)/);
  assert.is(outcome(only(away(0.5, 21 * MINUTE, first.holding).verdicts)), 'return home');
  const by = away(0.5, 21 * MINUTE, first.holding, new Map([[7, 'another']]));
  assert.is(outcome(only(by.verdicts)), 'stay');
  const both = policy('when: {loadPerCpu: {below: 9}}', 'until: {loadPerCpu: {below: 1}}');
  const given = facts({
    at: 20 * MINUTE,
    hosts: { home: { cpus: 1, load1: 0 } },
    processes: [{ pid: 7, location: 'host1' }],
  });
  assert.is(outcome(only(decide([both], given, history, NOTHING).verdicts)), 'wait: would-leave-again');
});

engine('leaves a process alone for its cooldown, whoever moved it, the longest of those that policies ask for', () => {
  const text = `policies:
    - {name: p, processes: [{name: a}], when: {draining: true}, limits: {cooldown: 1m}}
    - {name: q, processes: [{name: a}], when: {draining: true}, limits: {cooldown: 5m}}`;
  const at = (time: number) => {
    const given = facts({ ...DRAINED, at: time, processes: [{ pid: 7 }] });
    const history = { moves: [moved(7, 0, { policy: undefined })], senders: new Map() };
    return decide(policies(text), given, history, NOTHING).verdicts.map(outcome);
  };
  assert.equal(at(5 * MINUTE - 1), ['wait: cooldown', 'wait: cooldown']);
  assert.equal(at(5 * MINUTE), ['move host2', 'wait: other-policy']);
});

engine('keeps to at most n at once and n in a time', () => {
  const processes = [{ pid: 7 }, { pid: 8 }, { pid: 9 }];
  const ask = (limits: string, moves: readonly Move[]) =>
    decide(
      [policy('when: {draining: true}', `limits: ${limits}`)],
      facts({ ...DRAINED, at: MINUTE, processes }),
      { moves, senders: new Map() },
      NOTHING,
    ).verdicts.map(outcome);
  assert.equal(ask('{atOnce: 2}', []), ['move host2', 'move host2', 'wait: at-once']);
  assert.equal(ask('{atOnce: 2}', [moved(99, 0, { outcome: 'running' })]), [
    'move host2',
    'wait: at-once',
    'wait: at-once',
  ]);
  assert.equal(ask('{atOnce: 9, moves: 2, per: 2m}', [moved(99, 1)]), ['move host2', 'wait: moves', 'wait: moves']);
  assert.equal(ask('{atOnce: 9, moves: 2, per: 30s}', [moved(99, 1)]), ['move host2', 'move host2', 'wait: moves']);
});

engine('waits longer after each failure, and not after a success', () => {
  const p = policy('when: {draining: true}', 'limits: {cooldown: 1s}');
  const failed = (at: number) => moved(7, at, { outcome: 'failed', error: 'no room' });
  const ask = (at: number, moves: readonly Move[]) =>
    only(
      decide([p], facts({ ...DRAINED, at, processes: [{ pid: 7 }] }), { moves, senders: new Map() }, NOTHING).verdicts,
    );
  assert.is(outcome(ask(29_999, [failed(0)])), 'wait: back-off');
  assert.match(ask(29_999, [failed(0)]).why, /after: no room$/);
  assert.is(outcome(ask(30_000, [failed(0)])), 'move host2');
  assert.is(outcome(ask(89_999, [failed(0), failed(30_000)])), 'wait: back-off');
  assert.is(outcome(ask(90_000, [failed(0), failed(30_000)])), 'move host2');
  assert.is(outcome(ask(90_000, [failed(0), moved(7, 30_000)])), 'move host2');
});

engine('moves on from a host only when the policy says `anywhere`, by what that host says', () => {
  const hosts = { home: {}, host1: { draining: true }, host2: {} };
  const given = facts({ hosts, processes: [{ pid: 7, location: 'host1' }] });
  const ask = (from: string) =>
    outcome(only(decide([policy(`from: ${from}`, 'when: {draining: true}')], given, NO_HISTORY, NOTHING).verdicts));
  assert.is(ask('home'), 'stay');
  assert.is(ask('anywhere'), 'move host2');
});

engine('brings nothing home to a node that is being drained', () => {
  const p = policy('when: {loadPerCpu: {above: 2}}', 'until: {not: {loadPerCpu: {above: 1}}}');
  const hosts = { home: { cpus: 1, load1: 0, draining: true }, host1: {} };
  const given = facts({ at: 20 * MINUTE, hosts, processes: [{ pid: 7, location: 'host1' }] });
  const history = { moves: [moved(7, 0)], senders: new Map([[7, 'p']]) };
  assert.is(outcome(only(decide([p], given, history, NOTHING).verdicts)), 'wait: home-draining');
});

engine('a chronicle knows which policy sent a process away, until it is back or somebody sends it by hand', () => {
  const chronicle = new Chronicle();
  const senders = () => [...chronicle.senders];
  const begin = { pid: 7, policy: 'p', from: 'home', to: 'host1', at: 1 };
  chronicle.begin({ ...begin, direction: 'away' });
  assert.equal(senders(), []);
  chronicle.end(7, 2);
  assert.equal(senders(), [[7, 'p']]);
  chronicle.begin({ ...begin, direction: 'back', at: 3 });
  chronicle.end(7, 4, 'it failed');
  assert.equal(senders(), [[7, 'p']]);
  chronicle.add(moved(7, 5, { policy: undefined, direction: 'onward' }));
  assert.equal(senders(), [[7, 'p']]);
  chronicle.begin({ ...begin, direction: 'back', at: 6 });
  chronicle.end(7, 7);
  assert.equal(senders(), []);
  chronicle.add(moved(7, 8, { policy: undefined }));
  assert.equal(senders(), []);
  assert.equal([...new Chronicle(chronicle.moves).senders], []);
});

engine.run();
