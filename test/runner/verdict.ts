import { stripVTControlCharacters } from 'node:util';

/** How a test file's process ended, and all it printed. */
export interface Ending {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
  /** Faults the runner saw itself, such as the time limit. */
  readonly faults: readonly string[];
}

export interface Verdict {
  readonly passed: number;
  /** At least 1 when anything at all is wrong with the file. */
  readonly failed: number;
  readonly skipped: number;
  readonly skipReasons: readonly string[];
  /** Empty when the file passed. */
  readonly faults: readonly string[];
}

const closing = /^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)\n {2}Duration: /gm;

/**
 * Judges a test file by its exit status and by uvu's closing lines together, because uvu 0.5.6 exits 0 after a hook that
 * threw, a thrown string and a forgotten `.run()`. uvu counts skipped tests beside Total, not in it, so every test that
 * was to run has passed only if Passed = Total.
 * @param strictSkips a skip is a fault (in CI)
 */
export function judge(ending: Ending, strictSkips: boolean): Verdict {
  const output = stripVTControlCharacters(ending.output);
  const faults = [...ending.faults];
  if (ending.signal !== null) faults.push(`ended by ${ending.signal}`);
  else if (ending.status !== 0) faults.push(`exit status ${ending.status}`);

  const last = [...output.matchAll(closing)].at(-1);
  const [total = 0, passed = 0, skipped = 0] = last?.slice(1).map(Number) ?? [];
  if (last === undefined) faults.push('no test results (a forgotten .run(), or it ended before its tests did)');
  else if (total + skipped === 0) faults.push('it has no tests');
  else if (passed !== total) faults.push(`${passed} of ${total} tests passed`);

  const skipReasons = [...output.matchAll(/^skip: (.+)$/gm)].map((match) => match[1] as string);
  if (skipped > skipReasons.length) faults.push(`${skipped} skipped, but ${skipReasons.length} with a reason`);
  if (skipped > 0 && strictSkips) faults.push('skipped tests, which CI does not allow');

  const failed = Math.max(total - passed, faults.length > 0 ? 1 : 0);
  return { passed, failed, skipped, skipReasons, faults };
}

/**
 * Names the suites of a compiled test file whose `.run()` was forgotten: uvu leaves them out without a word, which the
 * totals cannot show when another suite of the file did run.
 */
export function suitesNotRun(code: string): string[] {
  const names = [...code.matchAll(/^(?:export )?(?:const|let|var) (\w+) = suite\(/gm)].map(
    (match) => match[1] as string,
  );
  if (/^import \{[^}]*\btest\b[^}]*\} from '(uvu|[./]+suite\.js)'/m.test(code)) names.push('test');
  return names.filter((name) => !new RegExp(`\\b${name}\\.run\\(`).test(code));
}
