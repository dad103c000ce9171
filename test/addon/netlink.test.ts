// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { closeSync } from 'node:fs';
import * as assert from 'uvu/assert';
import {
  decodeNetlink,
  encodeNetlink,
  netlinkAttributes,
  openNetlink,
  pollReadable,
  receiveNetlink,
  sendNetlink,
} from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { ifindex, until } from './fixture.js';
import './private-namespaces.js';

const test = suite('netlink');
const code = (expected: string) => (error: NodeJS.ErrnoException) => error.code === expected;
const [NEWLINK, GETLINK, REQUEST, ERROR, LINKS, IFNAME] = [16, 18, 1, 2, 1, 3];

/** struct ifinfomsg */
function linkBody(index: number): Buffer {
  const body = Buffer.alloc(16);
  body.writeInt32LE(index, 4);
  return body;
}

const nameIn = (body: Buffer): string => netlinkAttributes(body, 16).get(IFNAME)?.toString('latin1') ?? '';

test('the answer to a question is there when the question is sent', () => {
  const fd = openNetlink();
  const buffer = Buffer.alloc(1 << 16);
  assert.is(receiveNetlink(fd, buffer), -1);
  sendNetlink(fd, encodeNetlink({ type: GETLINK, flags: REQUEST, sequence: 7, body: linkBody(ifindex('lo')) }, []));
  const [answer, ...more] = decodeNetlink(buffer.subarray(0, receiveNetlink(fd, buffer)));
  assert.equal([answer?.type, answer?.sequence, more.length], [NEWLINK, 7, 0]);
  assert.is(nameIn(answer?.body ?? Buffer.alloc(0)), 'lo\0');
  closeSync(fd);
});

test('attributes are sent, and a refusal is a message as well', () => {
  const fd = openNetlink();
  const buffer = Buffer.alloc(1 << 16);
  const ask = (name: string) => {
    const attributes = [{ type: IFNAME, value: Buffer.from(`${name}\0`) }];
    sendNetlink(fd, encodeNetlink({ type: GETLINK, flags: REQUEST, sequence: 1, body: linkBody(0) }, attributes));
    return decodeNetlink(buffer.subarray(0, receiveNetlink(fd, buffer)))[0];
  };
  assert.is(ask('lo')?.body.readInt32LE(4), ifindex('lo'));
  const refused = ask('nothing');
  assert.equal([refused?.type, refused?.body.readInt32LE(0)], [ERROR, -19]); // ENODEV
  closeSync(fd);
});

test('a group tells of changes', async () => {
  const fd = openNetlink([LINKS]);
  const buffer = Buffer.alloc(1 << 16);
  const seen: string[] = [];
  const watch = pollReadable(fd, () => {
    for (let size = receiveNetlink(fd, buffer); size >= 0; size = receiveNetlink(fd, buffer)) {
      seen.push(...decodeNetlink(buffer.subarray(0, size)).map(({ body }) => nameIn(body)));
    }
  });
  execFileSync('ip', ['link', 'add', 'newcomer', 'type', 'veth', 'peer', 'name', 'other']);
  await until(() => seen.includes('newcomer\0') && seen.includes('other\0'), 'both ends were told of');
  watch.close();
  closeSync(fd);
});

test('what found no room is reported once, and the socket goes on', () => {
  const fd = openNetlink([LINKS], 1);
  const buffer = Buffer.alloc(1 << 16);
  for (let i = 0; i < 20; i++) execFileSync('ip', ['link', 'set', 'lo', i % 2 === 0 ? 'down' : 'up']);
  let lost = 0;
  let told = 0;
  for (;;) {
    try {
      if (receiveNetlink(fd, buffer) < 0) break;
      told++;
    } catch (error) {
      assert.ok(code('ENOBUFS')(error as NodeJS.ErrnoException));
      lost++;
    }
  }
  assert.equal([lost, told > 0 && told < 20], [1, true]);
  execFileSync('ip', ['link', 'set', 'lo', 'down']);
  assert.ok(receiveNetlink(fd, buffer) > 0);
  closeSync(fd);
});

test('what is cut off or no netlink is refused', () => {
  const whole = encodeNetlink({ type: GETLINK, flags: 0, sequence: 0, body: linkBody(1) }, []);
  assert.throws(() => decodeNetlink(whole.subarray(0, 20)), RangeError);
  assert.throws(() => decodeNetlink(Buffer.alloc(16)), RangeError);
  assert.is(netlinkAttributes(Buffer.from([200, 0, 1, 0]), 0).size, 0);
  assert.throws(() => openNetlink([0]), RangeError);
  assert.throws(() => openNetlink([9999]), code('EINVAL'));
  assert.throws(() => sendNetlink(-1, whole), code('EBADF'));
  assert.throws(() => receiveNetlink(-1, 'buffer' as unknown as Buffer), TypeError);
});

test.run();
