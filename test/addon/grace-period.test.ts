// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import { BpfObject, programsEnded } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, u32, until } from './fixture.js';
import { bpffs } from './private-namespaces.js';

const test = suite('grace period');
const library = new URL('../../addon/lib/index.js', import.meta.url).href;

test('programs that run are waited for, while the event loop goes on', async () => {
  const object = BpfObject.open(compile('slow'));
  object.load();
  const times = object.map('times');
  const [began, ended] = [0, 1].map((key) => () => times.get(u32(key))?.readBigUInt64LE() ?? 0n);
  const pin = join(bpffs, 'slow');
  const program = object.program('slow');
  program.pin(pin);
  const worker = new Worker(
    `import(${JSON.stringify(library)}).then(({ BpfProgram }) =>
       BpfProgram.openPinned(require('node:worker_threads').workerData).testRun({ data: Buffer.alloc(64) }));`,
    { eval: true, workerData: pin },
  );
  const gone = once(worker, 'exit');
  try {
    await until(() => began?.() !== 0n, 'the program runs');
    let [turns, over] = [0, false];
    const waiting = programsEnded().then(() => {
      over = true;
    });
    const ticking = setInterval(() => turns++, 1);
    await until(() => turns > 10, 'the event loop goes on');
    clearInterval(ticking);
    assert.equal([over, ended?.()], [false, 0n], 'it still runs');
    times.set(u32(2), Buffer.from(BigUint64Array.of(1n).buffer)); // it may end
    await waiting;
    assert.is.not(ended?.(), 0n, 'it still runs');
    await gone;
  } finally {
    await worker.terminate();
    program.unpin(pin);
    program.close();
    times.close();
    object.close();
  }
});

test.run();
