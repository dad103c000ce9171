import type { Test } from 'uvu';

/** Skips a test and says why; the runner refuses a skip without a reason, and any skip in CI. */
export function skip<T>(test: Test<T>, name: string, reason: string): void {
  console.log(`\nskip: ${name}: ${reason}`);
  test.skip();
}
