// limit: 600 s
/** The HTML page of a migration, as people see it: in a real browser. */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { MigrationReport } from '../../cli/node/control-methods.js';
import { migrationReport } from '../../cli/node/control-methods.js';
import { downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { REDIS_PORT, startRedis } from '../lab/redis.js';
import { describe, oneLine, Scenario } from '../lab/scenario.js';
import { suite } from '../suite.js';
import { Browser } from './browser.js';
import { readPng } from './png.js';

const DESK = { width: 1280, height: 900 };
const POCKET = { width: 400, height: 800 };

const test = suite('the report of a migration in a browser');
const folder = mkdtempSync(join(tmpdir(), 'homeproxy-report-'));
let report: MigrationReport;
let file: string;
let browser: Browser;

test.before(async () => {
  browser = await Browser.start();
  const scenario = await Scenario.start('browser', { hosts: 1 });
  const redis = await startRedis(scenario.home);
  const client = await LineClient.connect(scenario.client, scenario.home.address, REDIS_PORT);
  assert.is(await client.ask('PING'), '+PONG');
  const { migration } = await scenario.migrate(redis.pid, 'host1');
  const written = await scenario.homeproxy('home', ['report', migration, '--output', '/tmp/move.html', '--json']);
  assert.is(written.status, 0, describe(written));
  report = migrationReport.parse(oneLine(written));
  file = join(folder, 'move.html');
  copyFileSync(scenario.home.path('/tmp/move.html'), file); // browsers resolve links, also that into a node's files
});
test.after(async () => {
  await downAll();
  rmSync(folder, { recursive: true });
  await browser?.close();
});

test('it loads nothing, runs nothing, and the browser has no complaint', async () => {
  const page = await browser.open(file, DESK);
  assert.equal(page.heard, { requests: [], complaints: [] });
  assert.is(await page.evaluate('document.scripts.length'), 0);
  assert.is(await page.evaluate('document.compatMode'), 'CSS1Compat');
});

test('a page that loads something is noticed', async () => {
  const other = join(folder, 'loading.html');
  const style =
    'body { background: url(sky.png) } @font-face { font-family: a; src: url(a.woff) } p { font-family: a }';
  const parts = '<img src="a.png"><link rel="stylesheet" href="a.css"><script src="a.js"></script>';
  writeFileSync(other, `<!doctype html><style>${style}</style>${parts}<p>text</p>`);
  const { heard } = await browser.open(other, DESK);
  assert.equal(heard.requests.map((url) => url.split('/').at(-1)).sort(), [
    'a.css',
    'a.js',
    'a.png',
    'a.woff',
    'sky.png',
  ]);
});

test('its words and figures can be read: outcome, times, packets, connections, every step', async () => {
  const page = await browser.open(file, DESK);
  const shown = await page.evaluate<string>('document.body.innerText'); // not what is there and hidden
  const text = shown.replace(/\s+/g, ' ');
  const { summary, migration } = report.row;
  const moved = report.connections?.moved ?? [];
  assert.is(moved.length, 1);
  const words = [
    `redis-server (${report.row.pid}): home → host1`,
    'It runs on host1.',
    migration,
    `${summary?.freezeMs.toFixed(1)} ms`,
    `replayed in their order ${summary?.replayedPackets}`,
    '1 connection went on exactly where it had stopped.',
    moved[0]?.remote ?? '',
    String(moved[0]?.atSource?.sent),
    String(moved[0]?.atDestination?.received),
    ...report.row.steps.map(({ step }) => step),
    ...report.others.flatMap(({ steps }) => steps.map(({ step }) => step)),
  ];
  assert.ok(words.length > 40);
  assert.equal(
    words.filter((word) => !text.includes(word)),
    [],
  );
});

/** Where the parts of the timelines are on the page. */
const BOXES = `[...document.querySelectorAll('svg')].map((svg) => ({
  title: svg.getAttribute('aria-label'),
  box: svg.getBoundingClientRect().toJSON(),
  bars: [...svg.querySelectorAll('rect.phase')].map((bar) => ({
    name: bar.textContent, fill: getComputedStyle(bar).fill, box: bar.getBoundingClientRect().toJSON() })),
  marks: [...svg.querySelectorAll('circle.mark')].map((mark) => mark.getBoundingClientRect().toJSON()),
}))`;

interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  readonly width: number;
  readonly height: number;
}
interface Timeline {
  readonly title: string;
  readonly box: Box;
  readonly bars: readonly { readonly name: string; readonly fill: string; readonly box: Box }[];
  readonly marks: readonly Box[];
}

for (const [name, screen] of [
  ['light', DESK],
  ['dark', { ...DESK, dark: true }],
] as const) {
  test(`on a ${name} screen the phases are painted where they are said to be, one after the other`, async () => {
    const page = await browser.open(file, screen);
    const timelines = await page.evaluate<Timeline[]>(BOXES);
    assert.equal(
      timelines.map(({ title }) => title),
      ['The whole migration', 'The freeze'],
    );
    const shot = await page.picture();
    if (process.env.HOMEPROXY_PICTURES !== undefined) {
      writeFileSync(join(process.env.HOMEPROXY_PICTURES, `report-${name}.png`), shot);
    }
    const picture = readPng(shot);
    assert.is(picture.width, DESK.width);
    const colours = new Set<number>();
    for (let y = 0; y < picture.height; y += 2) {
      for (let x = 0; x < picture.width; x += 2) colours.add(picture.colourAt(x, y));
    }
    assert.ok(colours.size > 100, `${colours.size} colours`); // text alone has dozens of shades
    for (const { box, bars, marks } of timelines) {
      assert.ok(box.width > 900 && box.height > 100);
      assert.ok(bars.length >= 5 && marks.length >= 5);
      for (const mark of marks) assert.ok(mark.left > box.left && mark.right < box.right);
      for (const [index, { name: bar, fill, box: place }] of bars.entries()) {
        const [red = 0, green = 0, blue = 0] = fill.match(/\d+/g)?.map(Number) ?? [];
        const colour = (red << 16) | (green << 8) | blue;
        if (place.width >= 4) assert.is(picture.colourAt(place.left + 2, place.top + 3), colour, bar);
        assert.ok(index === 0 || place.left >= (bars[index - 1]?.box.left ?? 0), `${bar} begins before its forerunner`);
      }
    }
    const [paper, ink] = await page.evaluate<string[]>(
      `['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])`,
    );
    const light = (colour = ''): number =>
      (colour.match(/\d+/g) ?? []).slice(0, 3).reduce((sum, one) => sum + Number(one), 0);
    assert.is(light(paper) > light(ink), name === 'light');
    assert.ok(Math.abs(light(paper) - light(ink)) > 400);
  });
}

test('on a narrow screen nothing of it is beside the screen; wide tables are scrolled', async () => {
  const page = await browser.open(file, POCKET);
  const [needed = 0, shown = 0] = await page.evaluate<number[]>(
    '[document.documentElement.scrollWidth, document.documentElement.clientWidth]',
  );
  assert.is(shown, POCKET.width);
  assert.ok(needed <= shown, `${needed} pixels wide`);
});

test.run();
