// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readlinkSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import {
  flock,
  getsockname,
  getsockopt,
  getxattr,
  interfaceIndex,
  makeFifo,
  pidfdGetfd,
  pidfdOpen,
  pidfdSendSignal,
  pollReadable,
  setns,
  setPipeSize,
  setsockopt,
  tcpRepair,
  tcpRepairState,
  withNetworkNamespace,
} from '../../addon/lib/index.js';
import { run } from '../../cli/system/command.js';
import { suite } from '../suite.js';
import { until } from './fixture.js';
import { folder } from './private-namespaces.js';

const test = suite('system');
const code = (expected: string) => (error: NodeJS.ErrnoException) => error.code === expected;
const ownNamespace = () => readlinkSync('/proc/thread-self/ns/net');
const children: ChildProcess[] = [];

function start(command: string, ...parameters: string[]): ChildProcess {
  const child = spawn(command, parameters, { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}

/** A process in a network namespace of its own. */
async function stranger(): Promise<ChildProcess & { pid: number }> {
  const child = start('unshare', '--net', 'sh', '-c', 'echo ready; read line');
  if (child.stdout !== null) await once(child.stdout, 'data');
  return child as ChildProcess & { pid: number };
}

test.after.each(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

test('withNetworkNamespace: the body is inside, and afterwards we are back, also after an error', async () => {
  const { pid } = await stranger();
  const path = `/proc/${pid}/ns/net`;
  const home = ownNamespace();
  const inside = withNetworkNamespace(path, () => ownNamespace());
  assert.is(inside, readlinkSync(path));
  assert.is.not(inside, home);
  assert.is(ownNamespace(), home);
  assert.throws(
    () =>
      withNetworkNamespace(path, () => {
        throw new Error('mine');
      }),
    /^mine$/,
  );
  assert.is(ownNamespace(), home);
  assert.throws(() => withNetworkNamespace('/nowhere', () => 1), code('ENOENT'));
  assert.throws(() => withNetworkNamespace(path, async () => 1), /must not be asynchronous/);
  assert.is(ownNamespace(), home);
});

test('setns refuses a descriptor that is no namespace of that kind', () => {
  const file = openSync('/proc/thread-self/ns/uts', 'r');
  assert.throws(() => setns(file, 0x40000000), code('EINVAL'));
  closeSync(file);
  assert.throws(
    () => setns(-1),
    (error: NodeJS.ErrnoException) => error.code === 'EBADF' && error.syscall === 'setns',
  );
});

test('a pidfd signals its process, becomes readable when that ends, and never means another', async () => {
  const child = await stranger();
  const pidfd = pidfdOpen(child.pid);
  pidfdSendSignal(pidfd, 0);
  let ended = 0;
  const watch = pollReadable(pidfd, () => {
    ended++;
    watch.close();
    watch.close();
  });
  pidfdSendSignal(pidfd, 'SIGKILL');
  const [, signal] = await once(child, 'exit');
  assert.is(signal, 'SIGKILL');
  await until(() => ended === 1, 'the watch saw it');
  await delay(20);
  assert.is(ended, 1);
  assert.throws(() => pidfdSendSignal(pidfd, 'SIGTERM'), code('ESRCH'));
  closeSync(pidfd);
  assert.throws(() => pidfdOpen(child.pid), code('ESRCH'));
});

test('pidfdGetfd takes a descriptor of another process, and shares the file', async () => {
  const path = join(folder, 'shared');
  writeFileSync(path, '');
  const child = start('sh', '-c', `exec 9>>${path}; echo ready; read line; echo theirs >&9; echo done; read line`);
  if (child.stdout !== null) await once(child.stdout, 'data');
  const pidfd = pidfdOpen(child.pid as number);
  const fd = pidfdGetfd(pidfd, 9);
  assert.is(readlinkSync(`/proc/self/fd/${fd}`), path);
  assert.throws(() => pidfdGetfd(pidfd, 77), code('EBADF'));
  closeSync(fd);
  closeSync(pidfd);
});

/** A child that is connected to us; `fd` is its end of the connection, taken from it. */
async function connectedChild(): Promise<{ fd: number; socket: Socket; server: Server; child: ChildProcess }> {
  const server = createServer().unref();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const connection = once(server, 'connection') as Promise<[Socket]>;
  const child = start('bash', '-c', `exec 9<>/dev/tcp/127.0.0.1/${address.port}; echo ready; read line`);
  const ready = child.stdout === null ? undefined : once(child.stdout, 'data');
  const [socket] = await connection;
  await ready;
  socket.on('error', () => undefined).unref();
  const pidfd = pidfdOpen(child.pid as number);
  const fd = pidfdGetfd(pidfd, 9);
  closeSync(pidfd);
  return { fd, socket, server, child };
}

test('TCP repair on the socket of another process: on, readable, off without a window probe', async () => {
  const { fd, socket, server } = await connectedChild();
  assert.is(tcpRepairState(fd), 'off');
  tcpRepair(fd, 'on');
  assert.is(tcpRepairState(fd), 'on');
  tcpRepair(fd, 'off-no-window-probe');
  assert.is(tcpRepairState(fd), 'off');
  tcpRepair(fd, 'on');
  tcpRepair(fd, 'off');
  assert.is(tcpRepairState(fd), 'off');
  assert.throws(() => tcpRepair(0x7fffffff, 'on'), code('EBADF'));
  socket.destroy();
  server.close();
  closeSync(fd);
});

for (const silent of [true, false]) {
  test(`a process killed ${silent ? 'in' : 'outside'} repair mode says ${silent ? 'nothing' : 'FIN'} to its peer`, async () => {
    const { fd, socket, server, child } = await connectedChild();
    let end = false;
    socket.on('end', () => (end = true)).resume();
    if (silent) tcpRepair(fd, 'on');
    closeSync(fd);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await delay(100);
    assert.is(end, !silent);
    socket.destroy();
    server.close();
  });
}

test('a socket tells the address that it is bound to', async () => {
  const { fd, socket, server } = await connectedChild();
  const name = getsockname(fd);
  const AF_INET = 2;
  assert.is(name.length, 16);
  assert.is(name.readUInt16LE(0), AF_INET);
  assert.is(name.readUInt16BE(2), socket.remotePort);
  assert.equal([...name.subarray(4, 8)], [127, 0, 0, 1]);
  assert.throws(() => getsockname(-1), code('EBADF'));
  socket.destroy();
  server.close();
  closeSync(fd);
});

test('socket options are read and written as bytes', async () => {
  const { fd, socket, server } = await connectedChild();
  const SOL_SOCKET = 1;
  const SO_KEEPALIVE = 9;
  const value = Buffer.alloc(4);
  assert.equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, 4), value);
  value.writeInt32LE(1);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, value);
  assert.equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, 64), value);
  assert.throws(() => getsockopt(fd, SOL_SOCKET, 9999, 4), code('ENOPROTOOPT'));
  assert.throws(() => setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, 'x' as unknown as Uint8Array), TypeError);
  socket.destroy();
  server.close();
  closeSync(fd);
});

test('flock: an exclusive lock excludes, shared ones do not, unlocking and closing let go', () => {
  const path = join(folder, 'lock');
  const [first, second] = [openSync(path, 'w'), openSync(path, 'w')];
  assert.is(flock(first, 'exclusive'), true);
  assert.is(flock(second, 'exclusive', true), false);
  assert.is(flock(second, 'shared', true), false);
  flock(first, 'unlock');
  assert.is(flock(second, 'shared', true), true);
  assert.is(flock(first, 'shared', true), true);
  assert.is(flock(first, 'exclusive', true), false);
  closeSync(second);
  assert.is(flock(first, 'exclusive', true), true);
  closeSync(first);
  assert.throws(() => flock(first, 'exclusive'), code('EBADF'));
});

test('flock is seen by the flock program', () => {
  const path = join(folder, 'lock-between');
  const fd = openSync(path, 'w');
  flock(fd, 'exclusive');
  assert.throws(() => execFileSync('flock', ['--nonblock', path, 'true']));
  flock(fd, 'unlock');
  execFileSync('flock', ['--nonblock', path, 'true']);
  closeSync(fd);
});

test('a program may be started in another network namespace, and only it is there', async () => {
  const { pid } = await stranger();
  const network = `/proc/${pid}/ns/net`;
  const home = ownNamespace();
  const started = run('readlink', ['/proc/self/ns/net'], { network });
  assert.is(ownNamespace(), home);
  assert.is((await started).stdout.trim(), readlinkSync(network));
});

test('interfaceIndex says which number a name has where this thread is', async () => {
  const { pid } = await stranger();
  const network = `/proc/${pid}/ns/net`;
  assert.is(interfaceIndex('lo'), 1);
  execFileSync('nsenter', ['-t', String(pid), '-n', 'ip', 'link', 'add', 'there0', 'index', '77', 'type', 'veth']);
  assert.is(
    withNetworkNamespace(network, () => interfaceIndex('there0')),
    77,
  );
  assert.throws(() => interfaceIndex('there0'), code('ENODEV'));
});

test('makeFifo makes one for its owner alone, and nothing where there is something', () => {
  const path = join(folder, 'fifo');
  makeFifo(path);
  const { mode } = statSync(path);
  assert.equal([statSync(path).isFIFO(), mode & 0o777], [true, 0o600]);
  assert.throws(() => makeFifo(path), code('EEXIST'));
});

test('setPipeSize rounds up to a power of two of pages, and so much fits in', () => {
  const path = join(folder, 'pipe');
  execFileSync('mkfifo', [path]);
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  for (const [asked, given] of [
    [1, 4096],
    [4097, 8192],
    [20_000, 32_768],
    [1 << 20, 1 << 20],
  ] as const) {
    assert.is(setPipeSize(fd, asked), given);
  }
  const room = setPipeSize(fd, 100_000);
  assert.is(room, 1 << 17);
  assert.is(writeSync(fd, Buffer.alloc(2 * room)), room);
  assert.throws(() => setPipeSize(fd, room / 2), code('EBUSY'));
  assert.is(setPipeSize(fd, 2 * room), 2 * room);
  assert.is(writeSync(fd, Buffer.alloc(2 * room)), room);
  closeSync(fd);
});

test('setPipeSize refuses what is no pipe', () => {
  const file = openSync(join(folder, 'no-pipe'), 'w');
  for (const fd of [-1, file]) {
    assert.throws(
      () => setPipeSize(fd, 4096),
      (error: NodeJS.ErrnoException) => error.code === 'EBADF' && error.syscall === 'fcntl',
    );
  }
  closeSync(file);
});

test('pollReadable refuses what cannot be watched', () => {
  const file = openSync(join(folder, 'plain'), 'w');
  assert.throws(() => pollReadable(file, () => undefined), code('EPERM'));
  closeSync(file);
  assert.throws(() => pollReadable(-1, () => undefined), /EBADF/);
});

test('getxattr reads an attribute, and says why not', () => {
  const path = join(folder, 'attributes');
  writeFileSync(path, '');
  const set = "import os, sys; os.setxattr(sys.argv[1], 'trusted.a', bytes([98, 0, 99]))";
  execFileSync('python3', ['-c', set, path]);
  assert.equal([...getxattr(path, 'trusted.a')], [98, 0, 99]);
  assert.throws(() => getxattr(path, 'trusted.none'), code('ENODATA'));
  assert.throws(() => getxattr(join(folder, 'none'), 'trusted.a'), code('ENOENT'));
});

test.run();
