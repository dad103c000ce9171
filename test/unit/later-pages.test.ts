import * as assert from 'uvu/assert';
import type { Line } from '../../addon/lib/index.js';
import { UserError } from '../../cli/errors.js';
import type { SendMemory } from '../../cli/memory/departing.js';
import { LaterPages, type StandingCopy } from '../../cli/memory/later-pages.js';
import { suite } from '../suite.js';

const test = suite('memory that is kept for a process until it has all');

// a daemon has other things that keep it going
const going = setInterval(() => undefined, 1000);
test.after(() => clearInterval(going));

const COPY: StandingCopy = { pid: 1, bytes: 10 * 4096, limit: undefined, there: () => true };

/** Its other end lacks so many pages, gets the first of them, and then says that it has all, or is lost. */
function line(missing: number, sent: number, lost = false): Line {
  return {
    serveLater: lost ? () => Promise.reject(new Error('lost')) : async () => sent * 4096,
    later: { missing: missing * 4096, sent: sent * 4096 },
  } as unknown as Line;
}
const SATISFIED = line(10, 10);
const LOST = line(10, 4, true);

function unwanted(code: string): UserError {
  return new UserError({ code, message: 'it wants no more', exitStatus: 6 });
}

/** Ways that are tried one after the other; the last one over and over. */
function ways(...each: SendMemory[]): { send: SendMemory; tried(): number } {
  let tried = 0;
  const send: SendMemory = (feed, signal) => {
    const way = each[Math.min(tried++, each.length - 1)] as SendMemory;
    return way(feed, signal);
  };
  return { send, tried: () => tried };
}

test('lines that are lost, and answers without a word of the pages, are followed by another line', async () => {
  const { send, tried } = ways(
    () => Promise.reject(unwanted('HOST_UNREACHABLE')),
    async (feed) => await feed(LOST),
    async (feed) => await feed(LOST).catch(() => undefined),
    async (feed) => await feed(SATISFIED),
  );
  await new LaterPages(send, COPY).acknowledged;
  assert.is(tried(), 4);
});

test('the destination has ended the process, because its pager was lost: that is the last word', async () => {
  const { send, tried } = ways(() => Promise.reject(unwanted('PAGER_LOST')));
  await new LaterPages(send, COPY).acknowledged;
  assert.is(tried(), 1);
});

test('a destination that knows nothing of it does not end the copy: that is said once, and goes on', async () => {
  const said: string[] = [];
  const unknown: SendMemory = async (feed) => {
    await feed(line(0, 0, true)).catch(() => undefined); // it answers instead of listening
    throw unwanted('NOT_EXPECTED');
  };
  const { send } = ways(unknown, unknown, unknown, (feed) => feed(SATISFIED));
  const pages = new LaterPages(send, COPY, ({ code }) => said.push(code));
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.is(pages.trouble?.code, 'NOT_EXPECTED');
  assert.is(pages.missing, COPY.bytes);
  await pages.acknowledged;
  assert.equal([said, pages.trouble, pages.missing], [['NOT_EXPECTED'], undefined, 0]);
});

test('a copy that is gone is waited for by nobody', async () => {
  const { send, tried } = ways(() => Promise.reject(unwanted('NOT_EXPECTED')));
  await new LaterPages(send, { ...COPY, there: () => tried() < 2 }).acknowledged;
  assert.is(tried(), 2);
});

test('how far it is counts what every line has sent, and what the last one still lacks', async () => {
  const seen: unknown[] = [];
  const look = (pages: () => LaterPages, over: Line): SendMemory => {
    return async (feed) => {
      const served = feed(over);
      const { bytes, total, later } = pages().progress;
      seen.push([pages().sent / 4096, bytes / 4096, total / 4096, later]);
      await served;
    };
  };
  const pages: LaterPages = new LaterPages(async (feed, signal) => {
    await Promise.resolve(); // when there is one to look at
    await over[seen.length]?.(feed, signal);
  }, COPY);
  const over = [look(() => pages, line(10, 4, true)), look(() => pages, line(6, 6))];
  await pages.acknowledged;
  assert.equal(seen, [
    [4, 4, 10, true],
    [10, 10, 10, true],
  ]);
  assert.is(pages.sent, 10 * 4096);
});

test('it is not acknowledged when it is given up, and no line is tried any more', async () => {
  const { send, tried } = ways(() => Promise.reject(unwanted('HOST_UNREACHABLE')));
  const pages = new LaterPages(send, COPY);
  pages.giveUp(unwanted('ABORTED'));
  const outcome = await pages.acknowledged.catch((error: UserError) => error.code);
  assert.is(outcome, 'ABORTED');
  const before = tried();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.is(tried(), before);
});

test.run();
