/** What the rounds of copying memory say of the freeze that is to come. */

import * as assert from 'uvu/assert';
import { carriedMemorySchema, memoryInWords, notTaken, untracked } from '../../cli/memory/carried.js';
import { forecastOf, nextOf, oneMore, type Round } from '../../cli/memory/forecast.js';
import { suite } from '../suite.js';

const test = suite('forecast of a freeze');
const MB = 1 << 20;
const BUDGET_MS = 100;

const first: Round = { bytes: 500 * MB, ms: 2500, sinceMs: undefined };
/** Rounds of a process that writes so many MB a second while 200 are sent. */
function writing(rate: number, count: number): Round[] {
  const rounds = [first];
  for (let ms = first.ms; rounds.length <= count; ) {
    const bytes = (rate * MB * ms) / 1000;
    rounds.push({ bytes, ms: (bytes / (200 * MB)) * 1000, sinceMs: ms });
    ms = rounds.at(-1)?.ms ?? 0;
  }
  return rounds;
}

test('a process that writes nothing: what a freeze takes anyway', () => {
  const rounds = [first, { bytes: 0, ms: 0, sinceMs: 2500 }];
  assert.equal(forecastOf(rounds, BUDGET_MS), { rounds: 2, written: 0, sent: 200 * MB, freezeMs: 60, beyond: false });
  assert.is(oneMore([], BUDGET_MS), true);
  assert.is(oneMore([first], BUDGET_MS), true);
  assert.is(oneMore(rounds, BUDGET_MS), false);
});

test('rounds that went behind others: one more does not, before what they say of the freeze is believed', () => {
  const polite = writing(190, 2).map((round) => ({ ...round, behind: true }));
  assert.is(nextOf([first], { budgetMs: BUDGET_MS }), 'round');
  assert.is(nextOf(polite.slice(0, 1), { budgetMs: BUDGET_MS }), 'round');
  assert.is(nextOf(polite, { budgetMs: BUDGET_MS }), 'hurry');
  assert.is(nextOf(polite, { budgetMs: BUDGET_MS, slowing: { leastPercent: 10, withinMs: 200 } }), 'hurry');
  assert.is(nextOf(polite, { budgetMs: 60_000 }), 'end'); // short enough as it is
  const hurried = [...polite, { bytes: 400 * MB, ms: 200, sinceMs: 2000, behind: false }];
  const { sent, beyond } = forecastOf(hurried, BUDGET_MS);
  assert.equal({ sent, beyond }, { sent: 2000 * MB, beyond: false });
  assert.is(nextOf(hurried, { budgetMs: BUDGET_MS }), 'end');
});

test('a limit of the bandwidth counts where no round was large enough to tell, and what is over it does not', () => {
  const rounds: Round[] = [
    { bytes: 4096, ms: 1, sinceMs: undefined },
    { bytes: MB / 2, ms: 50, sinceMs: 10 },
  ];
  assert.is(forecastOf(rounds, BUDGET_MS).freezeMs, 60);
  const limited = forecastOf(rounds, BUDGET_MS, 10 * MB);
  assert.is(limited.sent, 10 * MB);
  assert.is(limited.freezeMs, 60 + 450); // 50 MB/s were written in 50 and will be in 40 ms
  assert.ok(limited.beyond);
  assert.is(forecastOf(writing(50, 3), BUDGET_MS, 100 * MB).sent, 100 * MB);
});

test('rounds go on while each leaves less, and end when the rest is sent at once', () => {
  const rounds = writing(50, 6);
  const ends = rounds.findIndex((_, index) => !oneMore(rounds.slice(0, index + 1), BUDGET_MS));
  assert.is(ends, 4); // 2500 ms, 625, 156, 39, 10
  const { written, freezeMs, beyond } = forecastOf(rounds.slice(0, ends + 1), BUDGET_MS);
  assert.is(written, 50 * MB);
  assert.ok(freezeMs > 60 && freezeMs < 80 && !beyond);
});

test('a process that writes as fast as it can be copied does not converge, and the forecast says so', () => {
  const rounds = writing(200, 1);
  assert.is(oneMore(rounds, BUDGET_MS), false);
  const { freezeMs, beyond } = forecastOf(rounds, BUDGET_MS);
  assert.is(freezeMs, 60 + 2500 + 40);
  assert.is(beyond, true);
});

test('beyond the budget a round is worth more than within it', () => {
  const rounds: Round[] = [
    { bytes: 100 * MB, ms: 500, sinceMs: undefined },
    { bytes: 80 * MB, ms: 400, sinceMs: 500 },
  ];
  assert.is(oneMore(rounds, 10_000), false);
  assert.is(oneMore(rounds, BUDGET_MS), true);
});

test('why memory is left to CRIU, in one line of words', () => {
  const refused = untracked(Object.assign(new Error('userfaultfd: Operation not permitted'), { code: 'EPERM' }));
  assert.is(refused.reason?.code, 'UNTRACKED');
  assert.match(memoryInWords(refused), /^copied in the freeze: .*seccomp/);
  const failed = notTaken(new Error(`gone\n\u001b[31m${'x'.repeat(1000)}`));
  assert.is(failed.reason?.words.startsWith('the destination did not take it ahead: gone [31mxx'), true);
  assert.equal(carriedMemorySchema.parse(failed), failed);
  assert.throws(() => carriedMemorySchema.parse({ copied: 'in-freeze', reason: { code: 'TREE', words: 'a\u001bb' } }));
});

test.run();
