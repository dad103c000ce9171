import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { StreamFile } from '../../cli/checkpoint/stream-file.js';
import { readStreams, socketsIn, streamOf } from '../../cli/checkpoint/stream-images.js';
import { matchConnections } from '../../cli/migration/connection-notes.js';
import { NOTED_CONNECTIONS } from '../../cli/migration/connection-table.js';
import { Journal } from '../../cli/migration/journal.js';
import type { ConnectionState } from '../../cli/process/connection-state.js';
import { randomFrom } from '../fault/chance.js';
import { suite } from '../suite.js';

const MAGIC = Buffer.from('1943565418313056', 'hex');
const ESTABLISHED = 1;
const SYN_SENT = 2;

const test = suite<{ folder: string }>('what is noted of connections');
test.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'homeproxy-streams-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) | 0x80, ...varint(Math.floor(value / 128))];
}

function message(fields: readonly (readonly [number, number | Buffer])[]): Buffer {
  return Buffer.concat(
    fields.map(([number, content]) =>
      typeof content === 'number'
        ? Buffer.from([...varint(number << 3), ...varint(content)])
        : Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(content.length)]), content]),
    ),
  );
}

function entry(content: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(content.length);
  return Buffer.concat([length, content]);
}

function words(address: readonly number[]): number[] {
  const bytes = Buffer.from(address);
  return Array.from({ length: address.length / 4 }, (_none, index) => bytes.readUInt32LE(4 * index));
}

/** An entry of files.img for a socket, as CRIU 4.2 writes it. */
function socket(inode: number, local: readonly number[], remote: readonly number[], state = ESTABLISHED): Buffer {
  const inet = message([
    [1, 7],
    [2, inode],
    [3, local.length === 4 ? 2 : 10],
    [4, 1],
    [5, 6],
    [6, state],
    [7, 6379],
    [8, 40_000 + inode],
    [9, 0x8000],
    [10, 0],
    ...words(local).map((word) => [11, word] as const),
    ...words(remote).map((word) => [12, word] as const),
    [13, message([[1, 0]])],
  ]);
  return entry(
    message([
      [1, 4],
      [2, 7],
      [4, inet],
    ]),
  );
}

/** An image of a connection: its numbers, then what was in its queues. */
function stream(sent: number, received: number, [unread, unacknowledged, unsent] = [0, 0, 0]): Buffer {
  const numbers = message([
    [1, unread ?? 0],
    [2, received],
    [3, unacknowledged ?? 0],
    [4, sent],
    [5, 7],
    [6, 7],
    [7, 1460],
    [12, unsent ?? 0],
  ]);
  return Buffer.concat([MAGIC, entry(numbers), Buffer.alloc((unread ?? 0) + (unacknowledged ?? 0), 'x')]);
}

/** The images of connections, by their inodes, as `addon/src/criu-streams.c` writes them. */
function writeStreams(folder: string, images: readonly (readonly [number, Buffer])[]): void {
  const file = new StreamFile(folder);
  for (const [inode, image] of images) {
    file.begin(inode);
    file.add(image);
  }
  file.finish();
}

const OURS = [10, 77, 0, 2];
const CLIENT = [10, 77, 0, 1];
const NET6 = [0xfd, 0x77, ...Array.from({ length: 12 }, () => 0)];
const MAPPED = [...Array.from({ length: 10 }, () => 0), 0xff, 0xff];

test('the images of CRIU: each connection with its ends, its state and its numbers', async ({ folder }) => {
  const other = entry(
    message([
      [1, 1],
      [2, 9],
      [3, message([[1, 9]])],
    ]),
  );
  writeFileSync(
    join(folder, 'files.img'),
    Buffer.concat([
      MAGIC,
      other,
      socket(0x1a, OURS, CLIENT),
      socket(3, OURS, [0, 0, 0, 0], 10), // listens: has no image
      socket(0x1b, [...NET6, 0, 2], [...NET6, 0, 1], 5),
      socket(0x1c, [...MAPPED, ...OURS], [...MAPPED, ...CLIENT]),
      socket(0x1d, OURS, CLIENT, SYN_SENT),
    ]),
  );
  writeStreams(folder, [
    [0x1a, stream(0xffff_ffff, 0, [3000, 500, 200])],
    [0x1b, stream(1, 2)],
    [0x1c, stream(3, 4)],
    [0x1d, stream(5, 0)],
  ]);
  assert.equal(await readStreams(folder, 10), {
    total: 3,
    connections: [
      {
        local: '10.77.0.2:6379',
        remote: '10.77.0.1:40026',
        state: 'ESTABLISHED',
        sent: 0xffff_ffff,
        received: 0,
        unread: 3000,
        unacknowledged: 500,
        unsent: 200,
      },
      {
        local: '[fd77::2]:6379',
        remote: '[fd77::1]:40027',
        state: 'FIN_WAIT2',
        sent: 1,
        received: 2,
        unread: 0,
        unacknowledged: 0,
        unsent: 0,
      },
      {
        local: '10.77.0.2:6379',
        remote: '10.77.0.1:40028',
        state: 'ESTABLISHED',
        sent: 3,
        received: 4,
        unread: 0,
        unacknowledged: 0,
        unsent: 0,
      },
    ],
  });
});

test('no more of them are read than are wanted, and it says how many there are', async ({ folder }) => {
  const inodes = Array.from({ length: 50 }, (_none, index) => index + 1);
  writeFileSync(
    join(folder, 'files.img'),
    Buffer.concat([MAGIC, ...inodes.map((inode) => socket(inode, OURS, CLIENT))]),
  );
  const nobodys = Buffer.from('nobody reads it');
  writeStreams(
    folder,
    inodes.map((inode) => [inode, inode <= 20 ? stream(inode, inode) : nobodys]),
  );
  const { total, connections = [] } = (await readStreams(folder, 20)) ?? {};
  assert.is(total, 50);
  assert.equal(
    connections.map(({ sent }) => sent),
    inodes.slice(0, 20),
  );
});

test('without images nothing is known; without connections there are none', async ({ folder }) => {
  assert.is(await readStreams(join(folder, 'nothing'), 10), undefined);
  assert.equal(await readStreams(folder, 10), { total: 0, connections: [] });
  writeStreams(folder, [[1, stream(1, 1)]]);
  assert.is(await readStreams(folder, 10), undefined);
});

test('an image that is cut short, empty or of something else is no connection', async ({ folder }) => {
  const whole = stream(1, 2, [3, 4, 0]);
  const end = whole.length - 7;
  for (let length = 0; length < end; length++) assert.is(streamOf(whole.subarray(0, length)), undefined, `${length}`);
  assert.equal(streamOf(whole.subarray(0, end))?.sent, 1);
  assert.is(streamOf(Buffer.concat([MAGIC, entry(message([[1, 2 ** 32]]))])), undefined);
  writeFileSync(join(folder, 'files.img'), Buffer.concat([MAGIC, socket(1, OURS, CLIENT), socket(2, OURS, CLIENT)]));
  writeStreams(folder, [
    [1, Buffer.from('x')],
    [2, whole],
  ]);
  const { total, connections = [] } = (await readStreams(folder, 10)) ?? {};
  assert.equal([total, connections.map(({ sent }) => sent)], [2, [1]]);
});

test('whatever an image of files has in it, reading ends, and says nothing that no socket can have', () => {
  const random = randomFrom(7);
  const below = (limit: number): number => Math.floor(random() * limit);
  const sound = Buffer.concat([MAGIC, socket(1, OURS, CLIENT), socket(2, [...NET6, 0, 2], [...NET6, 0, 1])]);
  for (let round = 0; round < 3000; round++) {
    const image = Buffer.from(sound.subarray(0, below(sound.length + 1)));
    for (let count = below(4); count > 0 && image.length > 0; count--) {
      image[below(image.length)] = below(256);
    }
    for (const { inode, local, remote } of socketsIn(image)) {
      assert.ok(Number.isInteger(inode) && inode >= 0);
      for (const end of [local, remote]) assert.match(end, /^(\d+(\.\d+){3}|\[[0-9a-f:.]+\]):\d{1,5}$/);
    }
    streamOf(image);
  }
});

function state(change: Partial<ConnectionState> = {}): ConnectionState {
  return {
    local: '10.77.0.2:6379',
    remote: '10.77.0.1:40000',
    state: 'ESTABLISHED',
    sent: 100,
    received: 200,
    unread: 0,
    unacknowledged: 0,
    ...change,
  };
}

test('what both ends have noted is compared, in every number but what only one knows', () => {
  const note = (...connections: ConnectionState[]) => ({ total: connections.length, connections });
  const sameOf = (change: Partial<ConnectionState>) =>
    matchConnections(note(state({ unsent: 3 })), note(state(change)))?.moved.map(({ same }) => same);
  assert.equal(sameOf({}), [true]);
  const changes = [
    { sent: 101 },
    { received: 0 },
    { unread: 1 },
    { unacknowledged: 1 },
    { state: 'CLOSE_WAIT' },
  ] as const;
  for (const change of changes) assert.equal(sameOf(change), [false]);
  assert.equal(sameOf({ remote: '10.77.0.1:40001' }), [undefined, undefined]);
  assert.is(matchConnections(undefined, undefined), undefined);
  const { total, moved = [] } = matchConnections({ total: 9, connections: [state()] }, undefined) ?? {};
  assert.equal([total, moved.map(({ atDestination }) => atDestination)], [9, [undefined]]);
});

test('the journal keeps those of the last 200 migrations, and tells them to their home alone', async ({ folder }) => {
  const journal = new Journal(folder);
  const name = (index: number) => `m-${String(index).padStart(8, '0')}-00000000`;
  const connections = Array.from({ length: NOTED_CONNECTIONS }, (_none, index) => state({ sent: index }));
  for (let index = 0; index < 230; index++) {
    await journal.connections.put(name(index), {
      home: 'home',
      total: 5000,
      connections: index === 229 ? connections : [],
    });
  }
  await journal.close();
  const again = new Journal(folder);
  const kept = Array.from({ length: 230 }, (_none, index) => again.connections.of(name(index)) !== undefined);
  assert.is(kept.indexOf(true), 30);
  assert.is(kept.filter((has) => has).length, 200);
  assert.equal(again.connections.of(name(229), 'home'), { total: 5000, connections });
  assert.is(again.connections.of(name(229), 'host1'), undefined);
  await again.close();
});

test.run();
