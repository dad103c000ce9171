// limit: 120 s
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { PAGES, PagePipe } from '../../cli/checkpoint/page-pipe.js';
import { suite } from '../suite.js';
import { remove } from './private-world.js';

const test = suite<{ folder: string }>('pipe of pages');
const children: ChildProcess[] = [];

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'page-pipe-'));
});
test.after.each(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});
test.after(({ folder }) => remove(folder));

let folders = 0;
function dumpFolder({ folder }: { folder: string }): string {
  const path = join(folder, String(folders++));
  mkdirSync(path);
  return path;
}

/** For reading as well, unlike CRIU: so it need not wait for the other end. */
function openAsCriu(folder: string): number {
  return openSync(join(folder, PAGES), constants.O_RDWR);
}

function pattern(bytes: number): Buffer {
  const content = Buffer.alloc(bytes);
  for (let at = 0; at + 4 <= bytes; at += 4) content.writeUInt32LE(at, at);
  return content;
}

const WRITER = `
const fs = require('node:fs');
const [path, bytes] = process.argv.slice(1);
const content = Buffer.alloc(Number(bytes));
for (let at = 0; at + 4 <= content.length; at += 4) content.writeUInt32LE(at, at);
const fd = fs.openSync(path, 'r+');
for (let at = 0; at < content.length; ) at += fs.writeSync(fd, content, at, Math.min(50000, content.length - at));
fs.closeSync(fd);
`;

/** A writer of the pattern, as CRIU opens the pipe; it stands while the pipe is full. */
function startWriter(folder: string, bytes: number): Promise<number> {
  const child = spawn(process.execPath, ['-e', WRITER, join(folder, PAGES), String(bytes)], { stdio: 'inherit' });
  children.push(child);
  return once(child, 'exit').then(([status]) => status as number);
}

async function all(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

test('the pipe is a FIFO of root alone, where CRIU writes the image', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const stat = statSync(join(folder, PAGES));
  assert.ok(stat.isFIFO());
  assert.is(stat.mode & 0o777, 0o600);
  pipe.close();
});

for (const bytes of [1, 5_000_001]) {
  test(`the ${bytes} bytes of a writer come as they were, and end when it closes`, async (context) => {
    const folder = dumpFolder(context);
    const pipe = PagePipe.create(folder);
    const written = startWriter(folder, bytes);
    assert.ok((await all(pipe.chunks())).equals(pattern(bytes)));
    assert.is(await written, 0);
  });
}

test('a writer that comes while we wait is read, and one that has not closed yet is waited for', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const chunks = pipe.chunks();
  const first = chunks.next();
  const fd = openAsCriu(folder);
  writeSync(fd, 'one');
  assert.is((await first).value?.toString(), 'one');
  const second = chunks.next();
  pipe.finish(); // says nothing of a writer that is there
  writeSync(fd, 'two');
  assert.is((await second).value?.toString(), 'two');
  const third = chunks.next();
  closeSync(fd);
  assert.is((await third).done, true);
});

test('a writer that has come and gone before anybody reads has left its pages', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const fd = openAsCriu(folder);
  writeSync(fd, pattern(300_000)); // more than the usual room of a pipe
  closeSync(fd);
  assert.ok((await all(pipe.chunks())).equals(pattern(300_000)));
});

for (const [room, bytes] of [
  [1000, 5_000_000], // there is more than was expected
  [5_000_000, 300_000],
] as const) {
  test(`pages of which ${room} bytes were expected and ${bytes} come: none is written over`, async (context) => {
    const folder = dumpFolder(context);
    const pipe = PagePipe.create(folder);
    pipe.expect(room);
    const written = startWriter(folder, bytes);
    assert.ok((await all(pipe.chunks())).equals(pattern(bytes)));
    assert.is(await written, 0);
  });
}

test('a writer that writes nothing ends the pages', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const chunks = all(pipe.chunks());
  closeSync(openAsCriu(folder));
  assert.is((await chunks).length, 0);
});

test('a reader that stops early does not hold up the writer', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const written = startWriter(folder, 5 << 20);
  for await (const chunk of pipe.chunks()) {
    assert.ok(chunk.length > 0);
    break;
  }
  assert.is(await written, 0);
});

test('discarded pages do not hold up the writer, whether it is there already or comes later', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  pipe.discard();
  assert.is(await startWriter(folder, 5 << 20), 0);

  const other = dumpFolder(context);
  const late = PagePipe.create(other);
  const written = startWriter(other, 5 << 20);
  const { value } = await late.chunks().next(); // it writes by now
  assert.ok(value !== undefined);
  late.discard();
  assert.is(await written, 0);
});

test('a reader that waits while the pages are discarded comes to an end with the writer', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const chunks = all(pipe.chunks());
  pipe.discard();
  assert.is(await startWriter(folder, 2 << 20), 0);
  await chunks;
});

test('a pipe that nobody has opened ends when the dump is over, before or while somebody reads', async (context) => {
  const waiting = PagePipe.create(dumpFolder(context));
  const chunks = all(waiting.chunks());
  waiting.finish();
  assert.is((await chunks).length, 0);

  const later = PagePipe.create(dumpFolder(context));
  later.finish();
  assert.is((await all(later.chunks())).length, 0);
});

test('closing ends a reader that waits, though a writer still has the pipe', async (context) => {
  const folder = dumpFolder(context);
  const pipe = PagePipe.create(folder);
  const fd = openAsCriu(folder);
  const chunks = all(pipe.chunks());
  pipe.close();
  assert.is((await chunks).length, 0);
  closeSync(fd);
});

test('finish, discard and close come in any order and as often as they like', async (context) => {
  const act = fc.constantFrom('finish' as const, 'discard' as const, 'close' as const, 'turn' as const);
  await fc.assert(
    fc.asyncProperty(fc.array(act, { maxLength: 8 }), fc.boolean(), fc.boolean(), async (acts, read, written) => {
      const folder = dumpFolder(context);
      const pipe = PagePipe.create(folder);
      const chunks = read ? all(pipe.chunks()) : undefined;
      if (written) {
        const fd = openAsCriu(folder);
        writeSync(fd, 'pages');
        closeSync(fd);
      }
      for (const one of acts) {
        if (one === 'turn') await new Promise((resolve) => setImmediate(resolve));
        else pipe[one]();
      }
      pipe.finish();
      await chunks;
      pipe.close();
      pipe.close();
    }),
    { numRuns: 60 },
  );
});

test('a folder without a pipe has none to adopt, nor has one with pages in a file', (context) => {
  const folder = dumpFolder(context);
  assert.is(PagePipe.adopt(folder), undefined);
  writeFileSync(join(folder, PAGES), 'pages');
  assert.is(PagePipe.adopt(folder), undefined);
});

test('an adopted pipe has the pages of the writer that is there', async (context) => {
  const folder = dumpFolder(context);
  const former = PagePipe.create(folder);
  const fd = openAsCriu(folder);
  writeSync(fd, 'before');
  former.close(); // as when the daemon ends
  writeSync(fd, ' and after');
  const pipe = PagePipe.adopt(folder);
  assert.ok(pipe !== undefined);
  closeSync(fd);
  assert.is((await all(pipe.chunks())).toString(), 'before and after');
});

test('an adopted pipe that is full lets the writer get on once it is discarded', async (context) => {
  const folder = dumpFolder(context);
  execFileSync('mkfifo', [join(folder, PAGES)]);
  const fd = openSync(join(folder, PAGES), constants.O_RDWR | constants.O_NONBLOCK);
  const filler = Buffer.alloc(1 << 16);
  const fill = (): void => {
    for (;;) writeSync(fd, filler);
  };
  assert.throws(fill, /EAGAIN/);
  const pipe = PagePipe.adopt(folder);
  const written = startWriter(folder, 5 << 20); // behind what fills it
  pipe?.discard();
  assert.is(await written, 0);
  closeSync(fd);
});

test.run();
