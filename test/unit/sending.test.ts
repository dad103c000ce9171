// limit: 120 s
import { closeSync, constants, mkdtempSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { INVENTORY } from '../../cli/checkpoint/criu.js';
import { PAGES, PagePipe } from '../../cli/checkpoint/page-pipe.js';
import { PAGE_BYTES } from '../../cli/checkpoint/private-memory.js';
import { Ahead } from '../../cli/migration/difference.js';
import { decodeImages, keepAhead } from '../../cli/migration/image-stream.js';
import { type ImageRoad, Sending, sendAhead } from '../../cli/migration/sending.js';
import { suite } from '../suite.js';
import { cut, emptyFolder, PLENTY, read } from './image-stream-fixtures.js';
import { endSubjects, remove, Subject } from './private-world.js';

const test = suite<{ folder: string }>('sending of images');
const TO = { name: 'host2', address: '192.0.2.2' };
const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown): void => {
  unhandled.push(reason);
};

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'sending-'));
  process.on('unhandledRejection', onUnhandled);
});
test.after.each(async () => {
  await turn();
  assert.equal(unhandled.splice(0), [], 'somebody takes every failure');
});
test.after(({ folder }) => {
  process.off('unhandledRejection', onUnhandled);
  endSubjects();
  remove(folder);
});

/** Lets all that is due happen; Node reports a rejection that nobody handles before. */
async function turn(): Promise<void> {
  for (let round = 0; round < 5; round++) await new Promise((resolve) => setImmediate(resolve));
}

/** A road within this process. Like the real one it is cut by its signal. */
class Road implements ImageRoad {
  readonly chunks: Buffer[] = [];
  readonly ahead: Buffer[] = [];
  signal: AbortSignal | undefined;
  private wake: () => void = () => undefined;

  constructor(private readonly keeps = PLENTY) {}

  async open(): Promise<void> {}

  async sendMemory(): Promise<void> {}
  async sendLater(): Promise<void> {}

  async sendAhead(_to: unknown, _migration: string, pages: AsyncIterable<Buffer>): Promise<number> {
    for await (const chunk of pages) this.ahead.push(chunk);
    return Math.min(this.keeps, Buffer.concat(this.ahead).length);
  }

  async send(_to: unknown, _migration: string, images: AsyncIterable<Buffer>, signal: AbortSignal): Promise<void> {
    this.signal = signal;
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    await Promise.race([this.carry(images), aborted]);
  }

  protected async carry(images: AsyncIterable<Buffer>): Promise<void> {
    for await (const chunk of images) {
      this.chunks.push(chunk);
      this.wake();
    }
  }

  /** Waits for the next chunk. */
  async carried(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
  }

  get sent(): Buffer {
    return Buffer.concat(this.chunks);
  }
}

/** A road that breaks on the first bytes, or before it has taken any. */
class BrokenRoad extends Road {
  constructor(private readonly when: 'at once' | 'under way') {
    super();
  }

  protected override async carry(images: AsyncIterable<Buffer>): Promise<void> {
    if (this.when === 'under way') for await (const _ of images) break;
    throw new Error('the network is gone');
  }
}

async function begin(context: { folder: string }, road: Road, ahead = Buffer.alloc(0)) {
  const folder = emptyFolder(context);
  const pages = PagePipe.create(folder);
  const sending = new Sending(road, {
    to: TO,
    migration: 'm1',
    folder,
    together: false,
    pages,
    ahead: new Ahead(ahead),
    pid: process.pid,
  });
  return { folder, pages, sending };
}

function openAsCriu(folder: string): number {
  return openSync(join(folder, PAGES), constants.O_RDWR);
}

function writeImages(folder: string): void {
  writeFileSync(join(folder, 'core.img'), 'registers');
  writeFileSync(join(folder, INVENTORY), 'inventory');
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => assert.unreachable('it should have failed'),
    (error: unknown) => error,
  );
}

test('pages travel while CRIU dumps; the other images and the end only when it has', async (context) => {
  const road = new Road();
  const { folder, sending } = await begin(context, road);
  const fd = openAsCriu(folder);
  const first = road.carried();
  writeSync(fd, Buffer.alloc(512 << 10, 'page'));
  await first; // before the last ones are written
  const rest = road.carried();
  writeSync(fd, Buffer.alloc(PAGE_BYTES, 'last'));
  closeSync(fd);
  await rest;
  await turn();
  const before = road.sent.length;
  writeImages(folder); // would be missing if the folder had been read before
  await turn();
  assert.is(road.sent.length, before);
  sending.complete();
  assert.is(await sending.delivered, road.sent.length);

  const there = emptyFolder(context);
  assert.is((await decodeImages(cut(road.sent), there, PLENTY)).toString(), 'inventory');
  assert.equal([...read(there).keys()].sort(), ['core.img', PAGES]);
  const pages = Buffer.concat([Buffer.alloc(512 << 10, 'page'), Buffer.alloc(PAGE_BYTES, 'last')]);
  assert.ok(read(there).get(PAGES)?.equals(pages));
  const names = [PAGES, 'core.img', INVENTORY].map((name) => road.sent.indexOf(name));
  assert.ok((names[0] ?? -1) >= 0 && Math.max(...names.slice(1)) > before - 100, 'the pages come first');
});

test('pages that the destination has do not travel again', async (context) => {
  const ahead = Buffer.concat([Buffer.alloc(PAGE_BYTES, 1), Buffer.alloc(PAGE_BYTES, 2)]);
  const road = new Road();
  const { folder, sending } = await begin(context, road, ahead);
  const fd = openAsCriu(folder);
  writeSync(fd, ahead);
  closeSync(fd);
  writeImages(folder);
  sending.complete();
  assert.ok((await sending.delivered) < PAGE_BYTES);
  const there = emptyFolder(context);
  await keepAhead(cut(ahead), there, PLENTY);
  await decodeImages(cut(road.sent), there, PLENTY);
  assert.ok(read(there).get(PAGES)?.equals(ahead));
});

test('a CRIU that has never opened the pipe had no pages', async (context) => {
  const road = new Road();
  const { folder, sending } = await begin(context, road);
  writeImages(folder);
  sending.complete();
  await sending.delivered;
  const there = emptyFolder(context);
  await decodeImages(cut(road.sent), there, PLENTY);
  assert.is(read(there).get(PAGES)?.length, 0);
});

test('giving up cuts the road, and its reason is that of the failure', async (context) => {
  const road = new Road();
  const { folder, sending } = await begin(context, road);
  const fd = openAsCriu(folder);
  const reason = new Error('the process could not be dumped');
  assert.is(road.signal?.aborted, false);
  sending.giveUp(reason);
  assert.is(await failure(sending.delivered), reason);
  assert.is(road.signal?.aborted, true);
  assert.is(road.signal?.reason, reason);
  closeSync(fd);
});

test('a stream that was given up has no end, even on a road that does not hear of it', async (context) => {
  class DeafRoad extends Road {
    override async send(_to: unknown, _migration: string, images: AsyncIterable<Buffer>): Promise<void> {
      await this.carry(images);
    }
  }
  const road = new DeafRoad();
  const { folder, sending } = await begin(context, road);
  writeImages(folder);
  const reason = new Error('given up');
  sending.giveUp(reason);
  sending.complete(); // too late
  assert.is(await failure(sending.delivered), reason);
  assert.not.ok(road.sent.includes(INVENTORY));
});

for (const when of ['at once', 'under way'] as const) {
  test(`a road that breaks ${when} fails the step of the dump, and CRIU gets on`, async (context) => {
    const { folder, sending } = await begin(context, new BrokenRoad(when));
    const never = new Promise<void>(() => undefined);
    const failed = failure(sending.unlessItFails(never));
    // CRIU: more than the pipe has room for
    const writer = Subject.speaking(
      "import sys\nwith open(sys.argv[1], 'r+b', 0) as pipe:\n  for _ in range(80): pipe.write(bytes(65536))\nprint('done')",
      join(folder, PAGES),
    );
    assert.match(String(await failed), /the network is gone/);
    assert.match(String(await failure(sending.delivered)), /the network is gone/);
    assert.is(await writer.says(), 'done');
    await writer.ended();
  });
}

test('CRIU gets on also after the sending was given up', async (context) => {
  const { folder, sending } = await begin(context, new Road());
  sending.giveUp(new Error('given up'));
  const writer = Subject.speaking(
    "import sys\nwith open(sys.argv[1], 'r+b', 0) as pipe:\n  for _ in range(80): pipe.write(bytes(65536))\nprint('done')",
    join(folder, PAGES),
  );
  assert.is(await writer.says(), 'done');
  await writer.ended();
});

test('a step of the dump gives what it gives, before the images are delivered and after', async (context) => {
  const { folder, pages, sending } = await begin(context, new Road());
  assert.is(await sending.unlessItFails(Promise.resolve('stopped')), 'stopped');
  const broken = new Error('CRIU failed');
  assert.is(await failure(sending.unlessItFails(Promise.reject(broken))), broken);
  writeImages(folder);
  sending.complete();
  await sending.delivered;
  let dumped: (text: string) => void = () => undefined;
  const late = sending.unlessItFails(
    new Promise<string>((resolve) => {
      dumped = resolve;
    }),
  );
  await turn();
  dumped('later');
  assert.is(await late, 'later');
  pages.close();
});

test('a step that fails when the sending has failed before is expected', async (context) => {
  const { pages, sending } = await begin(context, new BrokenRoad('at once'));
  let fail: (error: Error) => void = () => undefined;
  const step = new Promise<void>((_, reject) => {
    fail = reject;
  });
  assert.match(String(await failure(sending.unlessItFails(step))), /network/);
  fail(new Error('CRIU was killed'));
  sending.giveUp(new Error('too late'));
  sending.complete();
  pages.close();
});

/** A process with 3 MiB of its own. */
async function someProcess(): Promise<Subject> {
  const subject = Subject.speaking(
    "import signal\nmemory = b'homeproxy' * 350000\nprint('ready', flush=True)\nsignal.pause()",
  );
  await subject.says();
  return subject;
}

test('memory that goes ahead is what the destination keeps of it', async () => {
  const subject = await someProcess();
  const road = new Road();
  const { pages: kept } = await sendAhead(road, TO, 'm1', subject.pid);
  assert.ok(kept.equals(Buffer.concat(road.ahead)));
  assert.ok(kept.includes('homeproxy'.repeat(1000)));
  assert.ok(
    road.ahead.every((chunk) => chunk.length <= 1 << 20),
    'in pieces',
  );
  assert.is((await sendAhead(new Road(0), TO, 'm1', subject.pid)).pages.length, 0);
  subject.kill();
});

test('a process that is gone sends nothing ahead', async () => {
  const subject = await someProcess();
  const { pid } = subject;
  subject.kill();
  await subject.ended();
  const road = new Road();
  assert.is((await sendAhead(road, TO, 'm1', pid)).pages.length, 0);
  assert.equal(road.ahead, []);
});

test.run();
