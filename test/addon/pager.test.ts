// SPDX-License-Identifier: Apache-2.0
// limit: 60 s
import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { pagerProgram } from '../../addon/lib/index.js';
import { Copying } from '../../cli/memory/copying.js';
import type { SendMemory } from '../../cli/memory/departing.js';
import { LaterPages } from '../../cli/memory/later-pages.js';
import { readPagerState, whyNoPager } from '../../cli/memory/pager.js';
import { bareRecords, PAGE_BYTES, type Range, signRecord } from '../../cli/memory/records.js';
import { readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { lines } from './lines.js';
import {
  arrive,
  begin,
  buildProgram,
  endAll,
  folder,
  killTogether,
  letter,
  letters,
  original,
  pagersOf,
  pages,
  runs,
  Source,
  START,
} from './paged-process.js';

const test = suite('memory that comes while the process runs');

test.before(buildProgram);

test.after.each(endAll);

test.after(() => rmSync(folder, { recursive: true }));

test('a page is asked for when it is touched, and what the process never had is zero', async () => {
  const { tell, place } = await begin([pages(10, 400)], [pages(0, 5)]);
  const source = await Source.connect(place);
  assert.equal(source.missing, [{ start: 10, end: 400 }]);
  assert.is(await tell('read 0 10'), 'HHHHH.....');
  assert.equal(source.asked, []);
  assert.is(await tell('read 100 101'), letter(100));
  assert.equal(source.asked, [100]);
  assert.is(await tell('read 50 90'), letters(50, 90));
  assert.ok(source.asked.length <= 4, 'neighbours come with it');
  assert.is(await tell('read 400 402'), '..');
  source.cut();
});

test('all that comes without being asked for is put there, and then it is said and the pager ends', async () => {
  const { tell, place, pager } = await begin([pages(10, 400), pages(410, 412)]);
  const source = await Source.connect(place);
  source.send(10, 200);
  source.send(100, 400);
  assert.not(source.done);
  source.zero(410, 412);
  await source.until(() => source.done);
  source.cut();
  assert.equal(await once(pager as ChildProcess, 'exit'), [0, null]);
  assert.equal(readPagerState(place)?.stage, 'complete');
  assert.equal(source.asked, []);
  assert.is(await tell('read 0 420'), `${'.'.repeat(10)}${letters(10, 400)}${'.'.repeat(20)}`);
  assert.is(await tell('child 10 12'), letters(10, 12));
});

test('what the process gives back, unmaps or maps anew is zero, and is not put there afterwards', async () => {
  const { tell, place } = await begin([pages(0, 300)]);
  const source = await Source.connect(place);
  await tell('forget 20 40');
  await tell('anew 60 70');
  source.send(0, 300);
  await source.until(() => source.done);
  const expected = `${letters(0, 20)}${'.'.repeat(20)}${letters(40, 60)}${'.'.repeat(10)}${letters(70, 300)}`;
  assert.is(await tell('read 0 300'), expected);
  source.cut();
});

test('what is copied into huge pages leaves room for what comes later', async () => {
  const { tell, place } = await begin([pages(100, 200)], [pages(0, 100), pages(200, 300)], START, 'copied');
  const source = await Source.connect(place);
  assert.is(await tell('read 98 102'), `HH${letters(100, 102)}`);
  source.send(100, 200);
  await source.until(() => source.done);
  assert.is(await tell('read 100 202'), `${letters(100, 200)}HH`);
  source.cut();
});

test('memory that is moved before it came comes to where it is now', async () => {
  const { tell, place } = await begin([pages(0, 500)]);
  const source = await Source.connect(place);
  await tell('move 0 600');
  assert.is(await tell('read 7 8'), letter(7));
  await tell('move 100 200'); // a part of it
  await tell('move 150 160'); // a part of that
  assert.is(await tell('read 155 156'), letter(155));
  assert.is(await tell('read 199 201'), letters(199, 201));
  await tell('protect 300 310'); // several mappings to the kernel by now
  source.send(0, 250);
  source.send(250, 500);
  await source.until(() => source.done);
  assert.is(await tell('read 0 510'), `${letters(0, 500)}${'.'.repeat(10)}`);
  source.cut();
});

test('memory that is moved again and again while it comes loses none of it', async () => {
  const { place, input, line } = await begin([pages(500, 600)], [pages(0, 500)]); // the more, the longer a move takes
  const source = await Source.connect(place);
  input.write('wander 0 600\n');
  for (let page = 500; page < 600; page++) {
    if (page % 10 === 0) source.zero(page, page + 1);
    else source.send(page, page + 1);
    await pause(1);
  }
  await pause(1000); // it moves some thousand times, and leaves hardly a moment in which a page can come
  input.write('read 500 600\n');
  assert.is(await line(), ''); // it stays where it is
  assert.is(await line(), letters(500, 600).replace(/.(.{9})/g, '.$1'));
  await source.until(() => source.done);
  source.cut();
});

test('a child finds what its parent would, also after its parent has written or given it back', async () => {
  const { tell, place, input, line } = await begin([pages(0, 300)]);
  const source = await Source.connect(place, false);
  source.send(0, 10);
  await source.until(() => (readPagerState(place)?.missing ?? 0) === 290);
  await tell('write 5 6');
  await tell('forget 20 21');
  input.write('child 0 30\n');
  await source.until(() => source.asked.length > 0);
  source.send(10, 300);
  const changed = String.fromCharCode(letter(5).charCodeAt(0) + 1);
  assert.is(await line(), `${letters(0, 5)}${changed}${letters(6, 20)}.${letters(21, 30)}`);
  await source.until(() => source.done);
  assert.is(await tell('read 10 20'), letters(10, 20));
  source.cut();
});

test('a link that is lost holds the process, and the next one goes on', async () => {
  const { tell, place, input, line } = await begin([pages(0, 300)]);
  const first = await Source.connect(place, false);
  first.send(0, 100);
  input.write('read 200 201\n');
  await first.until(() => first.asked.length === 1);
  first.cut();
  await pause(50);
  const second = await Source.connect(place, false);
  assert.equal(second.missing, [{ start: 100, end: 300 }]);
  await second.until(() => second.asked.includes(200));
  second.send(100, 300);
  assert.is(await line(), letter(200));
  await second.until(() => second.done);
  assert.is(await tell('read 0 300'), letters(0, 300));
  second.cut();
});

/** Whoever of the three is left makes the others anew. */
const VICTIMS = [
  ['serving'],
  ['standingBy'],
  ['keeping'],
  ['serving', 'standingBy'],
  ['serving', 'keeping'],
  ['standingBy', 'keeping'],
] as const;

for (const victims of VICTIMS) {
  const who = victims.join(' and ');
  test(`the process finds no zeros when who is ${who} is killed in one moment, again and again`, async () => {
    const { tell, place, input, line } = await begin([pages(0, 600)]);
    let source = await Source.connect(place, false);
    for (let round = 0; round < 5; round++) {
      const from = round * 100;
      input.write(`read ${from + 90} ${from + 91}\n`);
      await source.until(() => source.asked.some((page) => page <= from + 90 && page + 16 > from + 90));
      source.send(from, from + 10);
      const before = readPagerState(place);
      killTogether(...victims.map((victim) => before?.[victim] ?? 0));
      await source.until(() => {
        const now = readPagerState(place);
        const anew = victims.every((victim) => now?.[victim] !== before?.[victim]);
        return anew && new Set(pagersOf(place)).size === 3;
      });
      if (victims.some((victim) => victim === 'serving')) source = await Source.connect(place, false);
      await source.until(() => source.asked.some((page) => page <= from + 90 && page + 16 > from + 90));
      source.send(from + 80, from + 100);
      assert.is(await line(), letter(from + 90));
      await tell(`forget ${from + 20} ${from + 21}`);
      await tell(`move ${from + 30} ${from + 40}`);
    }
    source.send(0, 600);
    await source.until(() => source.done);
    const gone = new Set([20, 120, 220, 320, 420]);
    const expected = Array.from({ length: 600 }, (_, page) => (gone.has(page) ? '.' : letter(page))).join('');
    assert.is(await tell('read 0 600'), expected);
    source.cut();
  });
}

test('a child that was made before the pager is killed finds no zeros either', async () => {
  const { place, input, line } = await begin([pages(0, 300)]);
  const first = await Source.connect(place, false);
  input.write('child 200 201\n');
  await first.until(() => first.asked.includes(200));
  const { serving, standingBy } = readPagerState(place) ?? { serving: 0, standingBy: 0 };
  process.kill(serving, 'SIGKILL');
  await first.until(() => readPagerState(place)?.serving === standingBy);
  const second = await Source.connect(place);
  assert.is(await line(), letter(200));
  second.send(0, 300);
  await second.until(() => second.done);
  second.cut();
});

for (const [pace, rate] of [
  ['as fast as it goes', 0],
  ['held back, but for what is waited for', 64 << 10],
] as const) {
  test(`a copy that stands still is where it comes from: ${pace}`, async () => {
    const copy = await original(500);
    const at = (from: number, to: number): Range => ({
      start: copy.at + from * PAGE_BYTES,
      end: copy.at + to * PAGE_BYTES,
    });
    const { tell, place } = await begin([at(10, 500)], [], copy.at);
    const [source, destination] = await lines();
    const joined = destination.exchange(place);
    const served = source.serveLater(copy.pid, rate);
    const began = performance.now();
    assert.is(await tell('read 300 301'), letter(300));
    assert.is(await tell('read 490 491'), letter(490));
    assert.ok(performance.now() - began < 1000);
    if (rate > 0) {
      assert.ok((readPagerState(place)?.missing ?? 0) > 100);
      destination.cut();
      await Promise.allSettled([joined, served]);
      const [again, there] = await lines();
      const over = there.exchange(place);
      assert.ok((await again.serveLater(copy.pid, 0)) < 490 * PAGE_BYTES);
      again.cut();
      await over.catch(() => undefined);
    } else {
      assert.is(await served, 490 * PAGE_BYTES, 'each page once');
      source.cut();
      await joined.catch(() => undefined);
    }
    assert.equal(readPagerState(place)?.stage, 'complete');
    assert.is(await tell('read 10 500'), letters(10, 500));
  });
}

test('what is written after the last round is not sent in the freeze, and follows', async () => {
  const copy = await original(500);
  const place = mkdtempSync(join(folder, 'paged-'));
  mkdirSync(join(place, 'parent'));
  for (const name of ['inventory.img', 'parent/pages-1.img']) writeFileSync(join(place, name), '');
  execFileSync('mkfifo', [join(place, 'memory')]);
  const scene = await arrive(place);
  const [source, destination] = await lines();
  const fifo = await open(join(place, 'memory'), 'w');
  const relayed = destination.relay(fifo.fd);
  const copying = new Copying(await Copying.track(copy.pid), { budgetMs: 100, later: true });
  const fed = copying.feed(source, async () => undefined);
  await copying.ready;
  await copy.tell('write 100 200');
  await copy.tell('forget 150 160');
  process.kill(copy.pid, 'SIGSTOP');
  while (readProcess(copy.pid)?.state !== 'T') await pause(1);
  const before = copying.sent;
  await copying.lastLook();
  await fed;
  assert.is(copying.sent, before);
  assert.is(copying.later, 90 * PAGE_BYTES);
  await source.finish();
  await relayed;
  await fifo.close();
  await runs(scene);
  assert.is(readPagerState(place)?.missing, 90);
  const [again, there] = await lines();
  const joined = there.exchange(place);
  assert.is(await again.serveLater(copy.pid, 0), 90 * PAGE_BYTES);
  again.cut();
  await joined.catch(() => undefined);
  copying.stopTracking();
  const written = Array.from({ length: 100 }, (_, index) =>
    index >= 50 && index < 60 ? '.' : String.fromCharCode(letter(100 + index).charCodeAt(0) + 1),
  ).join('');
  assert.is(await scene.tell('read 0 501'), `${letters(0, 100)}${written}${letters(200, 500)}.`);
});

test('over lines that are lost all of it comes, and how far it is is known', async () => {
  const copy = await original(500);
  const whole = { start: copy.at, end: copy.at + 500 * PAGE_BYTES };
  const { tell, place } = await begin([whole], [], copy.at);
  let tried = 0;
  const way: SendMemory = async (feed) => {
    const [source, destination] = await lines();
    const joined = destination.exchange(place).catch(() => undefined);
    if (++tried < 3) setTimeout(() => destination.cut(), 60); // at that pace, in the midst of it
    await feed(source).finally(() => source.cut());
    await joined;
  };
  const copied = { pid: copy.pid, bytes: 500 * PAGE_BYTES, limit: 8 << 20, there: () => true };
  const pages = new LaterPages(way, copied);
  const seen: number[] = [];
  const watching = setInterval(() => seen.push(pages.progress.bytes / PAGE_BYTES), 20);
  await pages.acknowledged.finally(() => clearInterval(watching));
  assert.is(tried, 3);
  assert.is(pages.missing, 0);
  assert.ok(pages.sent >= 500 * PAGE_BYTES, `${pages.sent}`); // what was on its way when a line was cut is sent again
  assert.ok(
    seen.some((far) => far > 0 && far < 500),
    seen.join(),
  );
  assert.is(readPagerState(place)?.stage, 'complete');
  assert.is(await tell('read 0 500'), letters(0, 500));
});

for (const [what, says] of [
  ['takes nothing any more', true],
  ['says nothing any more', false],
] as const) {
  test(`a link is lost without a word, so that the other end ${what}: in time that is the end of the line`, async () => {
    const copy = await original(500);
    const [source, destination] = await lines();
    const whole = [{ start: copy.at, end: copy.at + 500 * PAGE_BYTES }];
    const over = new AbortController();
    const served = source.serveLater(copy.pid, 0, 300).catch((error: { code?: string }) => error.code);
    if (says) await destination.write(Buffer.concat([bareRecords('later', whole), signRecord('end')]));
    const began = performance.now();
    const late = pause(5000, 'nothing', { signal: over.signal });
    late.catch(() => undefined);
    assert.is(await Promise.race([served, late]), 'ETIMEDOUT');
    assert.ok(performance.now() - began >= 250);
    over.abort();
    for (const each of [source, destination]) each.cut();
  });
}

test('a process that has ended leaves no pager behind', async () => {
  const { place, pid, pager } = await begin([pages(0, 300)]);
  const pagers = pagersOf(place);
  process.kill(pid, 'SIGKILL');
  await once(pager as ChildProcess, 'exit');
  assert.equal(readPagerState(place)?.stage, 'complete');
  assert.is(pagers.length, 3);
  const live = (each: number): boolean => ![undefined, 'Z'].includes(readProcess(each)?.state);
  for (const deadline = performance.now() + 5000; pagers.some(live); await pause(5))
    assert.ok(performance.now() < deadline, pagers.filter(live).join());
});

test('who kills by the name of the pager does not kill all of it', async () => {
  const { place } = await begin([pages(0, 300)]);
  const names = (): string =>
    pagersOf(place)
      .map((pid) => readProcess(pid)?.comm)
      .join();
  for (const deadline = performance.now() + 5000; names() !== 'pager,pager,memory-keeper'; await pause(1))
    assert.ok(performance.now() < deadline, names());
});

test('a kernel that does not let a process be held back is known before one comes', async () => {
  assert.is(await whyNoPager(), undefined);
  const { status, stderr } = spawnSync('setpriv', ['--bounding-set=-sys_ptrace', pagerProgram(), '--check'], {
    encoding: 'utf8',
  });
  assert.is(status, 3);
  assert.match(stderr, /^(userfaultfd|UFFDIO_API): Operation not permitted$/m); // by vm.unprivileged_userfaultfd
});

test('pages of no mapping are refused: the line ends, the process waits', async () => {
  const { place } = await begin([pages(0, 300)]);
  const source = await Source.connect(place);
  const socket = (source as unknown as { socket: Socket }).socket;
  source.send(599, 601);
  await once(socket, 'close');
  assert.is(readPagerState(place)?.missing, 300);
});

test.run();
