// limit: 300 s
/** Types what README has for one machine, line by line. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { Lab } from '../../cli/lab/lab.js';
import { projectFile } from '../../cli/system/project.js';
import { downAll, labName } from '../lab/lab-fixture.js';
import { suite } from '../suite.js';
import { searchPath } from './machine.js';
import { byHand } from './readme.js';
import { Terminal } from './terminal.js';

const LAB = labName('by-hand');
/** What a line is to show, or to bring about before the next one; each line must be there. */
const PROMISES: { line: RegExp; shows?: RegExp; holds?: () => Promise<void> }[] = [
  { line: /python3 -m http.server 8000/, holds: listens }, // nobody types as fast
  { line: / homeproxy migrate /, shows: /host1/ },
  { line: / homeproxy ps$/, shows: /host1/ },
  { line: / curl /, shows: /<!DOCTYPE HTML/i },
  { line: / lab down$/, holds: async () => assert.is((await Lab.status(LAB)).state, 'down') },
];

const test = suite('what README has to try by hand');
let terminal: Terminal;

test.before(async () => {
  const start = ([program = '', ...args]: readonly string[]) => spawn(program, args, { stdio: 'pipe' });
  terminal = new Terminal(start, { PATH: searchPath(), HOMEPROXY_LAB: LAB });
  await terminal.prompt();
  terminal.type(`cd '${projectFile('')}'`);
  await terminal.prompt();
});
test.after(async () => {
  terminal?.close();
  await downAll();
});

async function listens(): Promise<void> {
  const home = (await Lab.open(LAB)).node('home');
  for (const deadline = Date.now() + 30_000; ; await sleep(50)) {
    if ((await home.run(['ss', '-Hltn', 'sport = 8000'])).stdout !== '') return;
    if (Date.now() > deadline) throw new Error('nothing listens on port 8000');
  }
}

test('every line does what it says, in that order', async () => {
  const lines = byHand();
  for (const line of lines) {
    terminal.type(line);
    const { status, output } = await terminal.prompt();
    assert.is(status, 0, `README: ${line}\nexit status ${status}:\n${output}`);
    const command = line.replace(/ +# .*$/, '');
    for (const { shows, holds } of PROMISES.filter((promise) => promise.line.test(command))) {
      if (shows !== undefined) assert.match(output, shows, `README: ${line}\nshows:\n${output}`);
      await holds?.();
    }
  }
  for (const { line } of PROMISES) {
    assert.ok(
      lines.some((candidate) => line.test(candidate.replace(/ +# .*$/, ''))),
      `README has no line ${line}`,
    );
  }
});

test.run();
