import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { type Facts, factsSchema } from '../../cli/policy/facts.js';
import type { Policy } from '../../cli/policy/model.js';
import { simulate } from '../../cli/policy/simulation.js';
import { suite } from '../suite.js';
import { policies } from './policy-fixtures.js';

const test = suite('policies, whatever the facts do');
const HOSTS = ['home', 'host1', 'host2', 'host3'] as const;
const NAMES = ['a1', 'a2', 'b1', 'other'] as const;

const condition = fc.constantFrom(
  '{loadPerCpu: {above: 1}}',
  '{loadPerCpu: {below: 1.5}}',
  '{loadPerCpu: {above: 1}, for: 20s}',
  '{not: {loadPerCpu: {above: 1}}}',
  '{draining: true}',
  '{draining: false}',
  '{owner: {is: present}}',
  '{any: [{host: {name: host1, is: unreachable}}, {availableMemory: {below: 40%}, for: 5s}]}',
);

const policyText = fc
  .record({
    process: fc.constantFrom('a*', 'a1', 'b*'),
    from: fc.constantFrom('home', 'anywhere', 'hosts', '[host1, host2]', '[home, host3]'),
    home: fc.constantFrom('never', 'first', 'only'),
    when: condition,
    until: fc.option(condition),
    prefer: fc.constantFrom('most-free-memory', 'least-load', 'near-correspondents'),
    cooldown: fc.integer({ min: 1, max: 120 }),
    atOnce: fc.integer({ min: 1, max: 3 }),
    moves: fc.integer({ min: 1, max: 5 }),
    per: fc.integer({ min: 1, max: 300 }),
  })
  .map(
    ({ process, from, home, when, until, prefer, cooldown, atOnce, moves, per }) =>
      `processes: [{name: '${process}'}], from: ${from}, when: ${when}, ${until === null ? '' : `until: ${until}, `}` +
      `where: {prefer: ${prefer}, home: ${from === 'home' ? 'never' : home}}, limits: {cooldown: ${cooldown}s, atOnce: ${atOnce}, moves: ${moves}, per: ${per}s}`,
  );

const fileText = fc
  .array(policyText, { minLength: 1, maxLength: 3 })
  .map((texts) => `policies:\n${texts.map((text, index) => `  - {name: p${index}, ${text}}`).join('\n')}`);

const host = fc.record({
  reachable: fc.constantFrom(true, true, true, false),
  facts: fc.record({
    cpus: fc.constant(1),
    load1: fc.double({ min: 0, max: 3, noNaN: true }),
    memory: fc.record({ totalBytes: fc.constant(100), availableBytes: fc.integer({ min: 0, max: 100 }) }),
    draining: fc.constantFrom(false, false, false, true),
    terminalIdleMs: fc.constantFrom(null, 1000, 1_000_000),
  }),
});

const places = fc.tuple(...NAMES.map(() => fc.constantFrom('home', ...HOSTS)));

const steps = fc.array(
  fc.record({
    afterMs: fc.integer({ min: 1, max: 60_000 }),
    hosts: fc.tuple(host, host, host, host),
    moving: fc.nat(9),
  }),
  { minLength: 2, maxLength: 40 },
);

const records = fc.tuple(steps, places).map(([list, where]) => {
  let at = 0;
  return list.map(({ afterMs, hosts, moving }): Facts => {
    at += afterMs;
    return factsSchema.parse({
      at,
      home: 'home',
      hosts: Object.fromEntries(
        // a node always knows of itself
        HOSTS.map((name, index) => [name, name === 'home' ? { ...hosts[index], reachable: true } : hosts[index]]),
      ),
      processes: NAMES.map((name, index) => ({
        pid: index + 1,
        name,
        location: where[index],
        moving: moving === index,
      })),
    });
  });
});

interface Seen {
  readonly at: number;
  readonly policy: Policy;
  readonly pid: number;
  readonly name: string;
  readonly from: string;
  readonly to: string;
}

function movesOf(text: string, given: readonly Facts[], moveMs: number): { moves: Seen[]; all: readonly Policy[] } {
  const all = policies(text);
  const moves = simulate(all, given, moveMs).timeline.flatMap(({ at, policy, pid, name, from, to }) => {
    const by = all.find((one) => one.name === policy);
    return to === undefined || by === undefined ? [] : [{ at, policy: by, pid, name, from, to }];
  });
  return { moves, all };
}

function check(property: (moves: readonly Seen[], moveMs: number, records: readonly Facts[]) => void): void {
  let seen = 0;
  fc.assert(
    fc.property(fileText, records, fc.integer({ min: 0, max: 90_000 }), (text, given, moveMs) => {
      const { moves } = movesOf(text, given, moveMs);
      seen += moves.length;
      property(moves, moveMs, given);
    }),
    { numRuns: 150 },
  );
  assert.ok(seen > 20, `only ${seen} moves in all runs: the property was hardly tried`);
}

test('no process moves twice within its cooldown', () => {
  check((moves, moveMs) => {
    moves.forEach((move, index) => {
      const before = moves.slice(0, index).findLast(({ pid }) => pid === move.pid);
      if (before === undefined) return;
      const rested = move.at - (before.at + moveMs);
      assert.ok(rested >= move.policy.limits.cooldownMs, `${move.pid} moved again after ${rested} ms`);
      assert.ok(rested >= before.policy.limits.cooldownMs, `${move.pid} moved again after ${rested} ms`);
    });
  });
});

test('no policy begins more moves in a time than it may', () => {
  check((moves) => {
    for (const { at, policy } of moves) {
      const { perMs, moves: most } = policy.limits;
      const recent = moves.filter((other) => other.policy === policy && other.at <= at && other.at > at - perMs);
      assert.ok(recent.length <= most, `${recent.length} moves in ${perMs} ms, at most ${most}`);
    }
  });
});

test('no more of its processes are on their way at the same time than a policy allows', () => {
  check((moves, moveMs) => {
    for (const { at, policy } of moves) {
      const underway = moves.filter(
        (other) => other.policy === policy && other.at <= at && (other.at === at || other.at + moveMs > at),
      );
      assert.ok(underway.length <= policy.limits.atOnce, `${underway.length} at once, at most ${policy.limits.atOnce}`);
    }
  });
});

test('nothing moves that no policy chooses, and each only to a node that answers and is not being drained', () => {
  check((moves, _moveMs, given) => {
    for (const { at, name, from, to } of moves) {
      assert.is.not(name, 'other');
      assert.is.not(from, to);
      const state = given.find((record) => record.at === at)?.hosts[to];
      assert.not(state?.facts?.draining);
      if (to !== 'home') assert.ok(state?.reachable);
    }
  });
});

test('while the facts stay as they are, no process comes to a node twice, whatever the policies and wherever it is', () => {
  let seen = 0;
  fc.assert(
    fc.property(fileText, records, (text, given) => {
      const [first] = given;
      if (first === undefined) return;
      const still = Array.from({ length: 60 }, (_unused, index) => ({ ...first, at: index * 60_000 }));
      const { moves } = movesOf(text, still, 0);
      first.processes.forEach(({ pid, location }) => {
        const way = [location, ...moves.filter((move) => move.pid === pid).map(({ to }) => to)];
        seen += way.length - 1;
        assert.is(new Set(way).size, way.length, `${pid}: ${way.join(' -> ')}`);
      });
    }),
    { numRuns: 300 },
  );
  assert.ok(seen > 20, `only ${seen} moves in all runs: the property was hardly tried`);
});

test.run();
