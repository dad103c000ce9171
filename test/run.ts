/**
 * Runs the compiled tests, one process per file: `node dist/test/run.js [kind | name | file]...`
 * Exit status: 0 all passed; 1 a test failed, or none ran; 2 wrong use; 130 interrupted.
 */
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { choose, findTests, Interruption, runTest, type TestFile, type TestResult } from './runner/test-file.js';

const project = fileURLToPath(new URL('../../', import.meta.url));
const strictSkips = ['1', 'true'].includes(process.env.CI ?? '');
const interruption = new Interruption();

function report(result: TestResult): void {
  const { file, passed, skipped, faults, skipReasons } = result;
  const time = `${result.seconds.toFixed(1)} s`;
  const skips = skipped > 0 ? `, ${skipped} skipped` : '';
  if (faults.length === 0) {
    console.log(`ok    ${file.name}: ${passed} passed${skips} (${time})`);
  } else {
    console.log(`\n${result.output.trimEnd()}\n`);
    console.log(`FAIL  ${file.name} (${time}): ${faults.join('; ')}`);
  }
  for (const reason of skipReasons) console.log(`      skipped: ${reason}`);
}

async function runAll(files: readonly TestFile[], lanes: number, results: TestResult[]): Promise<void> {
  const waiting = [...files];
  const lane = async () => {
    for (let file = waiting.shift(); file !== undefined && !interruption.happened; file = waiting.shift()) {
      const result = await runTest(file, strictSkips, interruption);
      report(result);
      results.push(result);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

/** Everything but the unit tests makes namespaces and loads BPF, so an ordinary user's run goes on through sudo. */
function runAsRoot(): number {
  console.log('these tests need root: going on through sudo');
  const keep = '--preserve-env=CI,NODE_OPTIONS,TMPDIR';
  const again = spawnSync('sudo', [keep, process.execPath, ...process.argv.slice(1)], { stdio: 'inherit' });
  if (again.error !== undefined) console.error(`sudo: ${again.error.message}; run the tests as root`);
  return again.status ?? 1;
}

async function main(): Promise<number> {
  const options = { root: { type: 'string' } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const folder = values.root === undefined ? fileURLToPath(new URL('.', import.meta.url)) : resolve(values.root);
  const files = choose(findTests(folder, project), positionals, project);
  if (process.getuid?.() !== 0 && files.some((file) => file.kind !== 'unit')) return runAsRoot();

  const interrupt = () => interruption.interrupt();
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  const results: TestResult[] = [];
  const of = (kind: TestFile['kind']) => files.filter((file) => file.kind === kind);
  const isMatrix = ({ name }: TestFile) => name === 'lab/fault'; // a fifth of all the time, most of which it waits
  await Promise.all([
    runAll(
      files.filter(({ kind }) => !['lab', 'operate', 'apps'].includes(kind)),
      2,
      results,
    ),
    runAll(files.filter(isMatrix), 1, results),
  ]);
  // Each builds a network, and a server that is short of processors answers late; and what is typed sets this checkout up.
  const labs = [...of('lab').filter((file) => !isMatrix(file)), ...of('operate'), ...of('apps')];
  await runAll(labs, 1, results);

  const sum = (count: (result: TestResult) => number) => results.reduce((total, result) => total + count(result), 0);
  const passed = sum((result) => result.passed);
  const failed = sum((result) => result.failed);
  const skipped = sum((result) => result.skipped);
  const red = results.filter((result) => result.faults.length > 0);
  if (red.length > 0) console.log(`\nfailed: ${red.map((result) => result.file.name).join(', ')}`);
  if (interruption.happened) console.log('\ninterrupted');
  else if (passed + failed === 0) console.log('\nno test ran');
  console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
  if (interruption.happened) return 130;
  return failed > 0 || passed === 0 ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 2;
}
