// limit: 200 s
/** What can be seen while a process with much memory moves: by who watches the node, and by who wants its memory. */
import { readdirSync, statfsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { installProgram, startServer } from '../lab/c-program.js';
import { downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { NodeCommand, startHomeproxy } from '../lab/node-command.js';
import { describe, Scenario } from '../lab/scenario.js';
import { suite } from '../suite.js';

const PORT = 7600;
const MEGABYTES = 300;
const IMAGES = '/run/homeproxy/images';
const TMPFS_MAGIC = 0x01021994; // include/uapi/linux/magic.h
const OTHERS = 0o077;
/** CRIU's own figures, how many pages and microseconds, which it writes for everybody into a folder that is root's alone. */
const FIGURES = /\/stats-(dump|restore)$/;

const test = suite('while a large process moves');
let scenario: Scenario;
let pid: number;
let conversation: LineClient;

test.before(async () => {
  scenario = await Scenario.start('large', { hosts: 1 });
  const { home, client, lab } = scenario;
  const program = await installProgram('remembering', home, lab.node('host1'));
  pid = await startServer(home, [program, '0.0.0.0', String(PORT), String(MEGABYTES), '50'], PORT);
  conversation = await LineClient.connect(client, home.address, PORT);
});
test.after(async () => {
  await conversation?.close();
  await downAll();
});

interface Seen {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly bytes: number;
}

/** All that is in a folder, and what is in those that are in it. */
function below(folder: string): Seen[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      const path = join(folder, entry.name);
      const { mode, uid, size } = statSync(path);
      return [{ path, mode, uid, bytes: size }, ...(entry.isDirectory() ? below(path) : [])];
    });
  } catch {
    return []; // gone meanwhile
  }
}

test('top draws the phase that it is in, on a terminal', async () => {
  const command = 'stty cols 120 rows 20; homeproxy top --interval 0.1';
  const top = new NodeCommand(scenario.home, ['script', '-qec', command, '/dev/null']);
  await top.printed(/no process is away/);
  const move = startHomeproxy(scenario.home, ['migrate', String(pid), 'host1']);
  await top.printed(new RegExp(`${pid} +home +host1 +(inspect|prepare) +\\d+ ms +\\d+ ms +remembering`));
  assert.is((await move.ended).status, 0, describe(await move.ended));
  await top.printed(new RegExp(`${pid} +home +host1 +departed .*remembering`));
  top.write('q');
  assert.is((await top.ended).status, 0);
  await scenario.recall(pid);
});

test("its images are root's alone, in memory, and gone at the end", async () => {
  const folder = scenario.lab.node('host1').path(IMAGES);
  const move = startHomeproxy(scenario.home, ['migrate', String(pid), 'host1', '--mode', 'stop-and-copy']);
  const seen = new Map<string, Seen>();
  while (move.running) {
    for (const one of below(folder)) seen.set(one.path, one);
    await sleep(2);
  }
  assert.is((await move.ended).status, 0, describe(await move.ended));
  const found = [...seen.values()];
  assert.ok(Math.max(...found.map(({ bytes }) => bytes)) > MEGABYTES << 19, 'its memory was there');
  assert.equal(
    found.filter(({ path, mode, uid }) => uid !== 0 || ((mode & OTHERS) !== 0 && !FIGURES.test(path))),
    [],
  );
  assert.is(statSync(folder).mode & 0o777, 0o700);
  assert.is(statfsSync(folder).type, TMPFS_MAGIC);
  assert.equal(below(folder), []);
  assert.equal(below(scenario.home.path(IMAGES)), []);
  assert.match(await conversation.ask('?'), /^ok /);
});

test.run();
