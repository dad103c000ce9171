import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import * as assert from 'uvu/assert';
import { criuHooksLibrary, criuMemoryLibrary } from '../../addon/lib/index.js';
import { findCriu, startRestore } from '../../cli/checkpoint/criu.js';
import { tellingLines } from '../../cli/checkpoint/criu-session.js';
import { HookLog } from '../../cli/checkpoint/hook-log.js';
import { createImageFolder, listImages, TMPFS_MAGIC, wipeImageFolder } from '../../cli/checkpoint/image-folder.js';
import { UserError } from '../../cli/errors.js';
import { run } from '../../cli/system/command.js';
import { suite } from '../suite.js';
import { remove, until } from './private-world.js';

const test = suite<{ folder: string }>('hooks and images of a checkpoint');

test.before((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'checkpoint-hooks-'));
});
test.after(({ folder }) => remove(folder));

function newLog(folder: string, name: string): { path: string; log: HookLog } {
  const path = join(folder, name);
  writeFileSync(path, '');
  return { path, log: new HookLog(path) };
}

test('a hook that was reached before anybody asked is known', async ({ folder }) => {
  const { path, log } = newLog(folder, 'before.log');
  appendFileSync(path, 'pre-dump\n');
  assert.ok(log.seen('pre-dump'));
  await log.waitFor('pre-dump');
  log.close();
});

test('each that waits is told of its own hook, once it comes', async ({ folder }) => {
  const { path, log } = newLog(folder, 'after.log');
  const told: string[] = [];
  const waiting = ['pre-dump', 'post-dump', 'post-dump'].map((hook) => log.waitFor(hook).then(() => told.push(hook)));
  appendFileSync(path, 'pre-dump\n');
  await until('the first is told', () => told.length === 1);
  assert.equal(told, ['pre-dump']);
  appendFileSync(path, 'post-dump\n');
  await Promise.all(waiting);
  assert.equal(told, ['pre-dump', 'post-dump', 'post-dump']);
  log.close();
});

test('half a line is no hook, and one hook is not another that begins like it', async ({ folder }) => {
  const { path, log } = newLog(folder, 'half.log');
  appendFileSync(path, 'post-restore-more\n');
  assert.not.ok(log.seen('post-restore'));
  log.close();
});

test('images are the regular files, without logs', ({ folder }) => {
  const images = join(folder, 'images');
  createImageFolder(images);
  assert.is(statSync(images).mode & 0o777, 0o700);
  writeFileSync(join(images, 'pages-1.img'), 'xyz');
  writeFileSync(join(images, 'dump.log'), 'x');
  mkdirSync(join(images, 'folder'));
  assert.equal(listImages(images), [{ name: 'pages-1.img', size: 3 }]);
});

test('wiping takes all of a folder away; one that is away already is fine', ({ folder }) => {
  const images = join(folder, 'wiped');
  createImageFolder(images);
  writeFileSync(join(images, 'pages-1.img'), Buffer.alloc(3_000_000, 9));
  writeFileSync(join(images, 'empty.img'), '');
  wipeImageFolder(images);
  assert.throws(() => statSync(images), /ENOENT/);
  wipeImageFolder(images);
});

test('on a disk the bytes are gone before the file is; on a tmpfs its pages go with it', () => {
  const folder = mkdtempSync('/var/tmp/checkpoint-wipe-');
  const images = join(folder, 'images');
  createImageFolder(images);
  const secret = Buffer.alloc(3_000_001, 9);
  writeFileSync(join(images, 'pages-1.img'), secret);
  const held = openSync(join(images, 'pages-1.img'), 'r');
  wipeImageFolder(images);
  const left = Buffer.alloc(secret.length);
  assert.is(readSync(held, left, 0, left.length, 0), secret.length);
  const memory = statfsSync(folder).type === TMPFS_MAGIC;
  assert.is(left.includes(9), memory);
  closeSync(held);
  remove(folder);
});

test('what a log tells: its errors but for the harmless one, else its last lines', () => {
  const harmless = "Error (criu/x.c:1): Can't setup RLIMIT_NOFILE for self";
  assert.equal(tellingLines(`${harmless}\nWarn one\nError (criu/y.c:2): broken\n`), ['Error (criu/y.c:2): broken']);
  assert.equal(tellingLines('Warn one\nWarn two\n'), ['Warn one', 'Warn two']);
  assert.is(tellingLines(Array.from({ length: 20 }, (_, line) => `Error ${line}`).join('\n')).length, 8);
  assert.equal(tellingLines(''), []);
});

test('finds the CRIU that is configured, or the first on PATH that can be run; says what to do when there is none', ({
  folder,
}) => {
  const path = process.env.PATH;
  const [one, other] = [join(folder, 'one'), join(folder, 'other')];
  for (const place of [one, other]) {
    mkdirSync(place);
    writeFileSync(join(place, 'criu'), '#!/bin/sh\n');
  }
  chmodSync(join(other, 'criu'), 0o755);
  assert.is(findCriu(join(other, 'criu')), join(other, 'criu'));
  const none = (configured: string): void =>
    assert.throws(
      () => findCriu(configured),
      (error: unknown) => error instanceof UserError && error.code === 'NO_CRIU' && error.exitStatus === 7,
    );
  none(join(one, 'criu')); // not executable
  none(join(folder, 'nowhere'));
  try {
    process.env.PATH = [one, other].join(delimiter);
    assert.match(findCriu('auto'), /^\/.*\/criu$/); // the private one wins where it is installed
  } finally {
    process.env.PATH = path;
  }
});

/** As a process in the midst of its exec: without a command line. So is its child, which ends with its parent's pipe. */
const NAMELESS = `#!/usr/bin/perl
$0 = '';
pipe(R, W);
if (fork == 0) { close W; <R>; exit }
open(F, '>', 'FILE');
sleep 1000;
`;

test('a script that starts CRIU hands on to it what it is loaded with', async () => {
  const libraries = [criuHooksLibrary(), criuMemoryLibrary()].join(':');
  const { stdout } = await run('env', [`LD_PRELOAD=${libraries}`, 'sh', '-c', 'exec env']);
  assert.ok(stdout.split('\n').includes(`LD_PRELOAD=${libraries}`), stdout);
});

test('a run of CRIU that cannot be told by its command line is killed too', async ({ folder }) => {
  const images = join(folder, 'nameless');
  createImageFolder(images);
  const [criu, started] = [join(folder, 'nameless-criu'), join(folder, 'nameless-started')];
  writeFileSync(criu, NAMELESS.replace('FILE', started), { mode: 0o755 });
  const session = await startRestore({ criu, images });
  await until('it has no command line', () => existsSync(started));
  const { pid = 0 } = session.run.process ?? {};
  assert.not.match(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), images);
  await session.kill();
  assert.not.ok(existsSync(`/proc/${pid}`));
});

test.run();
