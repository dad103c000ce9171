import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { Errors } from '@oclif/core';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { BaseCommand } from '../../cli/base-command.js';
import { describeThrown, errorJson, errorText, jsonLine } from '../../cli/error-report.js';
import {
  asHomeproxyError,
  BugError,
  type ErrorDocument,
  ExternalError,
  fromDocument,
  UserError,
} from '../../cli/errors.js';
import { Progress } from '../../cli/progress.js';
import { suite } from '../suite.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const RUN = join(root, 'cli/bin/run.js');

const test = suite<{ folder: string }>('errors and their rendering');

test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-errors-'));
});
test.after.each((world) => rmSync(world.folder, { recursive: true, force: true }));

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

async function homeproxy(
  args: string[],
  options: { run?: string; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const child = spawn(process.execPath, ['--no-warnings', options.run ?? RUN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NO_COLOR: '1', NODE_ENV: 'production', HOMEPROXY_DEBUG: '', ...options.env },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data) => {
    stdout += data;
  });
  child.stderr.on('data', (data) => {
    stderr += data;
  });
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { status, stdout, stderr };
}

const plain = stripVTControlCharacters;

test('a user error shows its code, its message and what to try, and no stack', () => {
  const error = new UserError({ code: 'PROCESS_UNKNOWN', message: 'there is no process 4711', remedy: 'homeproxy ps' });
  assert.is(plain(errorText(error)), 'error PROCESS_UNKNOWN: there is no process 4711\n  try: homeproxy ps');
  assert.match(errorText(error, true), 'errors-report.test');
});

test('an external failure shows the command and the lines of its log', () => {
  const error = new ExternalError({ code: 'X', message: 'criu failed', command: 'criu dump -t 1', log: ['a', 'b'] });
  assert.is(plain(errorText(error)), 'error X: criu failed\n  command: criu dump -t 1\n  | a\n  | b');
});

test('a bug says what to report and how to see more; with debug also its causes', () => {
  const error = new BugError('it cannot be', new TypeError('the cause'));
  assert.match(errorText(error), /this is a bug: please report .*homeproxy status --json/);
  assert.match(errorText(error), 'HOMEPROXY_DEBUG=1');
  assert.match(errorText(error, true), 'caused by TypeError: the cause');
});

test('parse errors of oclif become USAGE with exit 2 and the help to read', () => {
  const error = describeThrown(new Errors.CLIError('Nonexistent flag: --x\nSee more help with --help'), 'lab:up');
  assert.equal([error.code, error.exitStatus, error.message], ['USAGE', 2, 'Nonexistent flag: --x']);
  assert.is(error.remedy, 'homeproxy lab up --help');
});

test('an abort is 130, unless its cause says more', () => {
  const abort = Object.assign(new Error('The operation was aborted'), { name: 'AbortError' });
  assert.is(describeThrown(abort).exitStatus, 130);
  const told = Object.assign(new Error('aborted'), {
    name: 'AbortError',
    cause: new UserError({ code: 'ROLLED_BACK', message: 'x', exitStatus: 6 }),
  });
  assert.is(describeThrown(told).code, 'ROLLED_BACK');
});

test('anything thrown is one of three kinds; text too', () => {
  assert.is(asHomeproxyError('text').message, 'text');
  assert.is(asHomeproxyError(undefined).kind, 'bug');
  const own = new UserError({ code: 'A', message: 'b' });
  assert.is(asHomeproxyError(own), own);
});

test('every error survives the journey as a document', () => {
  const document = fc.record({
    code: fc.stringMatching(/^[A-Z_]{1,20}$/),
    kind: fc.constantFrom('user' as const, 'external' as const),
    message: fc.string(),
    exitStatus: fc.integer({ min: 1, max: 130 }),
    remedy: fc.string(),
    command: fc.string(),
    log: fc.array(fc.string()),
  });
  fc.assert(
    fc.property(document, (full) => {
      const { command, log, ...user } = full;
      const sent: ErrorDocument = full.kind === 'external' ? { ...user, command, log } : user;
      const received = fromDocument(JSON.parse(JSON.stringify(sent)) as ErrorDocument);
      assert.equal(received.toDocument(), sent);
      assert.equal(errorJson(received).error, sent);
    }),
  );
});

test('results with 64-bit numbers are JSON in one line: a number where exact, else digits', () => {
  assert.is(jsonLine({ a: 5n, b: 2n ** 63n, c: ['x\ny'] }), '{"a":5,"b":"9223372036854775808","c":["x\\ny"]}');
});

test('progress on a terminal replaces the running step; elsewhere only outcomes are written; under --json nothing', () => {
  const written = (isTTY: boolean, silent: boolean): string => {
    let text = '';
    const write = (part: string): boolean => {
      text += part;
      return true;
    };
    const output = { isTTY, write } as never;
    const progress = new Progress(output, silent);
    progress.start('freeze');
    progress.done('freeze', '12.5 ms');
    progress.failed('transfer', 'refused');
    return text.replaceAll(/.\[3[0-9]m/g, ''); // the colours only
  };
  assert.is(written(false, false), '  ✔ freeze       12.5 ms\n  ✖ transfer     refused\n');
  const erase = '\r\u001b[2K';
  assert.is(written(true, false), `${erase}  … freeze${erase}  ✔ freeze       12.5 ms\n  ✖ transfer     refused\n`);
  assert.is(written(true, true), '');
});

test('Ctrl-C aborts the signal of the work; what the work then throws decides the exit status', async () => {
  class Probe extends BaseCommand {
    override async run(): Promise<void> {
      await this.parse(Probe);
      await this.interruptible(async (signal) => {
        setImmediate(() => process.emit('SIGINT'));
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        assert.is((signal.reason as UserError).exitStatus, 130);
        throw new UserError({ code: 'ROLLED_BACK', message: 'it runs where it was', exitStatus: 6 });
      });
    }
  }
  const before = process.listenerCount('SIGINT');
  try {
    await Probe.run([], root);
    assert.unreachable();
  } catch (error) {
    assert.is((error as Errors.ExitError).oclif?.exit, 6);
  }
  assert.is(process.listenerCount('SIGINT'), before, 'no handler is left');
});

test('the program: a wrong flag exits 2, as text on stderr and as JSON on stdout', async () => {
  const text = await homeproxy(['ca', 'show', '--nonsense']);
  assert.equal([text.status, text.stdout], [2, '']);
  assert.match(text.stderr, /^error USAGE: Nonexistent flag: --nonsense\n {2}try: homeproxy ca show --help\n$/);
  const json = await homeproxy(['ca', 'show', '--nonsense', '--json']);
  assert.is(json.status, 2);
  assert.is(JSON.parse(json.stdout).error.code, 'USAGE');
  assert.is(json.stdout.trim().split('\n').length, 1);
});

test('the program: a missing argument, a missing flag and an unknown command exit 2', async () => {
  for (const args of [['ca', 'issue'], ['ca', 'issue', 'home'], ['nonsense'], ['ca', 'nonsense']]) {
    for (const more of [[], ['--json']]) {
      const outcome = await homeproxy([...args, ...more]);
      assert.is(outcome.status, 2, `${[...args, ...more].join(' ')}: ${outcome.stderr}`);
      if (more.length === 0) assert.match(outcome.stderr, 'error USAGE: ');
      else assert.is(JSON.parse(outcome.stdout).error.code, 'USAGE');
    }
  }
});

test('the program: a domain error keeps its exit status under --json', async ({ folder }) => {
  const env = { HOMEPROXY_CONFIG: join(folder, 'absent.yaml') };
  for (const args of [
    ['status'],
    ['status', '--json'],
    ['status', '--config', join(folder, 'absent.yaml'), '--json'],
  ]) {
    const outcome = await homeproxy(args, { env });
    assert.is(outcome.status, 2, outcome.stderr);
    assert.match(outcome.stdout + outcome.stderr, 'CONFIG_MISSING');
  }
});

test('the program: a stack is shown only with HOMEPROXY_DEBUG=1', async ({ folder }) => {
  const args = ['ca', 'show', join(folder, 'absent.pem')];
  assert.not.match((await homeproxy(args)).stderr, / at .*credentials/);
  assert.match((await homeproxy(args, { env: { HOMEPROXY_DEBUG: '1' } })).stderr, / at .*credentials/);
});

test('the program: ca init, issue and show work as their help says', async ({ folder }) => {
  const directory = join(folder, 'ca');
  const made = await homeproxy(['ca', 'init', '--directory', directory, '--json']);
  assert.is(made.status, 0, made.stderr);
  assert.is(JSON.parse(made.stdout).authority.kind, 'authority');
  const again = await homeproxy(['ca', 'init', '--directory', directory, '--json']);
  assert.equal([again.status, JSON.parse(again.stdout).error.code], [2, 'FILE_EXISTS']);
  const out = join(folder, 'home');
  const issued = await homeproxy([
    'ca',
    'issue',
    'home',
    '--address',
    '10.77.0.2',
    '--directory',
    directory,
    '--out',
    out,
  ]);
  assert.is(issued.status, 0, issued.stderr);
  const shown = await homeproxy(['ca', 'show', join(out, 'node.pem')]);
  assert.match(shown.stdout, /^CN=home {2}\(node\)\n[\s\S]*names {8}home, 10\.77\.0\.2\n/);
});

test('the program: a reader that goes away is no failure', async () => {
  const child = spawn(process.execPath, ['--no-warnings', RUN, 'help'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.on('data', (data) => {
    stderr += data;
  });
  const status = await new Promise((resolve) => child.once('close', resolve));
  assert.equal([status, stderr.includes('EPIPE')], [0, false], stderr);
});

test('the program: the help of the whole lists the exit codes', async () => {
  const { status, stdout } = await homeproxy(['help']);
  assert.is(status, 0);
  for (const code of [0, 1, 2, 3, 4, 5, 6, 7, 130]) assert.match(stdout, new RegExp(`^ *${code} {2}\\w`, 'm'));
});

test('the program: a fresh clone says how to build it', async ({ folder }) => {
  mkdirSync(join(folder, 'cli/bin'), { recursive: true });
  cpSync(RUN, join(folder, 'cli/bin/run.js'));
  cpSync(join(root, 'package.json'), join(folder, 'package.json'));
  const bare = await homeproxy(['ps'], { run: join(folder, 'cli/bin/run.js') });
  assert.is(bare.status, 7);
  assert.match(bare.stderr, /error NOT_BUILT[\s\S]*npm run setup/);
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  const undist = await homeproxy(['ps'], { run: join(folder, 'cli/bin/run.js') });
  assert.is(undist.status, 7);
  assert.match(undist.stderr, 'dist/cli/base-command.js is missing');
});

test.run();
