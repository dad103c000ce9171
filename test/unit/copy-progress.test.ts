import { setTimeout as pause } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import type { CopyProgress } from '../../cli/memory/carried.js';
import { followCopying } from '../../cli/migration/copy-progress.js';
import { suite } from '../suite.js';

const test = suite('who waits for memory that is copied');

function failure(code: string): UserError {
  return new UserError({ code, message: 'no answer', exitStatus: 4 });
}

const FAR: CopyProgress = { round: 0, bytes: 1, total: 2, rate: 1, later: true };

/** What is told of a copying that ends when the source has been asked so often. */
async function told(asked: number, answer: (nth: number) => CopyProgress): Promise<CopyProgress[]> {
  const heard: CopyProgress[] = [];
  let over: () => void = () => undefined;
  const copying = new Promise<void>((resolve) => {
    over = resolve;
  });
  let nth = 0;
  const progress = async (): Promise<CopyProgress> => {
    if (++nth === asked) setImmediate(over);
    return answer(nth);
  };
  const going = setInterval(() => undefined, 1000); // a daemon has other things that keep it going
  await Promise.race([
    followCopying({ progress }, 'm-00000000', copying, (far) => void heard.push(far)),
    pause(asked * 700),
  ]);
  over();
  clearInterval(going);
  return heard;
}

test('is told again when the source can be reached again', async () => {
  const answer = (nth: number): CopyProgress => {
    if (nth === 1) throw failure('HOST_UNREACHABLE');
    return FAR;
  };
  assert.equal(await told(2, answer), [FAR]);
});

test('is told nothing by a source that does not know the question, and does not ask again', async () => {
  let asked = 0;
  const answer = (): CopyProgress => {
    asked++;
    throw failure('UNKNOWN_METHOD');
  };
  assert.equal(await told(3, answer), []);
  assert.is(asked, 1);
});

test.run();
