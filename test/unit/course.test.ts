import { setImmediate as turn } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { startCourse } from '../../cli/migration/course.js';
import { suite } from '../suite.js';

const test = suite('a migration that is stopped');
const stopped = AbortSignal.abort();
// Of the parts a course only passes on what it was given.
const parts = { signal: stopped, maxFreezeMs: 1000 } as unknown as Parameters<typeof startCourse>[0];

test('leaves a step behind whose failure, when it comes, ends nothing', async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', note);
  try {
    const course = startCourse(parts);
    let fail: (reason: Error) => void = () => undefined;
    const step = new Promise<never>((_resolve, reject) => {
      fail = reject;
    });
    const code = await course.unlessStopped(step).catch((error: { code?: string }) => error.code);
    assert.is(code, 'INTERRUPTED');
    fail(new Error('the source had given it up'));
    await turn();
    assert.equal(unhandled, []);
  } finally {
    process.off('unhandledRejection', note);
  }
});

test.run();
