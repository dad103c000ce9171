import * as assert from 'uvu/assert';
import { comparedPairs, RATIO_GROUPS, ratiosOf, type Samples, spreadOf } from '../bench/lab-ratios.js';
import { parseRedisBenchmark, parseSockperf } from '../bench/lab-traffic.js';
import { suite } from '../suite.js';

const test = suite('the ratios of the comparison in the lab');

function samples(byPath: Record<string, number[]>): Samples {
  return Object.fromEntries(
    Object.entries(byPath).map(([path, values]) => {
      const rounds = values.map((value) => ({ value }));
      return [path, { upload: rounds, download: rounds, requests: rounds, connects: rounds, rtt: rounds }];
    }),
  );
}

test('compare what was measured in the same round', () => {
  const { throughput } = ratiosOf({
    tc: samples({ direct: [10, 100, 1000], departed: [9, 80, 1000], plain: [1, 1, 1] }),
  });
  assert.equal(throughput['departed/direct'], { value: 0.9, low: 0.8, high: 1 });
});

test('are the mean of the middle two when there is no middle one', () => {
  assert.equal(spreadOf([4, 1, 3, 2]), { value: 2.5, low: 1, high: 4 });
});

test('are named by what is compared, with a note on all but the first of a group', () => {
  const paths = { direct: [2], home: [2], departed: [1], plain: [2], nftables: [1] };
  const ratios = ratiosOf({ tc: samples(paths), xdp: samples(paths) });
  assert.equal(
    RATIO_GROUPS.map((group) => Object.keys(ratios[group]).filter((name) => name.startsWith('departed/nftables'))),
    [
      [
        'departed/nftables',
        'departed/nftables (download)',
        'departed/nftables (xdp)',
        'departed/nftables (xdp, download)',
      ],
      [
        'departed/nftables',
        'departed/nftables (new connections)',
        'departed/nftables (xdp)',
        'departed/nftables (xdp, new connections)',
      ],
      ['departed/nftables', 'departed/nftables (xdp)'],
    ],
  );
});

test('compare a departure with everything else, and every alternative with nothing in between', () => {
  const pairs = comparedPairs(['direct', 'home', 'departed', 'plain', 'haproxy']).map((pair) => pair.join('/'));
  assert.equal(pairs, [
    'departed/direct',
    'departed/home',
    'departed/plain',
    'departed/haproxy',
    'home/direct',
    'direct/plain',
    'haproxy/plain',
  ]);
});

test('come from the lines that the tools print, and from nothing else', () => {
  assert.is(parseRedisBenchmark('"test","rps","avg_latency_ms"\n"GET","12693.58","2.087"\n'), 12693.58);
  assert.is(
    parseSockperf('sockperf: ---> percentile 75.000 =   21.181\nsockperf: ---> percentile 50.000 =   20.830\n'),
    20.83,
  );
  assert.throws(() => parseRedisBenchmark('Could not connect to Redis\n'), /unexpected/);
  assert.throws(() => parseSockperf('sockperf: ERROR: No messages were received\n'), /unexpected/);
});

test.run();
