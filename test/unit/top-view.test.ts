import * as assert from 'uvu/assert';
import type { TopProcess, TopReport } from '../../cli/node/top-method.js';
import { ratesBetween } from '../../cli/top/rates.js';
import { viewOf } from '../../cli/top/view.js';
import { suite } from '../suite.js';

const none = { packets: 0, bytes: 0 };
const guest = (pid: number, packets: number, more: Partial<TopProcess> = {}): TopProcess => ({
  twin: `home-${pid}`,
  pid,
  home: 'home',
  comm: 'redis-server',
  location: 'host1',
  role: 'departed',
  forwarded: { packets, bytes: packets * 1000 },
  dropped: none,
  parked: 0,
  ...more,
});
const report = (atMs: number, processes: TopProcess[], more: Partial<TopReport> = {}): TopReport => ({
  node: 'home',
  atMs,
  startedAt: 1000,
  outcomes: { forwarded: { packets: atMs, bytes: atMs * 10 } },
  processes,
  migrations: [],
  ...more,
});
const WIDE = { columns: 200, rows: 50 };

const test = suite('homeproxy top');

test('makes rates of two looks, the busiest process first', () => {
  const before = report(5000, [guest(1, 100), guest(2, 100)]);
  const { intervalMs, outcomes, processes } = ratesBetween(before, report(7000, [guest(1, 110), guest(2, 300)]));
  assert.is(intervalMs, 2000);
  assert.equal(outcomes.forwarded, { packetsPerSecond: 1000, bytesPerSecond: 10_000 });
  assert.equal(
    processes.map(({ pid, forwarded }) => [pid, forwarded.packetsPerSecond, forwarded.bytesPerSecond]),
    [
      [2, 100, 100_000],
      [1, 5, 5000],
    ],
  );
});

test('shows no rate of a first look, of another daemon, or of a counter that began anew', () => {
  const rateOf = (before: TopReport | undefined, now: TopReport): number | undefined =>
    ratesBetween(before, now).processes[0]?.forwarded.packetsPerSecond;
  const now = report(2000, [guest(1, 50)]);
  assert.is(rateOf(undefined, now), 0);
  assert.is(rateOf(report(1000, [guest(1, 10)], { startedAt: 1 }), now), 0);
  assert.is(rateOf(report(1000, [guest(1, 90)]), now), 0);
  assert.is(rateOf(report(1000, []), now), 50, 'all of a process that is new has been counted since');
});

test('draws processes and the phases of migrations', () => {
  const migration = {
    migration: 'm-1',
    pid: 7,
    comm: 'db',
    from: 'home',
    to: 'host2',
    phase: 'dump',
    phaseMs: 41.6,
    totalMs: 512,
  };
  const before = report(0, [guest(1, 0)]);
  const now = report(1000, [guest(1, 12_345, { parked: 42 })], { migrations: [migration] });
  const lines = viewOf(ratesBetween(before, now), WIDE, 121_000);
  assert.is(lines[0], 'home, up 2 min: 1 away, 0 here for another home, 1 moving');
  assert.match(lines[1] ?? '', /^forwarded 1k\/s \(10kB\/s\) {3}parked 0\/s/);
  assert.is(lines[2], 'waiting 42 packets');
  assert.ok(
    lines.some((line) => /^7 +home +host2 +dump +42 ms +512 ms +db$/.test(line)),
    lines.join('\n'),
  );
  assert.ok(
    lines.some((line) => /^1 +home +host1 +departed +12\.3k +12\.3M +0 +42 +redis-server$/.test(line)),
    lines.join('\n'),
  );
});

test('writes rates with three digits at most', () => {
  const shown = (packets: number): string => {
    const sample = ratesBetween(report(0, [guest(1, 0)]), report(1000, [guest(1, packets)]));
    return /departed +(\S+)/.exec(viewOf(sample, WIDE).join('\n'))?.[1] ?? '';
  };
  assert.equal([0, 7, 100, 999, 1000, 10_000, 123_456, 999_600, 5_000_000].map(shown), [
    ...['0', '7', '100', '999', '1k', '10k', '123k', '1M', '5M'],
  ]);
});

test('fits into the terminal, whatever its size', () => {
  const processes = Array.from({ length: 40 }, (_, index) => guest(index + 1, index));
  const sample = ratesBetween(undefined, report(0, processes));
  for (const [columns, rows] of [
    [80, 24],
    [20, 5],
    [1, 1],
  ] as const) {
    const lines = viewOf(sample, { columns, rows });
    assert.ok(lines.length <= rows);
    assert.ok(
      lines.every((line) => [...line].length <= columns),
      lines.join('\n'),
    );
  }
  assert.match(viewOf(sample, { columns: 80, rows: 24 }).at(-1) ?? '', /^… \d+ more$/);
});

test('passes no control characters of a process on to the terminal', () => {
  const sample = ratesBetween(undefined, report(0, [guest(1, 1, { comm: '\u001b]0;x\u0007\u202edb\r' })]));
  const text = viewOf(sample, WIDE).join('\n');
  assert.not.match(text, /[^\P{Cc}\n]|\p{Cf}/u);
  assert.match(text, /db/);
});

test.run();
