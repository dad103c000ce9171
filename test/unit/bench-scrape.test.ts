/** What the benchmark of the metrics says of what it measured. */

import * as assert from 'uvu/assert';
import { resultOf, scrapeLine } from '../bench/scrape-result.js';
import { suite } from '../suite.js';

const test = suite('bench of scrapes');
const rest = { bytes: 111_000, bindings: 1000, departed: 1000 };

test('one scrape that takes too long is enough for the verdict', () => {
  const good = resultOf({ wallMs: [10, 30, 20.04], processorMs: [9, 8, 7], ...rest });
  assert.equal([good.medianMs, good.maxMs, good.processorMedianMs, good.reached], [20, 30, 8, true]);
  assert.match(scrapeLine(good), /^1,000 bindings, 3 scrapes: median 20 ms, longest 30 ms \(limit 100 ms: reached\)/);
  const bad = resultOf({ wallMs: [10, 100, 20], processorMs: [9, 8, 7], ...rest });
  assert.is(bad.reached, false);
  assert.match(
    scrapeLine(bad),
    /longest 100 ms \(limit 100 ms: not reached\); 8 ms of processor time; a page of 108 KiB$/,
  );
});

test.run();
