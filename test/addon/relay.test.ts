// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause, setImmediate as turn } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { setPipeSize } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { lines } from './lines.js';

const test = suite<{ place: string; reader: number; writer: number }>('what a line hands to a pipe');

const PIPE_BYTES = 1 << 20;
/** More than the buffers that are lent to the pipe would have, were they not as many as it holds; less than it holds. */
const UNREAD_BYTES = 768 << 10;

const PATIENCE_MS = 5000;

test.before.each((world) => {
  world.place = mkdtempSync(join(tmpdir(), 'homeproxy-relay-'));
  const path = join(world.place, 'pipe');
  execFileSync('mkfifo', [path]);
  world.reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  world.writer = openSync(path, constants.O_WRONLY);
  setPipeSize(world.writer, PIPE_BYTES);
});
test.after.each(({ place, reader, writer }) => {
  for (const fd of [reader, writer]) if (fd >= 0) closeSync(fd);
  rmSync(place, { recursive: true });
});

/** What is in the pipe now. */
function readNow(fd: number, into: Buffer): number {
  try {
    return readSync(fd, into);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0;
    throw error;
  }
}

async function readBytes(fd: number, count: number): Promise<Buffer> {
  const all = Buffer.alloc(count);
  for (let at = 0; at < count; ) {
    const got = readNow(fd, all.subarray(at, Math.min(count, at + 100_000))); // no whole pages
    if (got === 0) await turn();
    at += got;
  }
  return all;
}

test('is what was sent, though nobody has read it yet when more comes', async ({ reader, writer }) => {
  const [source, destination] = await lines();
  const content = randomBytes(UNREAD_BYTES);
  const [, { bytes }] = await Promise.all([source.write(content), destination.relay(writer, UNREAD_BYTES)]);
  assert.is(bytes, UNREAD_BYTES);
  assert.ok(content.equals(await readBytes(reader, UNREAD_BYTES)));
  source.cut();
  destination.cut();
});

test('is what was sent, however slowly it is read', async ({ reader, writer }) => {
  const [source, destination] = await lines();
  const content = randomBytes(16 * PIPE_BYTES + 12_345);
  const relayed = destination.relay(writer);
  const sent = source.write(content).then(() => source.finish());
  assert.ok(content.equals(await readBytes(reader, content.length)));
  await sent;
  assert.equal(await relayed, { bytes: content.length, ended: true });
  source.cut();
  destination.cut();
});

test('comes at once when it is little, also after much, for which its reader sleeps longer', async ({
  reader,
  writer,
}) => {
  const [source, destination] = await lines();
  const relayed = destination.relay(writer);
  for (const size of [4 * PIPE_BYTES, 1, 4 * PIPE_BYTES, 5000, 100_000]) {
    const content = randomBytes(size);
    const [, came] = await Promise.all([
      source.write(content),
      Promise.race([readBytes(reader, size), pause(PATIENCE_MS, undefined, { ref: false })]),
    ]);
    assert.ok(came?.equals(content), `${size} bytes`);
  }
  await source.finish();
  assert.is((await relayed).ended, true);
  source.cut();
  destination.cut();
});

test('ends with EPIPE when nobody reads it any more', async (world) => {
  const [source, destination] = await lines();
  closeSync(world.reader);
  world.reader = -1;
  const sent = source.write(randomBytes(UNREAD_BYTES)).catch(() => undefined);
  try {
    await destination.relay(world.writer);
    assert.unreachable('it went nowhere');
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    assert.equal([code, syscall], ['EPIPE', 'write']);
  }
  destination.cut();
  source.cut();
  await sent;
});

test.run();
