import * as assert from 'uvu/assert';
import type { Line } from '../../addon/lib/index.js';
import { UserError } from '../../cli/errors.js';
import type { SendMemory } from '../../cli/memory/departing.js';
import { LaterPages } from '../../cli/memory/later-pages.js';
import { suite } from '../suite.js';

const test = suite('memory that is kept for a process until it has all');

// a daemon has other things that keep it going
const going = setInterval(() => undefined, 1000);
test.after(() => clearInterval(going));

/** Its other end says that it has all. */
const SATISFIED = { serveLater: async () => 4096 } as unknown as Line;
const LOST = { serveLater: () => Promise.reject(new Error('lost')) } as unknown as Line;

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
  await new LaterPages(send, 1, undefined).acknowledged;
  assert.is(tried(), 4);
});

for (const code of ['NOT_EXPECTED', 'PAGER_LOST']) {
  test(`the destination's word ${code} is the last`, async () => {
    const { send, tried } = ways(() => Promise.reject(unwanted(code)));
    await new LaterPages(send, 1, undefined).acknowledged;
    assert.is(tried(), 1);
  });
}

test('it is not acknowledged when it is given up, and no line is tried any more', async () => {
  const { send, tried } = ways(() => Promise.reject(unwanted('HOST_UNREACHABLE')));
  const pages = new LaterPages(send, 1, undefined);
  pages.giveUp(unwanted('ABORTED'));
  const outcome = await pages.acknowledged.catch((error: UserError) => error.code);
  assert.is(outcome, 'ABORTED');
  const before = tried();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.is(tried(), before);
});

test.run();
