import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { parseLoaded } from '../../cli/checkpoint/criu-door.js';
import { inFolderOf, lookBeneath } from '../../cli/files/beneath.js';
import { foldersAbove, isPlainPath, mayTravel } from '../../cli/files/carried-path.js';
import { type CarriedRecord, Homecoming, type HomecomingRecord, settle, takeBack } from '../../cli/files/homecoming.js';
import { type Entry, entrySchema, type FileEntry, type Parcel } from '../../cli/files/manifest.js';
import { decodeParcel, encodeParcel } from '../../cli/files/parcel-stream.js';
import { suite } from '../suite.js';

const test = suite('files that travel with a process');
const code = (expected: string) => (error: NodeJS.ErrnoException) => error.code === expected;
let root: string;

test.before.each(() => {
  root = mkdtempSync(join(tmpdir(), 'carried-'));
});
test.after.each(() => rmSync(root, { recursive: true, force: true }));

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

function fileEntry(path: string, content: string, change: Partial<FileEntry> = {}): FileEntry {
  const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mode: 0o640 };
  const rest = { bytes: Buffer.byteLength(content), modifiedAt: 1_700_000_000_000, held: false, written: false };
  return { kind: 'file', path, ...owner, ...rest, sha256: sha256(content), ...change };
}

for (const path of [
  'opt/app',
  '/opt/../etc/shadow',
  '/opt/./app',
  '/opt//app',
  '/opt/app/',
  '',
  '/a\0b',
  `/${'x'.repeat(256)}`,
  `/${'x/'.repeat(2100)}x`,
  '/',
  '/proc/1/mem',
  '/sys/kernel',
  '/dev/sda',
  '/dev/shm/object',
  '/.homeproxy/criu',
  '/opt/.homeproxy-m-1',
]) {
  test(`may not travel: ${JSON.stringify(path.slice(0, 40))}`, () => {
    assert.is(mayTravel(path), false);
    assert.is(entrySchema.safeParse({ kind: 'link', path, target: 'x' }).success, false);
  });
}

test('may travel: plain absolute paths', () => {
  for (const path of ['/opt/app', '/.hidden/..name', '/process']) assert.ok(mayTravel(path), path);
  assert.ok(isPlainPath('/'));
  assert.equal(foldersAbove('/a/b/c'), ['/a', '/a/b']);
});

test('no link on the way leads out of the root, nor anywhere in it', () => {
  mkdirSync(join(root, 'inside'));
  symlinkSync('/etc', join(root, 'out'));
  symlinkSync('inside', join(root, 'in'));
  symlinkSync('/etc/passwd', join(root, 'inside/last'));
  const fd = openSync(root, 'r');
  const touch = (path: string): void =>
    inFolderOf(fd, path, (folder, name) => closeSync(openSync(join(folder, name), 'wx')));
  assert.throws(() => touch('/out/new'), code('ELOOP'));
  assert.throws(() => touch('/in/new'), code('ELOOP'));
  assert.throws(() => touch('/inside/../../new'), code('EXDEV'));
  assert.is(lookBeneath(fd, '/out/passwd'), undefined);
  assert.ok(lookBeneath(fd, '/inside/last')?.isSymbolicLink());
  touch('/inside/new');
  assert.ok(existsSync(join(root, 'inside/new')));
  closeSync(fd);
});

async function bytesOf(parcel: Parcel): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of encodeParcel(parcel, (path) => join(root, path))) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function decoded(bytes: Buffer, maxBytes = 1 << 20, size = 7): Promise<[Parcel, string[]]> {
  const contents: string[] = [];
  const parcel = await decodeParcel(inPieces(bytes, size), maxBytes, async () => async (_index, content) => {
    const chunks: Buffer[] = [];
    for await (const chunk of content) chunks.push(chunk);
    contents.push(Buffer.concat(chunks).toString());
  });
  return [parcel, contents];
}

function lengthOf(text: string): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(text.length);
  return bytes;
}

function someParcel(): Parcel {
  writeFileSync(join(root, 'one'), 'first content');
  writeFileSync(join(root, 'empty'), '');
  const link: Entry = { kind: 'link', path: '/link', target: 'one' };
  return {
    entries: [fileEntry('/one', 'first content'), link, fileEntry('/empty', '')],
    removed: ['/old'],
    final: true,
  };
}

test('a parcel arrives as it was sent, in whatever pieces', async () => {
  const parcel = someParcel();
  const bytes = await bytesOf(parcel);
  for (const size of [1, 7, 4096]) {
    assert.equal(await decoded(bytes, 1 << 20, size), [parcel, ['first content', '']]);
  }
});

test('a parcel that is cut anywhere, or is more than allowed, is refused', async () => {
  const bytes = await bytesOf(someParcel());
  const refused = async (broken: Buffer, maxBytes?: number): Promise<void> => {
    const outcome = await decoded(broken, maxBytes).catch((error: NodeJS.ErrnoException) => error.code);
    assert.is(outcome, 'CARRY_MALFORMED');
  };
  for (let length = 0; length < bytes.length; length += 5) await refused(bytes.subarray(0, length));
  await refused(bytes, 12);
  const huge = Buffer.from(bytes);
  huge.writeUInt32BE(0xffff_ffff);
  await refused(huge);
  const evil = JSON.stringify({
    entries: [{ ...fileEntry('/x', ''), path: '/../etc/cron.d/x' }],
    removed: [],
    final: true,
  });
  await refused(Buffer.concat([lengthOf(evil), Buffer.from(evil)]));
});

test('a file that shrinks while it is sent does not shift what follows', async () => {
  const parcel = someParcel();
  writeFileSync(join(root, 'one'), 'first');
  const [, contents] = await decoded(await bytesOf(parcel));
  assert.equal(contents, ['first\0\0\0\0\0\0\0\0', '']);
});

const ROOT_RIGHTS = { uids: [0], gids: [0] };

/** A homecoming of files to `root`. */
function comingHome(original: CarriedRecord): [Homecoming, () => HomecomingRecord] {
  let kept: HomecomingRecord = { changes: [], conflicts: [] };
  const keep = (record: HomecomingRecord): void => {
    kept = JSON.parse(JSON.stringify(record)) as HomecomingRecord;
  };
  return [new Homecoming({ migration: 'm-test', twin: 'home-7-abc', original, root, keep }), () => kept];
}

async function bring(homecoming: Homecoming, files: readonly (readonly [FileEntry, string])[]): Promise<void> {
  const entries = files.map(([entry]) => entry);
  const lacking = await homecoming.offer(entries);
  const parcel: Parcel = { entries: lacking.map((index) => entries[index] as Entry), removed: [], final: true };
  const take = await homecoming.begin(parcel);
  for (const [place, index] of lacking.entries()) await take(place, inPieces(Buffer.from(files[index]?.[1] ?? ''), 3));
}

const names = (): string[] => readdirSync(root).sort();

test('home: what changed takes its place, what is new is made, what was removed goes; a rollback takes all of it back', async () => {
  for (const round of ['back', 'forward'] as const) {
    for (const [name, content] of [
      ['log', 'one\n'],
      ['gone', 'old'],
      ['same', 'same'],
    ] as const) {
      writeFileSync(join(root, name), content);
    }
    rmSync(join(root, 'sub'), { recursive: true, force: true });
    const before = statSync(join(root, 'log')).ino;
    const modifiedAt = statSync(join(root, 'gone')).mtimeMs;
    const log = fileEntry('/log', 'one\n', { written: true });
    const same = fileEntry('/same', 'same');
    const original = { entries: [log, same, fileEntry('/gone', 'old', { modifiedAt })], rights: ROOT_RIGHTS };
    const [homecoming, kept] = comingHome(original);
    await bring(homecoming, [
      [fileEntry('/log', 'one\ntwo\n', { held: true }), 'one\ntwo\n'],
      [same, ''],
      [fileEntry('/sub/new', 'new'), 'new'],
    ]);
    assert.is(readFileSync(join(root, 'log'), 'utf8'), 'one\n', 'nothing of it shows before the exchange');
    homecoming.exchange();
    assert.is(readFileSync(join(root, 'log'), 'utf8'), 'one\ntwo\n');
    assert.is(existsSync(join(root, 'gone')), false);
    assert.is(readFileSync(join(root, 'sub/new'), 'utf8'), 'new');
    if (round === 'back') {
      for (let again = 0; again < 2; again++) takeBack(kept(), root);
      assert.equal(names(), ['gone', 'log', 'same']);
      assert.is(statSync(join(root, 'log')).ino, before, 'the very same file');
    } else {
      for (let again = 0; again < 2; again++) settle(kept(), root);
      assert.equal(names(), ['log', 'same', 'sub']);
      assert.equal(readdirSync(join(root, 'sub')), ['new']);
    }
  }
});

test('home: a crash between any two renames is taken back to what was there', async () => {
  for (const done of [0, 1, 2]) {
    for (const name of ['a', 'b']) writeFileSync(join(root, name), `${name} before`);
    const original = {
      entries: ['a', 'b'].map((name) => fileEntry(`/${name}`, `${name} before`, { written: true })),
      rights: ROOT_RIGHTS,
    };
    const [homecoming] = comingHome(original);
    await bring(
      homecoming,
      ['a', 'b'].map((name) => [fileEntry(`/${name}`, `${name} after`), `${name} after`] as const),
    );
    const whole = homecoming.record; // as exchange() keeps it first
    const [one, two] = [whole.changes.slice(0, done), whole.changes.slice(done)];
    Object.defineProperty(homecoming, 'changes', { value: new Map(one.map((change) => [change.path, change])) });
    if (one.length > 0) homecoming.exchange();
    takeBack({ changes: [...one, ...two], conflicts: [] }, root);
    assert.equal(names(), ['a', 'b']);
    for (const name of ['a', 'b']) assert.is(readFileSync(join(root, name), 'utf8'), `${name} before`);
  }
});

test('home: what both sides changed is kept beside; refused while the process has it open', async () => {
  writeFileSync(join(root, 'notes'), 'changed at home');
  const original = { entries: [fileEntry('/notes', 'as it left', { written: true })], rights: ROOT_RIGHTS };
  const away = fileEntry('/notes', 'changed away');
  const [open] = comingHome(original);
  assert.is(
    await bring(open, [[{ ...away, held: true }, 'changed away']]).catch((error) => error.code),
    'FILE_CONFLICT',
  );
  const [homecoming, kept] = comingHome(original);
  await bring(homecoming, [[away, 'changed away']]);
  homecoming.exchange();
  settle(kept(), root);
  assert.is(readFileSync(join(root, 'notes'), 'utf8'), 'changed at home');
  assert.is(readFileSync(join(root, 'notes.home-7-abc'), 'utf8'), 'changed away');
  assert.equal(
    kept().conflicts.map(({ path, kept: at }) => [path, at]),
    [['/notes', '/notes.home-7-abc']],
  );
});

test('home: a host cannot bring what the process itself could not have written', async () => {
  mkdirSync(join(root, 'etc'));
  chmodSync(join(root, 'etc'), 0o755);
  writeFileSync(join(root, 'etc/sudoers'), 'root only', { mode: 0o644 });
  const nobody = { uids: [65_534], gids: [65_534] };
  const original = { entries: [fileEntry('/etc/sudoers', 'root only')], rights: nobody };
  const [homecoming] = comingHome(original);
  const bad = [fileEntry('/etc/sudoers', 'nobody ALL', { held: true }), 'nobody ALL'] as const;
  assert.is(await bring(homecoming, [bad]).catch((error) => error.code), 'FILE_CONFLICT');
  const set = [fileEntry('/etc/shell', 'x', { held: true, mode: 0o4755 }), 'x'] as const;
  assert.is(await bring(homecoming, [set]).catch((error) => error.code), 'FILE_CONFLICT');
  mkdirSync(join(root, 'tmp'));
  chmodSync(join(root, 'tmp'), 0o1777);
  const [allowed, kept] = comingHome(original);
  await bring(allowed, [[fileEntry('/tmp/tool', 'x', { uid: 0, gid: 0, mode: 0o4755 }), 'x']]);
  allowed.exchange();
  settle(kept(), root);
  const { uid, gid, mode } = lstatSync(join(root, 'tmp/tool'));
  assert.equal([uid, gid, mode & 0o7777], [65_534, 65_534, 0o755]);
});

test('home: nothing is put beside a file where the process could put nothing', async () => {
  mkdirSync(join(root, 'cron.d'));
  chmodSync(join(root, 'cron.d'), 0o755);
  const [homecoming, kept] = comingHome({ entries: [], rights: { uids: [65_534], gids: [65_534] } });
  await bring(homecoming, [[fileEntry('/cron.d/job', '* * * * * root evil'), '* * * * * root evil']]);
  homecoming.exchange();
  assert.equal(readdirSync(join(root, 'cron.d')), []);
  assert.equal(
    kept().conflicts.map(({ path, kept: at }) => [path, at]),
    [['/cron.d/job', undefined]],
  );
});

test('the libraries of a program, as its loader prints them', () => {
  const text = `\tlinux-vdso.so.1 (0x00007fb4)
\tlibc.so.6 => /opt/criu/lib/libc.so.6 (0x00007fb4)
\t/opt/criu/lib/ld-linux-x86-64.so.2 (0x00007fb4)\n`;
  assert.equal(parseLoaded(text), ['/opt/criu/lib/libc.so.6', '/opt/criu/lib/ld-linux-x86-64.so.2']);
});

test.run();
