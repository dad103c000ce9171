// limit: 120 s
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { suite } from '../suite.js';

const runner = fileURLToPath(new URL('../run.js', import.meta.url));
const fixtures = fileURLToPath(new URL('../fixtures/runner/', import.meta.url));

interface Outcome {
  readonly status: number | null;
  readonly output: string;
  readonly lastLine: string | undefined;
}

function runFixtures(names: readonly string[], env: NodeJS.ProcessEnv = {}): Outcome {
  const args = [runner, '--root', fixtures, ...names];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    env: { ...process.env, CI: '', ...env },
  });
  return { status, output: stdout + stderr, lastLine: stdout.trimEnd().split('\n').at(-1) };
}

const red = suite('a false green of uvu is red');

/** Fixture, the reason that the runner must give, and how many tests count as passed and failed. */
const falseGreens: readonly (readonly [string, RegExp, string])[] = [
  ['throwing-before-hook', /0 of 1 tests passed/, '0 passed, 1 failed'],
  ['throwing-before-hook-and-skip', /0 of 1 tests passed/, '0 passed, 1 failed, 1 skipped'],
  ['throwing-after-each-hook', /\d of 2 tests passed/, '0 passed, 2 failed'],
  ['forgotten-run', /test\.run\(\) is missing; no test results/, '0 passed, 1 failed'],
  ['forgotten-run-of-one-suite', /second\.run\(\) is missing/, '1 passed, 1 failed'],
  ['thrown-string', /0 of 1 tests passed/, '0 passed, 1 failed'],
  ['rejection-after-the-end', /exit status 1/, '1 passed, 1 failed'],
  ['ended-early', /no test results/, '0 passed, 1 failed'],
  ['native-crash', /ended by SIGSEGV.*no test results/, '0 passed, 1 failed'],
  ['native-crash-at-exit', /ended by SIGSEGV/, '1 passed, 1 failed'],
  ['hang', /still running after its limit of 1 s/, '0 passed, 1 failed'],
  ['hang-after-the-end', /still running after its limit of 1 s/, '1 passed, 1 failed'],
  ['no-tests', /it has no tests/, '0 passed, 1 failed'],
  ['left-process', /left processes behind: \d+ \(sleep\)/, '1 passed, 1 failed'],
  ['skips-without-reason', /1 skipped, but 0 with a reason/, '1 passed, 1 failed, 1 skipped'],
  ['only', /1 skipped, but 0 with a reason/, '1 passed, 1 failed, 1 skipped'],
];

for (const [name, reason, lastLine] of falseGreens) {
  red(name, () => {
    const outcome = runFixtures([`unit/${name}`]);
    assert.is(outcome.status, 1, outcome.output);
    assert.match(outcome.output, reason);
    assert.is(outcome.lastLine, lastLine);
  });
}

red('a failing test prints the output of its file whole', () => {
  const outcome = runFixtures(['unit/fails']);
  assert.is(outcome.status, 1);
  assert.match(outcome.output, /one is not two/);
  assert.match(outcome.output, /FAIL {2}unit\/fails/);
  assert.is(outcome.lastLine, '1 passed, 1 failed');
});

red('a hook that fails says why', () => {
  assert.match(
    runFixtures(['unit/throwing-before-hook']).output,
    /FAIL {2}before the tests[\s\S]*there is no such machine/,
  );
});

red('a file that fails beside one that passes', () => {
  const outcome = runFixtures(['unit/passes', 'unit/fails']);
  assert.is(outcome.status, 1);
  assert.is(outcome.lastLine, '3 passed, 1 failed');
});

red('a skip in CI', () => {
  const outcome = runFixtures(['unit/skips-with-reason'], { CI: 'true' });
  assert.is(outcome.status, 1);
  assert.match(outcome.output, /skipped: two: this kernel has no such thing/);
});

red('a kind without tests', () => {
  assert.is(runFixtures(['lab']).status, 2);
});

red('a name that no file has', () => {
  const outcome = runFixtures(['unit/nowhere']);
  assert.is(outcome.status, 2);
  assert.match(outcome.output, /no test file or kind 'unit\/nowhere'/);
});

red.run();

const green = suite('green');

green('passing tests take one line', () => {
  const outcome = runFixtures(['unit/passes']);
  assert.is(outcome.status, 0, outcome.output);
  assert.match(outcome.output, /^ok {4}unit\/passes: 2 passed \(\d+\.\d s\)\n\n2 passed, 0 failed\n$/);
});

green('a skip with its reason', () => {
  const outcome = runFixtures(['unit/skips-with-reason']);
  assert.is(outcome.status, 0, outcome.output);
  assert.match(outcome.output, /skipped: two: this kernel has no such thing/);
  assert.is(outcome.lastLine, '1 passed, 0 failed, 1 skipped');
});

green('a file is found by its source', () => {
  const source = fixtures.replace('/dist/', '/');
  assert.is(runFixtures([join(source, 'unit/passes.test.ts')]).lastLine, '2 passed, 0 failed');
});

green.run();

const interrupted = suite('Ctrl-C');

interrupted('waits for the clean-up of the file under way, starts no other and ends with 130', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'runner-test-'));
  const report = join(folder, 'report');
  const read = () => {
    try {
      return readFileSync(report, 'utf8');
    } catch {
      return '';
    }
  };
  try {
    const args = [runner, '--root', fixtures, 'unit/cleans-up-on-interrupt'];
    const temporary = join(folder, 'temporary');
    mkdirSync(temporary);
    const env = { ...process.env, RUNNER_FIXTURE_REPORT: report, TMPDIR: temporary };
    const child = spawn(process.execPath, args, { env });
    const ended = new Promise<number | null>((resolve) => child.once('exit', (status) => resolve(status)));
    const deadline = Date.now() + 20_000;
    while (read() !== 'ready' && Date.now() < deadline) await sleep(20);
    child.kill('SIGINT');
    assert.is(await ended, 130);
    assert.is(read(), 'cleaned up');
    assert.equal(readdirSync(temporary), [], 'not even what the file forgot');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

interrupted.run();
