import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { Journal } from '../../cli/migration/journal.js';
import { test } from '../suite.js';

const folder = mkdtempSync(join(tmpdir(), 'journal-'));
test.after(() => rmSync(folder, { recursive: true }));

const queue = { name: 'hpt1', ifindex: 7, holder: { pid: 1, startTime: '2' } };

test('what was put is there when the store is opened again', async () => {
  const first = new Journal(join(folder, 'again'));
  first.queues.put('1', queue);
  await first.close();
  const second = new Journal(join(folder, 'again'));
  assert.equal(second.queues.get('1'), queue);
  assert.equal(second.queues.all(), [queue]);
  second.queues.delete('1');
  assert.is(second.queues.get('1'), undefined);
  await second.close();
});

test('a transaction that throws leaves nothing', async () => {
  const journal = new Journal(join(folder, 'whole'));
  assert.throws(() =>
    journal.transaction(() => {
      journal.queues.put('1', queue);
      throw new Error('half way');
    }),
  );
  assert.is(journal.queues.get('1'), undefined);
  await journal.close();
});

test('steps can be read at once, and are on disk when the store was closed or none has followed for a while', async () => {
  const journal = new Journal(join(folder, 'steps'));
  const noted = (): number => journal.steps.of('m-1').length;
  journal.steps.append('m-1', { step: 'source:noted', at: 1 });
  journal.steps.append('m-1', { step: 'source:frozen', at: 2 });
  journal.steps.append('m-0', { step: 'source:noted', at: 3 });
  assert.is(noted(), 2);
  assert.equal(journal.steps.migrations(), ['m-0', 'm-1']);
  await sleep(500);
  for (let other = 2; other < 40; other++) journal.steps.append(`m-${other}`, { step: 'source:noted', at: other });
  assert.is(noted(), 2); // it is not at hand any more
  await journal.close();
  const again = new Journal(join(folder, 'steps'));
  assert.equal(
    again.steps.of('m-1').map(({ step }) => step),
    ['source:noted', 'source:frozen'],
  );
  assert.is(again.steps.migrations().length, 40);
  again.steps.delete('m-1');
  assert.equal(again.steps.of('m-1'), []);
  await again.close();
});

test('children do not inherit it: CRIU and pods must not hold the journal', async () => {
  const journal = new Journal(join(folder, 'children'));
  const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
  assert.match(stdout, /\/dev\/null|pipe:|socket:/);
  assert.not.match(stdout, /journal/);
  await journal.close();
});

test('a folder that cannot be made is a clear error', () => {
  assert.throws(
    () => new Journal('/dev/null/nowhere'),
    (error: unknown) => error instanceof UserError && error.code === 'JOURNAL_UNUSABLE' && error.exitStatus === 7,
  );
});

test.run();
