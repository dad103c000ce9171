// limit: 120 s

import * as assert from 'uvu/assert';
import { stallWithin } from '../../cli/demo/analysis.js';
import { PHASES } from '../../cli/migration/records.js';
import { suite } from '../suite.js';
import { placesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { faultsOf, Load, type LoadResult, NO_FAULTS } from './load.js';
import { type AttemptsResult, failuresOf, NewConnections } from './new-connections.js';
import { namespaceDifferences, portraitOf } from './portrait.js';
import { REDIS_PORT, type Redis, startRedis } from './redis.js';
import { Scenario, type Summary } from './scenario.js';
import { settledTraces } from './traces.js';

const CONNECTIONS = 50;
/** Linux retransmits after 200 ms at the earliest (TCP_RTO_MIN): who waits less has waited for no timer. */
const RETRANSMISSION_MS = 200;
const SERVER = 'redis-server';

const test = suite('Redis with 50 connections moves home -> host1 -> host2 -> home');
let scenario: Scenario;
let redis: Redis;
let load: Load;
let fresh: NewConnections;
let portrait: readonly string[];
const moves: Summary[] = [];
let result: LoadResult;
let attempts: AttemptsResult;

test.before(async () => {
  scenario = await Scenario.start('migration');
  const { home, client } = scenario;
  redis = await startRedis(home);
  load = await Load.start(client, home.address, { connections: CONNECTIONS });
  fresh = await NewConnections.start(client, home.address, REDIS_PORT);
  portrait = await portraitOf(home, redis.pid);
});
test.after(downAll);

/** What every node says about where the process is, in one value. */
async function saidPlaces(): Promise<Record<string, unknown>> {
  const said: Record<string, unknown> = {};
  for (const node of ['home', 'host1', 'host2']) {
    const [rows, status] = await Promise.all([scenario.ps(node), scenario.status(node)]);
    said[node] = {
      ps: rows.map(({ pid, comm, home, location, role, ports }) => ({ pid, comm, home, location, role, ports })),
      departed: status.departed,
      residents: status.residents,
      bindings: status.bindings,
      moving: status.moving,
    };
  }
  said.hosts = (await scenario.hosts('home')).map(({ name, reachable, departedHere }) => ({
    name,
    reachable,
    departedHere,
  }));
  return said;
}

/** What they must say. `at` undefined: the process is an ordinary one at home. */
function truth(at: string | undefined): Record<string, unknown> {
  const row = (role: string) => ({
    pid: redis.pid,
    comm: SERVER,
    home: 'home',
    location: at,
    role,
    ports: [`tcp ${REDIS_PORT}`],
  });
  const quiet = { ps: [], departed: 0, residents: 0, bindings: 0, moving: [] };
  const hosts = Object.fromEntries(
    ['host1', 'host2'].map((name) => [
      name,
      name === at ? { ...quiet, ps: [row('resident')], residents: 1, bindings: 1 } : quiet,
    ]),
  );
  return {
    home: at === undefined ? quiet : { ...quiet, ps: [row('departed')], departed: 1, bindings: 1 },
    ...hosts,
    hosts: ['home', 'host1', 'host2'].map((name) => ({ name, reachable: true, departedHere: name === at ? 1 : 0 })),
  };
}

for (const { from, to } of [
  { from: 'home', to: 'host1' },
  { from: 'host1', to: 'host2' },
]) {
  test(`${from} -> ${to}: it lives there and nowhere else, and every node says so`, async () => {
    await load.nextSecond();
    const summary = await scenario.migrate(redis.pid, to);
    moves.push(summary);
    assert.equal([summary.from, summary.to], [from, to]);
    assert.equal(placesOf(scenario.lab, SERVER), [`${to} (in a pod)`]);
    assert.equal(await saidPlaces(), truth(to));
    const before = await load.nextSecond();
    const after = await load.nextSecond();
    assert.ok(after.replies > before.replies + 100, `${after.replies - before.replies} replies in a second`);
  });
}

test('and the host that it left keeps nothing of it', async () => {
  const { host1 = [] } = scenario.untouched;
  assert.equal(await settledTraces(scenario.lab, { host1 }), { host1 });
});

test('host2 -> home: it is an ordinary process of its node again, the same as before', async () => {
  const summary = await scenario.recall(redis.pid);
  moves.push(summary);
  assert.equal([summary.from, summary.to], ['host2', 'home']);
  assert.equal(placesOf(scenario.lab, SERVER), ['home']);
  assert.equal(await saidPlaces(), truth(undefined));
  assert.equal(await namespaceDifferences(scenario.home, redis.pid), []);
  assert.equal(await portraitOf(scenario.home, redis.pid), portrait);
  await load.nextSecond();
});

test('and nothing is left over on any node', async () => {
  assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
});

test('no reply was lost, repeated or out of order, and no connection was reset', async () => {
  [result, attempts] = await Promise.all([load.stop(), fresh.stop()]);
  assert.equal(faultsOf(result), NO_FAULTS);
  assert.is(result.connections, CONNECTIONS);
});

test('each summary says what happened', () => {
  assert.is(moves.length, 3);
  for (const move of moves) {
    const words = JSON.stringify(move);
    assert.is(move.pid, redis.pid);
    assert.is(move.outcome, 'committed');
    assert.equal(Object.keys(move.phases), [...PHASES], words);
    assert.ok(
      Object.values(move.phases).every((ms) => ms >= 0),
      words,
    );
    assert.ok(move.startedAt < move.frozenAt && move.frozenAt < move.resumedAt, words);
    assert.ok(Math.abs(move.resumedAt - move.frozenAt - move.freezeMs) < 1, words);
    assert.ok(move.stallMs !== undefined && move.stallMs > move.freezeMs && move.stallMs < move.totalMs, words);
    assert.ok(move.totalMs > move.freezeMs && move.totalMs < 10_000, words);
    assert.ok(move.connections >= CONNECTIONS && move.connections < CONNECTIONS + 30, words);
    assert.ok(move.bytesMoved > 1_000_000 && move.bytesMoved < 100_000_000, words);
    assert.ok(move.parkedPackets > 0, words); // those of the others came before it stood still, and travelled with it
    assert.is(move.replayedPackets, move.parkedPackets, words);
    assert.is(move.droppedPackets, 0, words);
  }
});

test('the client waits for the freeze, and for no retransmission timer after it', () => {
  for (const { from, to, freezeMs, frozenAt, resumedAt } of moves) {
    const stall = stallWithin(result.samples, { from: frozenAt, to: resumedAt });
    console.log(`  ${from} -> ${to}: frozen ${freezeMs.toFixed(1)} ms, client stalled ${stall.toFixed(1)} ms`);
    assert.ok(stall < freezeMs + RETRANSMISSION_MS, `${from} -> ${to}: stall ${stall}, freeze ${freezeMs}`);
  }
});

test('connections that a client opened meanwhile all work, those begun in a freeze too', () => {
  assert.equal(failuresOf(attempts), []);
  moves.forEach(({ from, to, frozenAt, resumedAt }, index) => {
    const begun = attempts.attempts.filter(({ startedAt }) => startedAt > frozenAt && startedAt < resumedAt);
    assert.ok(begun.length >= 2, `${from} -> ${to}: only ${begun.length} connections were begun in the freeze`);
    const next = moves[index + 1]?.startedAt ?? result.endedAt;
    const after = attempts.attempts.filter(({ startedAt }) => startedAt > resumedAt && startedAt < next);
    assert.ok(after.length >= 20, `at ${to}: only ${after.length} new connections`);
  });
});

test.run();
