/** Copying that goes behind whatever else runs, and what of the daemon does not. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { getPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { Line } from '../../addon/lib/index.js';
import { Deference, Headway } from '../../cli/memory/deference.js';
import { BEHIND_NICE, giveWay, ownSession, sessionsCompete } from '../../cli/system/priority.js';
import { copiesBehind, sessionNice, threadNices } from '../lab/ranks.js';
import { suite } from '../suite.js';
import { lines } from './lines.js';

const MB = 1 << 20;

const test = suite<{ sender: Line; receiver: Line; sink: number }>('copying behind others');

test.before.each(async (world) => {
  const [sender, receiver] = await lines();
  Object.assign(world, { sender, receiver, sink: openSync('/dev/null', 'w') });
});
test.after.each(({ sender, receiver, sink }) => {
  for (const line of [sender, receiver]) line.cut();
  closeSync(sink);
});

async function until(condition: () => boolean, what: string): Promise<void> {
  for (const deadline = Date.now() + 5000; !condition(); await sleep(5)) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
  }
}

test("a line's nice value is that of its own threads, also of later ones, and of no others", async ({
  sender,
  receiver,
  sink,
}) => {
  const usual = getPriority();
  const relayed = receiver.relay(sink, 2 * MB);
  relayed.catch(() => undefined); // heard below
  const all = (nice: number) => until(() => String(threadNices().line) === String(nice), `one thread, nice ${nice}`);
  await all(usual);
  receiver.setNice(BEHIND_NICE);
  await all(BEHIND_NICE);
  receiver.setNice(undefined);
  await all(usual);
  receiver.setNice(BEHIND_NICE);
  await sender.write(Buffer.alloc(2 * MB));
  assert.is((await relayed).bytes, 2 * MB);
  const later = receiver.relay(sink);
  later.catch(() => undefined);
  await all(BEHIND_NICE);
  assert.ok(threadNices().other.every((nice) => nice === usual));
  assert.ok(receiver.passed >= 2 * MB && sender.passed >= 2 * MB);
  await sender.finish();
  await later;
});

test('from its beginning to its end it goes behind, but for a freeze; then all is as it was', async ({
  sender,
  receiver,
  sink,
}) => {
  const [usual, session] = [getPriority(), sessionNice()];
  const relayed = receiver.relay(sink);
  relayed.catch(() => undefined); // heard below
  await until(() => String(threadNices().line) === String(usual), 'the thread runs');
  const deference = new Deference(receiver);
  deference.begin();
  assert.ok(copiesBehind());
  assert.ok(threadNices().other.every((nice) => nice === usual));
  ownSession.hurry('a freeze');
  assert.is(sessionNice(), session);
  ownSession.calm('a freeze');
  assert.ok(copiesBehind());
  deference.end();
  assert.is(deference.lasts, false);
  assert.is(sessionNice(), session);
  assert.ok([...threadNices().line, ...threadNices().other].every((nice) => nice === usual));
  await sender.finish();
  await relayed;
});

test('nothing comes: it does not wait for others as well', async ({ sender, receiver, sink }) => {
  const session = sessionNice();
  const relayed = receiver.relay(sink);
  relayed.catch(() => undefined); // heard below
  const deference = new Deference(receiver);
  deference.begin();
  await until(() => !copiesBehind(), 'it goes ahead');
  assert.is(sessionNice(), session);
  deference.end();
  await sender.finish();
  await relayed;
});

test('a copying gets on, at the rate that is enough, and never waits longer than an eighth of a second in vain', () => {
  const headway = new Headway(100_000, 0, 0);
  const saw = (at: number, passed: number) => headway.next(at, passed);
  assert.equal([saw(20, 2000), saw(40, 4000), saw(60, 1_000_000)], ['behind', 'behind', 'behind']);
  const stalled = Array.from({ length: 8 }, (_, index) => saw(80 + 20 * index, 1_000_000));
  assert.equal(stalled, [...Array(6).fill('behind'), 'ahead', 'ahead']); // the million before does not count
  for (let at = 240; at < 2000; at += 20) assert.is(saw(at, 1_000_000), 'ahead');
  assert.equal([saw(2000, 1_012_000), saw(2020, 1_024_000)], ['ahead', 'behind']); // nor does the long stall
  assert.is(saw(2141, 2_000_000), 'over'); // who asks was starved
});

test('it ends by itself when enough has come, whatever comes then', async ({ sender, receiver, sink }) => {
  const session = sessionNice();
  const relayed = receiver.relay(sink);
  relayed.catch(() => undefined); // heard below
  const deference = new Deference(receiver, { enough: 4 * MB });
  deference.begin();
  assert.ok(deference.lasts);
  await sender.write(Buffer.alloc(5 * MB));
  await until(() => !deference.lasts, 'it is over');
  assert.is(sessionNice(), session);
  await sender.finish();
  await relayed;
});

test('two at once: what one ends the other goes on with, and a freeze comes before both', () => {
  const session = sessionNice();
  if (!sessionsCompete()) return; // then there is nothing that they share
  ownSession.giveWay('one');
  ownSession.giveWay('other');
  ownSession.goOn('one');
  assert.is(sessionNice(), BEHIND_NICE);
  ownSession.hurry('a freeze');
  ownSession.hurry('another');
  ownSession.calm('a freeze');
  assert.is(sessionNice(), session);
  ownSession.calm('another');
  assert.is(sessionNice(), BEHIND_NICE);
  ownSession.goOn('other');
  assert.is(sessionNice(), session);
});

test('another process gives way, and has back what it had, or is gone', async () => {
  const child = spawn('sleep', ['infinity'], { stdio: 'ignore', detached: true });
  const pid = child.pid ?? 0;
  const before = [getPriority(pid), sessionNice(pid)];
  const goOn = giveWay([pid]);
  assert.is(sessionsCompete(pid) ? sessionNice(pid) : getPriority(pid), BEHIND_NICE);
  goOn();
  assert.equal([getPriority(pid), sessionNice(pid)], before);
  const late = giveWay([pid]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  late();
});

test.run();
