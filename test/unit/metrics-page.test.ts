import { setTimeout as pause } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { MetricsPage } from '../../cli/metrics/page.js';
import { type ProcessSeen, ProcessSeries } from '../../cli/metrics/process-series.js';
import { sampleOf, samplesOf } from '../exposition.js';
import { suite } from '../suite.js';

const test = suite('the page of metrics');

/** A logger that keeps what it is told. */
function ears() {
  const heard: string[] = [];
  const note = (fields: unknown, text?: string): void => void heard.push(`${text} ${JSON.stringify(fields)}`);
  return { heard, logger: { info: note, warn: note, error: note } };
}

test('has help, type and every label of each metric', async () => {
  const page = new MetricsPage();
  const group = page.group('one');
  group.counter('homeproxy_things_total', 'Things by colour.', ['colour']).inc({ colour: 'a "dark"\nblue\\' }, 3);
  const text = await page.render();
  assert.ok(text.includes('# HELP homeproxy_things_total Things by colour.\n# TYPE homeproxy_things_total counter\n'));
  assert.is(sampleOf(text, 'homeproxy_things_total', { colour: 'a "dark"\nblue\\' }), 3);
  assert.ok(text.endsWith('\n') && !text.endsWith('\n\n'));
});

test('leaves out what a failing collector should have refreshed, and nothing else', async () => {
  const { heard, logger } = ears();
  const page = new MetricsPage(logger);
  const good = page.group('good');
  const fine = good.gauge('homeproxy_fine', 'Fine.');
  good.refreshBy(() => fine.set(1));
  const bad = page.group('bad');
  const stale = bad.gauge('homeproxy_stale', 'Stale.');
  stale.set(42);
  let broken = true;
  bad.refreshBy(() => {
    if (broken) throw new Error('the map is gone');
    stale.set(43);
  });
  for (const failures of [1, 2]) {
    const text = await page.render();
    assert.is(sampleOf(text, 'homeproxy_fine'), 1);
    assert.equal(samplesOf(text, 'homeproxy_stale'), []);
    assert.not.match(text, /homeproxy_stale/);
    assert.is(sampleOf(text, 'homeproxy_collector_failures_total', { collector: 'bad' }), failures);
    assert.is(sampleOf(text, 'homeproxy_collector_failures_total', { collector: 'good' }), 0);
  }
  assert.is(heard.length, 1, 'it is named once, not at every scrape');
  assert.match(heard[0] ?? '', /fails.*"collector":"bad"/);
  broken = false;
  assert.is(sampleOf(await page.render(), 'homeproxy_stale'), 43);
  assert.match(heard[1] ?? '', /works again/);
});

test('does not wait for a collector that hangs, and does not start it twice', async () => {
  const page = new MetricsPage(undefined, 20);
  let started = 0;
  let end: () => void = () => undefined;
  const slow = page.group('slow');
  const gauge = slow.gauge('homeproxy_slow', 'Slow.');
  slow.refreshBy(async () => {
    started++;
    await new Promise<void>((resolve) => {
      end = resolve;
    });
    gauge.set(started);
  });
  page.group('quick').gauge('homeproxy_quick', 'Quick.').set(1);
  for (const failures of [1, 2]) {
    const text = await page.render();
    assert.is(sampleOf(text, 'homeproxy_quick'), 1);
    assert.equal(samplesOf(text, 'homeproxy_slow'), []);
    assert.is(sampleOf(text, 'homeproxy_collector_failures_total', { collector: 'slow' }), failures);
  }
  assert.is(started, 1);
  end();
  await pause(0);
  const last = page.render();
  await pause(0);
  end();
  assert.is(sampleOf(await last, 'homeproxy_slow'), 2);
});

test('is made once for all who ask at the same time', async () => {
  const page = new MetricsPage();
  let made = 0;
  page.group('counted').refreshBy(async () => {
    made++;
    await pause(5);
  });
  const [first, second] = await Promise.all([page.render(), page.render()]);
  assert.is(first, second);
  assert.is(made, 1);
  await page.render();
  assert.is(made, 2);
});

const seen = (pid: number, binding = pid): ProcessSeen => ({
  twin: `home-${pid}`,
  home: 'home',
  pid,
  comm: 'server',
  binding,
  role: 'departed',
  location: 'host1',
  ports: 1,
  flows: 0,
});
const traffic = (counts: Record<number, number>) =>
  new Map(
    Object.entries(counts).map(([binding, packets]) => [
      Number(binding),
      new Map([['tunnelled', { packets, bytes: packets * 100 }]]),
    ]),
  );
const told = (rows: ReturnType<ProcessSeries['update']>): Record<string, number | undefined> =>
  Object.fromEntries(rows.map(({ labels, traffic: own }) => [labels.pid, own.get('tunnelled')?.packets]));

test('gives so many processes series of their own, and sums the others', () => {
  const series = new ProcessSeries(2);
  const all = [seen(1), seen(2), seen(3), seen(4)];
  assert.equal(told(series.update(all, traffic({ 1: 10, 2: 20, 3: 30, 4: 40 }))), { 1: 10, 2: 20, other: 70 });
  assert.equal(
    series.own(all).map(({ pid }) => pid),
    [1, 2],
  );
});

test('the sum never shrinks, and counts nothing twice, when processes come and go', () => {
  const series = new ProcessSeries(1);
  assert.equal(told(series.update([seen(1), seen(2), seen(3)], traffic({ 1: 1, 2: 10, 3: 100 }))), {
    1: 1,
    other: 110,
  });
  // 3 goes; its binding's number is given to 4, which has counted less.
  assert.equal(told(series.update([seen(1), seen(2), seen(4, 3)], traffic({ 1: 1, 2: 15, 3: 7 }))), {
    1: 1,
    other: 122,
  });
  // 1 goes; 2 gets its place, with all that it has counted, and the sum keeps what it had.
  assert.equal(told(series.update([seen(2), seen(4, 3)], traffic({ 2: 16, 3: 9 }))), { 2: 16, other: 124 });
  assert.equal(told(series.update([], new Map())), { other: 124 });
});

test('no process has series of its own when none may', () => {
  const series = new ProcessSeries(0);
  assert.equal(told(series.update([seen(1)], traffic({ 1: 3 }))), { other: 3 });
  assert.equal(series.own([seen(1)]), []);
});

test.run();
