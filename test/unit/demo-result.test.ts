import { stripVTControlCharacters } from 'node:util';
import * as assert from 'uvu/assert';
import { type DemoMigration, type DemoResult, violationsOf } from '../../cli/demo/result.js';
import { migrationTable, phaseTable } from '../../cli/demo/table.js';
import { suite } from '../suite.js';

const test = suite('demo: result');

const MOVE: DemoMigration = {
  from: 'home',
  to: 'host1',
  outcome: 'committed',
  freezeMs: 83.14,
  stallMs: 88.5,
  phases: { prepare: 40, dump: 60.25, restore: 22.9 },
  connections: 51,
  parkedPackets: 100,
  replayedPackets: 100,
  droppedPackets: 0,
  totalMs: 123.2,
  bytesMoved: 9 << 20,
  startedAt: 0,
  frozenAt: 40,
  resumedAt: 123,
};

const GOOD: Omit<DemoResult, 'violations'> = {
  migrations: [MOVE, { ...MOVE, from: 'host1', to: 'home' }],
  replies: 1000,
  lostReplies: 0,
  resets: 0,
  repeatedReplies: 0,
  outOfOrderReplies: 0,
  wrongReplies: 0,
  connections: 50,
  medianMs: 0.5,
  redis: { pid: 42, residentBytes: 17 << 20 },
  noise: { bursts: 10, requests: 8000, failures: 0, failureLog: [] },
};

test('a faultless run breaks no promise', () => {
  assert.equal(violationsOf(GOOD, []), []);
});

test('each single fault breaks one, and is named', () => {
  const broken: readonly [Partial<DemoResult>, RegExp][] = [
    [{ lostReplies: 1 }, /^1 replies were lost$/],
    [{ repeatedReplies: 1 }, /^1 replies came twice$/],
    [{ outOfOrderReplies: 2 }, /^2 replies came out of order$/],
    [{ wrongReplies: 1 }, /^1 replies were wrong$/],
    [{ resets: 3 }, /^3 connections were reset \(ECONNRESET\)$/],
    [
      { noise: { ...GOOD.noise, failures: 1, failureLog: ['timeout'] } },
      /^1 runs of redis-benchmark failed \(timeout\)$/,
    ],
    [{ migrations: [{ ...MOVE, outcome: 'rolled-back' }] }, /^the move home → host1 was rolled-back$/],
  ];
  for (const [change, words] of broken) {
    const violations = violationsOf({ ...GOOD, ...change }, ['ECONNRESET']);
    assert.is(violations.length, 1, JSON.stringify(change));
    assert.match(violations[0] ?? '', words);
  }
});

test('the tables hold every figure and fit 100 columns', () => {
  const plain = (text: string): string => text;
  const paint = { head: plain, good: plain, bad: (text: string) => `!${text}!`, frozen: plain };
  const moves = [MOVE, { ...MOVE, from: 'host1', to: 'host2', droppedPackets: 7 }, MOVE];
  const table = stripVTControlCharacters(migrationTable(moves, paint));
  for (const words of ['83 ms', '89 ms', '51', '9.0 MiB', '!7!', 'committed']) assert.match(table, words);
  const phases = stripVTControlCharacters(phaseTable(moves, paint));
  for (const words of ['dump *', 'restore *', 'prepare ', '60.3 ms', '123.2 ms']) assert.match(phases, words);
  assert.not.match(phases, /prepare \*/);
  for (const line of `${table}\n${phases}`.split('\n')) assert.ok([...line].length <= 100, line);
});

test.run();
