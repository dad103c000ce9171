/** What the benchmark of migrations says of what it measured. */

import * as assert from 'uvu/assert';
import { type Case, possible } from '../bench/migration/cases.js';
import { goals, jsonLine, type Measured, verdictOf } from '../bench/migration/result.js';
import { suite } from '../suite.js';

const test = suite('bench:migration result');

const idle: Case = { memoryMB: 500, writerMBps: 0, connections: 1, runs: 1, byHand: true };
const sample = { freezeMs: 90, stallMs: 97.25, totalMs: 400, bytes: 7, cpuMs: 5, phases: {} };

function measured(what: Case, freezes: readonly number[]): Measured {
  const ahead = freezes.map((freezeMs) => ({ ...sample, freezeMs }));
  const moves = { 'stop-and-copy': [], 'pre-copy': ahead, 'post-copy': [] };
  const byHand = { plain: [{ downMs: 1900, stallMs: 1901 }], podman: [] };
  return { what, rawTcpMs: 200, moves, failures: {}, byHand };
}

function verdicts(all: readonly Measured[], workKept: readonly number[] = []): Record<string, string> {
  const result = { measured: all, workKept, leftOut: [], machine: '' };
  return Object.fromEntries(goals(result).map((goal) => [goal.words, verdictOf(goal)]));
}

test('--json has a row for each mode; what was not measured is null', () => {
  const result = { measured: [measured(idle, [80, 90, 300])], workKept: [], leftOut: [], machine: '' };
  const common = { memoryMB: 500, writerMBps: 0, connections: 1, rawTcpMs: 200, plainCriuMs: 1900, podmanMs: null };
  const nothing = { freezeMs: null, stallMs: null, totalMs: null, bytes: null };
  assert.equal(JSON.parse(jsonLine(result)), {
    rows: [
      { mode: 'stop-and-copy', ...common, ...nothing },
      { mode: 'pre-copy', ...common, freezeMs: 90, stallMs: 97.3, totalMs: 400, bytes: 7 },
      { mode: 'post-copy', ...common, ...nothing },
    ],
  });
});

test('a goal is met, not met, or not measured', () => {
  const found = verdicts([measured(idle, [99]), measured({ ...idle, writerMBps: 50 }, [151])], [0.8]);
  assert.is(found['500 MB, mostly idle: freeze'], 'met');
  assert.is(found['500 MB, 50 MB/s written: freeze'], 'not met');
  assert.is(found['500 MB: total'], 'met'); // 1.3 times 200 ms, and 200 ms
  assert.is(found["a busy process's own work, lost while it is copied"], 'not met');
  assert.is(found['6144 MB, mostly idle: freeze'], 'not measured');
});

test('what a connection costs is what 10,000 of them take beyond one', () => {
  const small = { ...idle, memoryMB: 50 };
  const words = '10,000 connections, 50 MB: freeze a connection beyond that of one';
  const many = { ...small, connections: 10_000 };
  assert.is(verdicts([measured(small, [50]), measured(many, [1050])])[words], 'met');
  assert.is(verdicts([measured(small, [50]), measured(many, [1051])])[words], 'not met');
});

test('a process is left out when the machine has no room for it at both ends and in images', () => {
  assert.equal(possible([idle], 1501), [idle]);
  assert.equal(possible([idle], 1500), []);
});

test.run();
