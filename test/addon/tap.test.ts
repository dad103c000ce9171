// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { closeSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { openTap, pollReadable, readFrame, setTapPersist, writeFrame } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { ifindex, until } from './fixture.js';

const test = suite('tap');
const code = (expected: string) => (error: NodeJS.ErrnoException) => error.code === expected;
const NAME = 'twin0';

/** An interface without IPv6, which would send on its own. */
function openQuiet(): { fd: number; ifindex: number } {
  const tap = openTap(NAME);
  execFileSync('sysctl', ['-qw', `net.ipv6.conf.${NAME}.disable_ipv6=1`]);
  execFileSync('ip', ['addr', 'add', '192.0.2.1/24', 'dev', NAME]);
  execFileSync('ip', ['neigh', 'add', '192.0.2.2', 'lladdr', '02:00:00:00:00:02', 'dev', NAME]);
  execFileSync('ip', ['link', 'set', NAME, 'up']);
  return tap;
}

function sendDatagrams(...texts: string[]): void {
  const script = `
    const socket = require('dgram').createSocket('udp4');
    const send = ([text, ...rest]) => text === undefined ? socket.close()
      : socket.send(text, 9, '192.0.2.2', () => send(rest));
    send(${JSON.stringify(texts)});`;
  execFileSync(process.execPath, ['-e', script]);
}

const statistics = (direction: 'rx' | 'tx'): number => {
  const [link] = JSON.parse(execFileSync('ip', ['-j', '-s', 'link', 'show', NAME], { encoding: 'utf8' }));
  return link.stats64[direction].packets;
};

const exists = (name: string): boolean =>
  execFileSync('ip', ['-j', 'link'], { encoding: 'utf8' }).includes(`"${name}"`);

test('reads frames in order, without waiting, -1 when none is there', () => {
  const { fd, ifindex: index } = openQuiet();
  assert.is(index, ifindex(NAME));
  const buffer = Buffer.alloc(2048);
  assert.is(readFrame(fd, buffer), -1);
  sendDatagrams('first', 'second');
  for (const text of ['first', 'second']) {
    const size = readFrame(fd, buffer);
    // Ethernet 14, IPv4 20, UDP 8: no packet information and no vnet header before it.
    assert.is(size, 42 + text.length);
    assert.is(buffer.toString('latin1', 42, size), text);
    assert.is(buffer.toString('hex', 0, 6), '020000000002');
  }
  assert.is(readFrame(fd, buffer), -1);
  closeSync(fd);
});

test('frames wait in the kernel while nobody reads', () => {
  const { fd } = openQuiet();
  sendDatagrams(...Array.from({ length: 100 }, (_, i) => `datagram ${i}`));
  const buffer = Buffer.alloc(2048);
  for (let i = 0; i < 100; i++) {
    const size = readFrame(fd, buffer);
    assert.is(buffer.toString('latin1', 42, size), `datagram ${i}`);
  }
  closeSync(fd);
});

test('what is written enters the interface', () => {
  const { fd } = openQuiet();
  const before = statistics('rx');
  const frame = Buffer.alloc(60, 0);
  frame.fill(0xff, 0, 6);
  assert.is(writeFrame(fd, frame), 60);
  assert.is(statistics('rx'), before + 1);
  assert.throws(() => writeFrame(fd, Buffer.alloc(3)), code('EINVAL'));
  assert.throws(() => writeFrame(fd, 'frame' as unknown as Uint8Array), TypeError);
  execFileSync('ip', ['link', 'set', NAME, 'down']);
  assert.throws(() => writeFrame(fd, frame), code('EIO'));
  closeSync(fd);
  assert.throws(() => readFrame(fd, frame), code('EBADF'));
});

test('pollReadable tells of frames', async () => {
  const { fd } = openQuiet();
  const buffer = Buffer.alloc(2048);
  const seen: string[] = [];
  const watch = pollReadable(fd, () => {
    for (let size = readFrame(fd, buffer); size >= 0; size = readFrame(fd, buffer)) {
      seen.push(buffer.toString('latin1', 42, size));
    }
  });
  sendDatagrams('a', 'b', 'c');
  await until(() => seen.length === 3, 'three frames came');
  assert.equal(seen, ['a', 'b', 'c']);
  watch.close();
  sendDatagrams('d');
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.is(seen.length, 3);
  closeSync(fd);
});

test('the interface goes with its last descriptor, unless it is persistent', () => {
  closeSync(openTap(NAME).fd);
  assert.is(exists(NAME), false);
  const kept = openTap(NAME, { persist: true });
  assert.throws(() => openTap(NAME), code('EBUSY'));
  closeSync(kept.fd);
  assert.is(exists(NAME), true);
  const again = openTap(NAME);
  assert.is(again.ifindex, kept.ifindex);
  setTapPersist(again.fd, false);
  closeSync(again.fd);
  assert.is(exists(NAME), false);
});

test('a name with %d in it is a new one, whatever else is open', () => {
  const first = openTap('hptap%d');
  const second = openTap('hptap%d');
  assert.match(first.name, /^hptap\d+$/);
  assert.is.not(second.name, first.name);
  for (const tap of [first, second]) {
    assert.is(exists(tap.name), true);
    closeSync(tap.fd);
    assert.is(exists(tap.name), false);
  }
});

test('names are checked', () => {
  assert.throws(() => openTap(''), RangeError);
  assert.throws(() => openTap('sixteen-letters-'), RangeError);
  assert.throws(() => openTap('lo'), code('EINVAL'));
});

test.run();
