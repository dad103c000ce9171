// limit: 60 s
/** Completion of commands and flags, as somebody at a terminal has it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import * as assert from 'uvu/assert';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';

const LIMIT_MS = 20_000;
const READY = 'ready @@';
/** What is typed before the TAB, and what stands there after it. */
const COMPLETED = [
  ['homeproxy migr', 'homeproxy migrate'],
  ['homeproxy drain --par', 'homeproxy drain --parallel'],
  ['homeproxy policy expl', 'homeproxy policy explain'],
] as const;

const test = suite('completion by the shell');
const home = mkdtempSync(join(tmpdir(), 'homeproxy-completion-'));
const environment = { HOME: home, PATH: process.env.PATH, LANG: 'C.UTF-8', TERM: 'dumb' };
let shell: ChildProcess | undefined;

test.before(() => {
  homeproxy('autocomplete', 'bash'); // writes down what both shells need
});
test.after.each(() => {
  shell?.stdin?.end();
  shell?.kill();
});
test.after(() => rmSync(home, { recursive: true }));

function homeproxy(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [projectFile('cli/bin/run.js'), ...args], {
    encoding: 'utf8',
    env: { ...environment, SHELL: '/bin/bash' },
  });
  assert.is(status, 0, stdout + stderr);
  return stdout;
}

/** An interactive shell on a terminal. @returns what types there, and waits until the text is shown after it */
function open(command: string): (keys: string, until: string) => Promise<void> {
  const started = spawn('script', ['--quiet', '--command', command, '/dev/null'], { env: environment, stdio: 'pipe' });
  shell = started;
  let output = '';
  let look = (): void => undefined;
  started.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
    look();
  });
  return (keys, until) =>
    new Promise((resolve, reject) => {
      const shown = (): string => stripVTControlCharacters(output).replaceAll('\r', '');
      const timer = setTimeout(() => reject(new Error(`no "${until}" in ${LIMIT_MS} ms:\n${shown()}`)), LIMIT_MS);
      look = () => {
        if (!shown().includes(until)) return;
        clearTimeout(timer);
        output = '';
        resolve();
      };
      started.stdin.write(keys);
    });
}

for (const [name, command] of [
  ['bash', 'bash --noprofile --norc -i'],
  ['zsh', 'zsh -f -i'],
] as const) {
  test(`${name} completes commands, topics and flags once its start file has our line`, async () => {
    const type = open(command);
    const line = homeproxy('autocomplete', 'script', name).trim();
    await type(`PS1='ready @''@ '\n`, READY);
    await type(`${line}\n`, READY);
    for (const [typed, completed] of COMPLETED) {
      await type(`${typed}\t`, completed);
      await type('\u0015\n', READY); // takes the line back
    }
  });
}

test.run();
