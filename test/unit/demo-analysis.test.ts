import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { binned, formatMs, logScale, quantile, stallWithin } from '../../cli/demo/analysis.js';
import { decodeSamples, encodeSamples, SampleRecorder, type Samples } from '../../cli/demo/samples.js';
import { SequenceCheck } from '../../cli/demo/sequence.js';
import { suite } from '../suite.js';

const test = suite('demo: analysis');

/** Requests by when they were sent and when their reply came. */
function samplesOf(...requests: readonly (readonly [sentAt: number, repliedAt: number])[]): Samples {
  const recorder = new SampleRecorder();
  for (const [sentAt, repliedAt] of requests) recorder.add(repliedAt, repliedAt - sentAt);
  return recorder.samples;
}

function sequence(requests: number, replies: readonly number[]): SequenceCheck {
  const check = new SequenceCheck();
  for (let count = 0; count < requests; count++) check.request(count);
  for (const value of replies) check.reply(value);
  return check;
}

test('the stall is the longest wait of the requests under way in the window', () => {
  const samples = samplesOf([0, 90], [95, 210], [190, 205], [300, 500]);
  assert.is(stallWithin(samples, { from: 100, to: 200 }), 115);
});

test('a request that began before the window and ended after it counts', () => {
  assert.is(stallWithin(samplesOf([50, 450]), { from: 100, to: 200 }), 400);
});

test('requests that ended before the window or began after it do not count', () => {
  assert.is(stallWithin(samplesOf([0, 99], [201, 900]), { from: 100, to: 200 }), 0);
});

test('a request that was never answered waits until the end', () => {
  const window = { from: 100, to: 200 };
  assert.is(stallWithin(samplesOf([90, 120]), window, [150], 5150), 5000);
  assert.is(stallWithin(samplesOf([90, 120]), window, [250], 5150), 30, 'sent after the window');
});

test('a request shows in every bin in which it was under way', () => {
  const bins = binned(samplesOf([1, 2], [15, 38]), { from: 0, to: 50 }, 5);
  assert.equal(
    bins.map((bin) => bin.maxMs),
    [1, 23, 23, 23, 0],
  );
  assert.equal(
    bins.map((bin) => bin.replies),
    [1, 0, 0, 1, 0],
  );
  assert.equal(
    bins.map((bin) => bin.medianMs),
    [1, undefined, undefined, 23, undefined],
  );
});

test('no reply in the window is lost by binning', () => {
  const time = fc.double({ min: 0, max: 100, noNaN: true });
  fc.assert(
    fc.property(fc.array(fc.tuple(time, time)), fc.integer({ min: 1, max: 40 }), (pairs, count) => {
      const samples = samplesOf(...pairs.map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const));
      const bins = binned(samples, { from: 0, to: 100 }, count);
      assert.is(
        bins.reduce((sum, bin) => sum + bin.replies, 0),
        pairs.length,
      );
      assert.is(Math.max(0, ...bins.map((bin) => bin.maxMs)), stallWithin(samples, { from: 0, to: 100 }));
    }),
  );
});

test('samples survive their journey between processes, and growth', () => {
  const recorder = new SampleRecorder();
  for (let index = 0; index < 40_000; index++) recorder.add(1_700_000_000_000.25 + index, index / 8);
  const arrived = decodeSamples(encodeSamples(recorder.samples));
  assert.is(arrived.repliedAt.length, 40_000);
  assert.equal(arrived, recorder.samples);
  assert.is(arrived.repliedAt[39_999], 1_700_000_039_999.25);
  assert.is(arrived.latencyMs[39_999], 39_999 / 8);
});

test('the scale ends at whole decades and holds what lies outside', () => {
  const scale = logScale([0, 0.4, 250]);
  assert.equal(scale.decades, [0.1, 1, 10, 100, 1000]);
  assert.is(scale.at(0.1), 0);
  assert.is(scale.at(10), 0.5);
  assert.is(scale.at(0), 0);
  assert.is(scale.at(5000), 1);
  assert.equal(logScale([]).decades, [0.1, 1, 10, 100]);
});

test('quantiles and figures for people', () => {
  assert.is(quantile([5, 1, 3], 0.5), 3);
  assert.is(quantile([], 0.5), 0);
  assert.is(quantile([1, 2], 1), 2);
  assert.equal([0.123, 9.96, 83.14, 120.4, 1530, 12_340].map(formatMs), [
    '0.12 ms',
    '10.0 ms',
    '83 ms',
    '120 ms',
    '1.5 s',
    '12 s',
  ]);
});

test('replies in sequence have no fault', () => {
  assert.equal(sequence(3, [1, 2, 3]).faults, { lost: 0, repeated: 0, outOfOrder: 0, wrong: 0 });
});

test('a reply that never comes is lost, once', () => {
  assert.equal(sequence(4, [1, 3, 4]).faults, { lost: 1, repeated: 0, outOfOrder: 0, wrong: 0 });
  assert.equal(sequence(4, [1, 2, 3]).faults, { lost: 1, repeated: 0, outOfOrder: 0, wrong: 0 });
});

test('a reply that comes twice is repeated, not wrong', () => {
  assert.equal(sequence(3, [1, 2, 2, 3]).faults, { lost: 0, repeated: 1, outOfOrder: 0, wrong: 0 });
});

test('a reply that comes after its successor is out of order, not lost', () => {
  assert.equal(sequence(3, [1, 3, 2]).faults, { lost: 0, repeated: 0, outOfOrder: 1, wrong: 0 });
});

test('a number that nobody asked for is wrong, and its request lost', () => {
  assert.equal(sequence(2, [1, 7]).faults, { lost: 1, repeated: 0, outOfOrder: 0, wrong: 1 });
  assert.equal(sequence(1, [0, 1]).faults, { lost: 0, repeated: 0, outOfOrder: 0, wrong: 1 });
});

test('a server that fell back to an older state is found out', () => {
  assert.equal(sequence(6, [1, 2, 3, 2, 3, 4]).faults, { lost: 2, repeated: 2, outOfOrder: 0, wrong: 0 });
});

test.run();
