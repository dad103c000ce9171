/** When, and how far, a process is slowed down while its memory is copied. */

import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { copiedInWords, memoryInWords } from '../../cli/memory/carried.js';
import { type Aim, type Forecast, forecastOf, nextOf, oneMore, type Round } from '../../cli/memory/forecast.js';
import { suite } from '../suite.js';

const test = suite('the pace of a process that is copied');
const MB = 1 << 20;

/** Bytes, and bytes per second at its own pace and over the network. */
interface Writer {
  readonly size: number;
  readonly written: number;
  readonly sent: number;
  /** It writes the same so many bytes again and again. */
  readonly hot: number;
}

interface Course {
  readonly rounds: Round[];
  readonly paces: number[];
  readonly forecast: Forecast;
}

/** Copies a process that writes at random in its hot bytes, more slowly when it is slowed down. */
function copied({ size, written, sent, hot }: Writer, aim: Aim): Course {
  const rounds: Round[] = [];
  const paces: number[] = [];
  let pace = 100;
  let dirty = size;
  for (let sinceMs: number | undefined; ; ) {
    const next = nextOf(rounds, aim);
    if (next === 'end') break;
    if (next === 'hurry') throw new Error('nothing goes behind others here');
    if (next !== 'round') {
      pace = next;
      paces.push(next);
    }
    const ms = (dirty / sent) * 1000;
    rounds.push({ bytes: dirty, ms, sinceMs, pace });
    sinceMs = ms;
    dirty = hot * (1 - Math.exp((-written * (pace / 100) * ms) / 1000 / hot));
    if (rounds.length > 200) throw new Error('it does not end');
  }
  return { rounds, paces, forecast: forecastOf(rounds, aim.budgetMs) };
}

const writers = fc.record({
  size: fc.integer({ min: 16, max: 4000 }).map((mb) => mb * MB),
  written: fc.integer({ min: 0, max: 4000 }).map((mb) => mb * MB),
  sent: fc.integer({ min: 1, max: 1000 }).map((mb) => mb * MB),
  part: fc.double({ min: 0.01, max: 1, noNaN: true }),
});
const anyWriter = writers.map(({ part, ...writer }): Writer => ({ ...writer, hot: writer.size * part }));
const anyAim = fc.record({
  budgetMs: fc.integer({ min: 1, max: 1000 }),
  slowing: fc.record({ leastPercent: fc.integer({ min: 10, max: 99 }), withinMs: fc.integer({ min: 1, max: 30_000 }) }),
});

/** Writes 300 MB a second all over 500 MB, and 200 can be sent. */
const BUSY: Writer = { size: 500 * MB, written: 300 * MB, sent: 200 * MB, hot: 500 * MB };

test('one that is not allowed to be slowed down never is, and its rounds are what they were', () => {
  fc.assert(
    fc.property(anyWriter, anyAim, (writer, { budgetMs }) => {
      const { rounds, paces } = copied(writer, { budgetMs });
      assert.equal(paces, []);
      rounds.forEach((_, index) => {
        const so = rounds.slice(0, index + 1);
        assert.is(nextOf(so, { budgetMs }), so.length < 12 && oneMore(so, budgetMs) ? 'round' : 'end');
      });
    }),
  );
});

test('each step is slower than the one before, none goes below the least, and they end', () => {
  fc.assert(
    fc.property(anyWriter, anyAim, (writer, aim) => {
      const { paces } = copied(writer, aim);
      [100, ...paces].reduce((before, pace) => {
        assert.ok(pace >= aim.slowing.leastPercent, `${pace} < ${aim.slowing.leastPercent}`);
        assert.ok(pace < before, `${before} -> ${pace}`);
        assert.ok(pace >= Math.floor(before * 0.25));
        return pace;
      });
    }),
  );
});

test('nobody is given up whom a slower pace might have let go', () => {
  fc.assert(
    fc.property(anyWriter, anyAim, (writer, aim) => {
      const { rounds, forecast } = copied(writer, aim);
      const { withinMs, leastPercent } = aim.slowing;
      if (forecast.freezeMs <= withinMs || withinMs * 0.75 <= 60) return;
      assert.is(rounds.at(-1)?.pace, leastPercent);
    }),
  );
});

test('one that writes at its least pace half of what can be sent comes within the limit, however fast it is', () => {
  fc.assert(
    fc.property(
      anyWriter,
      fc.integer({ min: 10, max: 90 }),
      fc.integer({ min: 150, max: 5000 }),
      (writer, least, ms) => {
        fc.pre((writer.written * least) / 100 <= writer.sent / 2);
        const { forecast } = copied(writer, { budgetMs: 100, slowing: { leastPercent: least, withinMs: ms } });
        assert.ok(forecast.freezeMs <= ms, `${forecast.freezeMs} ms of ${ms}`);
      },
    ),
  );
});

test('one that converges is not slowed down', () => {
  fc.assert(
    fc.property(anyWriter, anyAim, (writer, aim) => {
      const alone = copied(writer, { budgetMs: aim.budgetMs });
      fc.pre(alone.forecast.freezeMs <= aim.slowing.withinMs * 0.75);
      assert.equal(copied(writer, aim).paces, []);
    }),
  );
});

test('one that writes faster than can be sent: by the measure, and only until the freeze is short enough', () => {
  assert.ok(copied(BUSY, { budgetMs: 100 }).forecast.freezeMs > 1000);
  const { paces, forecast } = copied(BUSY, { budgetMs: 100, slowing: { leastPercent: 10, withinMs: 500 } });
  assert.ok(paces.length >= 1 && paces.length <= 3, paces.join());
  assert.ok((paces.at(-1) ?? 0) > 20, paces.join());
  assert.ok(forecast.freezeMs <= 375, `${forecast.freezeMs} ms`);
});

test('nothing is slowed down where not even an idle process would stand still so briefly, or nobody knows what can be sent', () => {
  const slowing = { leastPercent: 10, withinMs: 80 };
  assert.equal(copied(BUSY, { budgetMs: 100, slowing }).paces, []);
  const small = { bytes: 4096, ms: 20 };
  const rounds = [
    { ...small, sinceMs: undefined },
    { ...small, sinceMs: 20 },
  ];
  assert.is(nextOf(rounds, { budgetMs: 1, slowing: { ...slowing, withinMs: 500 } }), 'end');
});

const AIM = { budgetMs: 100, slowing: { leastPercent: 10, withinMs: 1000 } };
/** A round of so many bytes, sent in so many milliseconds; at 100 MB a second, the rounds leave what they are told to. */
function round(ms: number, bytes = ms * MB * 0.1, pace = 100): Round {
  return { bytes, ms, sinceMs: ms, pace };
}

test('a step goes by the measure: to where each round would leave half of the one before, but not at once to a quarter', () => {
  const leaving = (ratio: number): Round[] => [round(2000), { ...round(2000 * ratio), sinceMs: 2000 }];
  assert.is(nextOf(leaving(1), AIM), 50);
  assert.is(nextOf(leaving(2), AIM), 25);
  assert.is(nextOf(leaving(8), AIM), 25);
  assert.is(nextOf(leaving(1), { ...AIM, slowing: { ...AIM.slowing, leastPercent: 60 } }), 60);
});

test('a step makes it much slower where the measure says that little is enough: it may write the same pages all the time', () => {
  const twelve = Array.from({ length: 12 }, (_, index) => ({ ...round(5000 * 0.94 ** index), sinceMs: 4200 }));
  assert.is(nextOf(twelve, AIM), 70);
});

test('what was still written at the former pace is not judged', () => {
  const before = [round(2000), round(2000)];
  assert.is(nextOf([...before, round(5, 100 * MB, 50)], AIM), 'round');
  assert.is(nextOf([...before, round(5, 100 * MB, 50), round(5, 100 * MB, 50)], AIM), 12);
});

test('once the freeze is short enough, a slow process is not kept slow for a round that leaves little less', () => {
  const within = (pace: number): Round[] => [round(500, 50 * MB, pace), { ...round(450, 45 * MB, pace), sinceMs: 500 }];
  assert.is(nextOf(within(100), AIM), 'round');
  assert.is(nextOf(within(50), AIM), 'end');
});

test('how far it is slowed down is said while it is copied, and afterwards for how long', () => {
  const progress = { round: 3, bytes: 20 * MB, total: 40 * MB, rate: 10 * MB };
  assert.is(copiedInWords(progress), 'memory, round 3: 20 of 40 MiB, 10.0 MiB/s, 2.0 s left');
  assert.is(
    copiedInWords({ ...progress, pace: 40 }),
    'memory, round 3: 20 of 40 MiB, 10.0 MiB/s, 2.0 s left, slowed down to 40 %',
  );
  const throttle = { percent: 25, ms: 3140 };
  assert.match(memoryInWords({ copied: 'ahead', throttle }), /; slowed down to 25 % of its pace, for 3\.1 s$/);
  assert.not.match(memoryInWords({ copied: 'ahead' }), /slowed/);
});

test('and so it is where memory follows it, besides how much that is', () => {
  const throttle = { percent: 25, ms: 3140 };
  assert.is(
    memoryInWords({ copied: 'ahead', throttle, later: 3 * MB }),
    'copied while it ran, 3.0 MiB of it when it ran at its destination already; slowed down to 25 % of its pace, for 3.1 s',
  );
  assert.is(
    copiedInWords({ round: 0, bytes: MB, total: 3 * MB, rate: MB, later: true }),
    'memory that follows: 1 of 3 MiB, 1.0 MiB/s, 2.0 s left',
  );
});

test.run();
