import * as assert from 'uvu/assert';
import type { MigrationReport } from '../../cli/node/control-methods.js';
import { reportPage } from '../../cli/report/page.js';
import { migrationTimeline } from '../../cli/report/timeline.js';
import { suite } from '../suite.js';

const test = suite('the HTML page of a migration');

const START = Date.parse('2026-11-21T12:00:00.000Z');
const PHASES = { inspect: 20, prepare: 300, drain: 5, dump: 60, transfer: 20, restore: 30, commit: 2, resume: 8 };

function report(change: Partial<MigrationReport['row']> = {}): MigrationReport {
  return {
    node: 'home',
    row: {
      migration: 'm-aaaaaaaa-00000000',
      state: 'done',
      pid: 4242,
      comm: 'redis-server',
      from: 'home',
      to: 'host1',
      epoch: 3,
      startedAt: START,
      summary: {
        migration: 'm-aaaaaaaa-00000000',
        pid: 4242,
        from: 'home',
        to: 'host1',
        outcome: 'committed',
        freezeMs: 120,
        totalMs: 445,
        phases: PHASES,
        connections: 51,
        parkedPackets: 73,
        replayedPackets: 73,
        droppedPackets: 0,
        bytesMoved: 10 << 20,
        startedAt: START,
        frozenAt: START + 325,
        resumedAt: START + 445,
      },
      steps: [
        { step: 'coordinator:preparing', at: START + 21 },
        { step: 'source:frozen', at: START + 380 },
      ],
      ...change,
    },
    others: [{ node: 'host1', steps: [{ step: 'destination:runs', at: START + 446 }] }],
  };
}

test('tells where it runs, how long it stood still, and what became of its packets', () => {
  const page = reportPage(report());
  assert.match(page, 'redis-server (4242): home → host1');
  assert.match(page, 'It runs on host1.');
  assert.match(page, '120.0 ms');
  assert.match(page, '<dt>parked</dt><dd>73</dd>');
  assert.match(page, 'Every packet was held and delivered.');
});

test('has the steps of every node in the order of time, with the milliseconds since the first', () => {
  const rows = [
    ...reportPage(report()).matchAll(/<tr><td>(.*?)<\/td><td.*?>(.*?)<\/td><td>(.*?)<\/td><td>(.*?)<\/td>/g),
  ];
  assert.equal(
    rows.map((row) => row.slice(1)),
    [
      ['12:00:00.021', '0.0', 'home', 'coordinator:preparing'],
      ['12:00:00.380', '359.0', 'home', 'source:frozen'],
      ['12:00:00.446', '425.0', 'host1', 'destination:runs'],
    ],
  );
});

test('draws each phase where it was: the dump begins with the freeze', () => {
  const page = reportPage(report());
  const whole = page.slice(page.indexOf('<svg'), page.indexOf('</svg>'));
  const place = (shape: string, name: string): number[] => {
    const match = new RegExp(
      `<rect class="${shape}[^"]*" x="([\\d.]+)" y="[\\d.]+" width="([\\d.]+)"[^>]*><title>${name}`,
    );
    return (whole.match(match) ?? []).slice(1).map(Number);
  };
  const [dump = 0] = place('phase', 'dump');
  const [freeze = 0, width = 0] = place('freeze', 'frozen for');
  const [resume = 0, last = 0] = place('phase', 'resume');
  assert.is(dump, freeze);
  assert.ok(Math.abs(resume + last - (freeze + width)) < 0.3, 'and the resume ends with it');
});

test('says why one was rolled back, and where the process is', () => {
  const error = { code: 'UNREACHABLE', message: 'host1 (10.77.0.3) does not answer' };
  const { summary: _, ...rest } = report({ state: 'rolled-back', error }).row;
  const page = reportPage({ ...report(), row: rest });
  assert.match(page, 'It did not move and runs on home as before: host1 (10.77.0.3) does not answer (UNREACHABLE)');
  assert.not.match(page, '<dt>frozen</dt>');
});

test('names a node whose steps could not be had', () => {
  const others = [{ node: 'host1', steps: [], error: { code: 'UNREACHABLE', message: 'no route to it' } }];
  assert.match(reportPage({ ...report(), others }), 'No steps of host1: no route to it');
});

test('a name or an error that looks like HTML stays text; nothing is loaded and nothing runs', () => {
  const hostile = '<img src=x onerror="alert(1)">&amp;';
  const error = { code: 'X', message: hostile };
  const page = reportPage(report({ comm: hostile, to: hostile, state: 'rolled-back', error }));
  assert.not.match(page, /<(img|script|link|iframe|object)/i);
  assert.not.match(page, /\b(src|href|onerror)="/);
  assert.match(page, '&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;amp;');
});

const NUMBERS = { state: 'ESTABLISHED' as const, sent: 4_294_967_295, received: 70, unread: 0, unacknowledged: 12 };

test('shows where each connection stood before and after, and says when all went on there', () => {
  const ends = { local: '10.77.0.2:6379', remote: '10.77.0.1:40000' };
  const moved = [{ ...ends, atSource: { ...NUMBERS, unsent: 5 }, atDestination: NUMBERS, same: true }];
  const page = reportPage({ ...report(), connections: { total: 51, moved } });
  assert.match(page, '1 connection went on exactly where it had stopped.');
  assert.match(page, 'There were 50 more, of which nothing was noted.');
  assert.match(page, /10\.77\.0\.2:6379<\/td>.*10\.77\.0\.1:40000<\/td><td>source<\/td><td>ESTABLISHED<\/td>/);
  const numbers = [...page.matchAll(/<td>(source|destination)<\/td><td>ESTABLISHED<\/td>(.*)/g)].map(
    ([, end, cells]) => [end, [...(cells ?? '').matchAll(/<td class="number">(\d*)</g)].map(([, number]) => number)],
  );
  assert.equal(numbers, [
    ['source', ['4294967295', '70', '0', '12', '5']],
    ['destination', ['4294967295', '70', '0', '12', '']],
  ]);
});

test('of one that was rolled back, shows where each connection stood, and why there is nothing to compare', () => {
  const ends = { local: '10.77.0.2:6379', remote: '10.77.0.1:40000' };
  const page = reportPage({
    ...report({ state: 'rolled-back' }),
    connections: { total: 1, moved: [{ ...ends, atSource: NUMBERS }] },
  });
  assert.match(page, '<h2>Connections when it had stopped</h2>');
  assert.match(page, '1 connection stood still with the process and went on from here: it kept its sockets');
  assert.match(page, '<td class="number">4294967295</td><td class="number">70</td>');
  assert.not.match(page, 'at the destination as');
  assert.not.match(page, 'not noted');
});

test('a connection that went on elsewhere comes first, and the page says so', () => {
  const pair = (port: number, sent: number) => ({
    local: '10.77.0.2:6379',
    remote: `10.77.0.1:${port}`,
    atSource: NUMBERS,
    atDestination: { ...NUMBERS, sent },
    same: sent === NUMBERS.sent,
  });
  const alone = { local: '10.77.0.2:6379', remote: '10.77.0.1:3', atSource: NUMBERS };
  const moved = [pair(1, NUMBERS.sent), alone, pair(2, 3)];
  const page = reportPage({ ...report(), connections: { total: 3, moved } });
  assert.match(page, '<span class="bad">1 of 2 connections did not go on where they had stopped.</span>');
  assert.match(page, 'Of 1 connection only one end is known.');
  assert.equal(
    [...page.matchAll(/rowspan="2">10\.77\.0\.1:(\d)</g)].map(([, port]) => port),
    ['2', '3', '1'],
  );
  assert.not.match(reportPage(report()), 'Connections before and after');
});

test('names what was set again at the destination', () => {
  const page = reportPage({ ...report(), reapplied: ['TCP_CONGESTION (<b>), 3 sockets'] });
  assert.match(page, '<h2>Set again at the destination</h2>');
  assert.match(page, '<li>TCP_CONGESTION (&lt;b&gt;), 3 sockets</li>');
  assert.not.match(reportPage({ ...report(), reapplied: [] }), 'Set again');
});

test('a node that only took part gives a page too', () => {
  const steps = [{ step: 'destination:runs', at: START }];
  const page = reportPage({ node: 'host1', row: { migration: 'm-1', state: 'taken-part', steps }, others: [] });
  assert.match(page, 'Ask the home node for the outcome.');
});

test('marks outside the window of a timeline are not drawn, and its numbers are finite when nothing took any time', () => {
  const marks = [
    { name: 'source:early', at: 5 },
    { name: 'source:within', at: 10 },
  ];
  const svg = migrationTimeline({
    title: 't',
    from: 10,
    to: 10,
    phases: [],
    nodes: [{ name: 'n', marks }],
    freeze: undefined,
  });
  assert.match(svg, 'source:within');
  assert.not.match(svg, 'source:early');
  assert.not.match(svg, /NaN|Infinity/);
});

test.run();
