// limit: 1800 s

import * as assert from 'uvu/assert';
import { installProgram, startServer } from '../lab/c-program.js';
import { downAll } from '../lab/lab-fixture.js';
import { LineClient } from '../lab/line-client.js';
import { Scenario } from '../lab/scenario.js';
import { suite } from '../suite.js';

const PORT = 7300;
const MEGABYTES = 100;
/** Written every 10 ms. */
const PAGES = 20;
const MOVES = 100;
/** A child may be there in the moment of the freeze: CRIU carries all of it then. */
const WITH_CHILD = new Set(['FORKED', 'TREE']);

const test = suite('a process with mappings of every kind, which it writes, moves, cuts and forks all the time');

test.after(downAll);

test(`knows every byte of them after each of ${MOVES} moves`, async () => {
  const scenario = await Scenario.start('memory-moves', { hosts: 1 });
  const { home, lab } = scenario;
  const program = await installProgram('remembering', home, lab.node('host1'));
  const size = [MEGABYTES, PAGES].map(String);
  const pid = await startServer(home, [program, home.address, String(PORT), ...size, 'forking'], PORT);
  const client = await LineClient.connect(scenario.client, home.address, PORT);
  let ahead = 0;
  for (let move = 0; move < MOVES; move++) {
    const { memory } = move % 2 === 0 ? await scenario.migrate(pid, 'host1') : await scenario.recall(pid);
    if (memory?.copied === 'ahead') ahead++;
    else assert.ok(WITH_CHILD.has(memory?.reason?.code ?? ''), memory?.reason?.words);
    assert.match(await client.ask('whole?'), /^ok /, `after move ${move + 1}`);
  }
  await client.close();
  assert.ok(ahead > MOVES / 4, `only ${ahead} of ${MOVES} times its memory was copied while it ran`);
});

test.run();
