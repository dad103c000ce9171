// SPDX-License-Identifier: Apache-2.0
import { execFileSync, spawnSync } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import { BpfMap, BpfObject, type BpfProgram, RingBuffer } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, u64, until } from './fixture.js';

interface Context {
  object: BpfObject;
  report: BpfProgram;
  map: BpfMap;
}

const test = suite<Context>('ring');
const library = new URL('../../addon/lib/index.js', import.meta.url).href;

test.before.each((context) => {
  context.object = BpfObject.open(compile('sample')).load();
  context.report = context.object.program('report');
  context.map = context.object.map('ring');
});

test.after.each(({ object, report, map }) => {
  for (const each of [object, report, map]) each.close();
});

/** Lets the program write a sample. */
function write(report: BpfProgram, number: number): void {
  const data = Buffer.alloc(64);
  u64(number).copy(data);
  assert.is(report.testRun({ data }).retval, 1);
}

test('delivers copies of all samples, in order, those before it opened too', async ({ report, map }) => {
  const seen: Buffer[] = [];
  write(report, 0);
  const ring = new RingBuffer(map, (sample) => seen.push(sample));
  for (let i = 1; i < 1000; i++) write(report, i);
  await until(() => seen.length === 1000, 'all samples came');
  assert.equal(
    seen.map((sample) => Number(sample.readBigUInt64LE())),
    Array.from({ length: 1000 }, (_, i) => i),
  );
  ring.close();
});

test('goes on when the map is closed', async ({ report, map }) => {
  let seen = 0;
  const ring = new RingBuffer(map, () => seen++);
  map.close();
  write(report, 1);
  await until(() => seen === 1, 'the sample came');
  ring.close();
});

test('a flood of samples does not keep timers from running', async ({ report, map }) => {
  let seen = 0;
  let seenAtTimer = -1;
  for (let i = 0; i < 3000; i++) write(report, i);
  const ring = new RingBuffer(map, () => {
    if (seen++ === 0) setImmediate(() => (seenAtTimer = seen));
  });
  await until(() => seen === 3000, 'all samples came');
  assert.is(seenAtTimer > 0 && seenAtTimer < 3000, true, `${seenAtTimer} samples before the next turn`);
  ring.close();
});

test('closed inside the callback: no further sample comes, and nothing crashes', async ({ report, map }) => {
  let seen = 0;
  for (let i = 0; i < 10; i++) write(report, i);
  const ring = new RingBuffer(map, () => {
    seen++;
    ring.close();
    ring.close();
  });
  await until(() => seen === 1, 'the first sample came');
  await delay(20);
  write(report, 11);
  await delay(20);
  assert.is(seen, 1);
  ring.close();
});

test('one ring closes another inside its callback', async ({ object, report, map }) => {
  const other = new RingBuffer(map, () => undefined);
  const ring = new RingBuffer(map, () => {
    other.close();
    ring.close();
    object.close();
  });
  write(report, 1);
  await delay(50);
  other.close();
  ring.close();
});

test('what the callback throws is an uncaught exception; the ring goes on', () => {
  const script = `
    import { BpfObject, RingBuffer } from ${JSON.stringify(library)};
    const object = BpfObject.open(process.argv[1]).load();
    const report = object.program('report');
    let caught = 0;
    process.on('uncaughtException', (error) => { caught++; if (error.message !== 'mine') process.exit(3); });
    const ring = new RingBuffer(object.map('ring'), (sample) => {
      if (sample[0] === 2) { ring.close(); console.log('caught', caught); }
      else throw new Error('mine');
    });
    for (const number of [0, 1, 2]) report.testRun({ data: Buffer.alloc(64, number) });
  `;
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', script, '--', compile('sample')], {
    encoding: 'utf8',
  });
  assert.is(run.status, 0, run.stderr);
  assert.is(run.stdout, 'caught 2\n');
});

test('a live ring keeps the process, an unreferenced one does not, process.exit ends it cleanly', () => {
  const run = (then: string) =>
    spawnSync(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { BpfObject, RingBuffer } from ${JSON.stringify(library)};
         const object = BpfObject.open(process.argv[1]).load();
         const ring = new RingBuffer(object.map('ring'), () => { console.log('sample'); process.exit(0); });
         ${then}`,
        '--',
        compile('sample'),
      ],
      { encoding: 'utf8', timeout: 5000 },
    );
  const send = "setTimeout(() => object.program('report').testRun({ data: Buffer.alloc(64) }), 100).unref();";
  const kept = run(send);
  assert.equal([kept.status, kept.signal, kept.stdout], [0, null, 'sample\n'], kept.stderr);
  const left = run(`${send} ring.unref();`);
  assert.equal([left.status, left.signal, left.stdout], [0, null, ''], left.stderr);
});

test('a worker with a live ring can be terminated, also while samples come', async ({ report, map }) => {
  for (let round = 0; round < 20; round++) {
    const worker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       import(${JSON.stringify(library)}).then(({ BpfObject, RingBuffer }) => {
         const object = BpfObject.open(workerData).load();
         const ring = new RingBuffer(object.map('ring'), () => program.testRun({ data: Buffer.alloc(64) }));
         const program = object.program('report');
         for (let i = 0; i < 100; i++) program.testRun({ data: Buffer.alloc(64) });
         parentPort.postMessage('ready');
       });`,
      { eval: true, workerData: compile('sample') },
    );
    const failure = new Promise((_, reject) => worker.once('error', reject));
    await Promise.race([new Promise((resolve) => worker.once('message', resolve)), failure]);
    await delay(round % 3);
    assert.is(await worker.terminate(), 1);
  }
  // The addon of this thread still works.
  let seen = 0;
  const ring = new RingBuffer(map, () => seen++);
  write(report, 1);
  await until(() => seen === 1, 'the sample came');
  ring.close();
});

test('errors of a worker are BpfError of that worker', async () => {
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
     import(${JSON.stringify(library)}).then(({ BpfMap, BpfError }) => {
       try { BpfMap.openPinned('/nowhere'); } catch (error) { parentPort.postMessage([error instanceof BpfError, error.code]); }
     });`,
    { eval: true },
  );
  const message = await new Promise((resolve) => worker.once('message', resolve));
  assert.equal(message, [true, 'ENOENT']);
  await worker.terminate();
});

test('maps that nobody closes do not leak descriptors once they are collected', () => {
  const script = `
    import { readdirSync } from 'node:fs';
    import { BpfMap } from ${JSON.stringify(library)};
    const count = () => readdirSync('/proc/self/fd').length;
    const before = count();
    for (let i = 0; i < 200; i++) BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 1 });
    const opened = count() - before;
    for (let i = 0; i < 10 && count() > before + 20; i++) { gc(); await new Promise((done) => setImmediate(done)); }
    console.log(opened > 100, count() - before <= 20);
  `;
  const out = execFileSync(process.execPath, ['--expose-gc', '--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.is(out, 'true true\n');
});

test('only ring buffers, and only while they are open', ({ map }) => {
  const array = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 1 });
  assert.throws(() => new RingBuffer(array, () => undefined), /of type array, not ringbuf/);
  array.close();
  map.close();
  assert.throws(
    () => new RingBuffer(map, () => undefined),
    (error: NodeJS.ErrnoException) => error.code === 'EBADF',
  );
});

test.run();
