import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { z } from 'zod';
import { type BpfError, LINE_SECRET_BYTES, Line } from '../../addon/lib/index.js';
import { UserError } from '../../cli/errors.js';
import { serialOf } from '../../cli/identity/serial.js';
import { ownMappings } from '../../cli/memory/mappings.js';
import { flatten, HEADER_BYTES, PAGE_BYTES, signRecord } from '../../cli/memory/records.js';
import { defineUpload, serveLine } from '../../cli/node/method.js';
import type { PeerContext } from '../../cli/node/peer-server.js';
import { suite } from '../suite.js';
import { client, closeAll, deferred, failure, makeWorld, server, type World } from './transport-nodes.js';

const test = suite<World>('peer transport: lines');
const upload = defineUpload({ name: 'taken', response: z.object({ bytes: z.number(), peer: z.string() }) });
const folder = mkdtempSync(join(tmpdir(), 'homeproxy-line-'));

test.before(makeWorld);
test.after.each(closeAll);
test.after(() => rmSync(folder, { recursive: true }));

/** Why it failed. */
async function reason(promise: Promise<unknown>): Promise<string> {
  return await promise.then(
    () => 'it did not fail',
    (error: unknown) => String(error),
  );
}

/** Takes all into a file. */
function taking(path = '/dev/null') {
  return serveLine(upload, async (_id, line, { peer }: PeerContext) => {
    const fd = openSync(path, 'w');
    try {
      const first = await line.relay(fd, 1);
      const rest = first.ended ? { bytes: 0 } : await line.relay(fd);
      return { bytes: first.bytes + rest.bytes, peer };
    } finally {
      closeSync(fd);
    }
  });
}

test('what is sent over a line arrives whole, with the name of who sent it, and calls go on beside it', async (world) => {
  const path = join(folder, 'whole');
  const { port } = await server(world.host1, { lines: [taking(path)] });
  const caller = client(world.home, port);
  const sent = randomBytes(3_000_001);
  await caller.warm();
  const answer = await caller.line(upload, 'a', async (line) => {
    await line.write(sent.subarray(0, 10));
    await caller.warm();
    await line.write(sent.subarray(10));
  });
  assert.equal(answer, { bytes: sent.length, peer: 'home' });
  assert.ok(readFileSync(path).equals(sent));
  await caller.warm();
});

test('memory of a process: as it is there, pages of zeros in a word or none, and what is not there is told', async (world) => {
  const code =
    "import mmap,sys;a=mmap.mmap(-1,8<<20,flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS);a[0]=1;a[8191]=2;a[(1<<20):(3<<20)]=b'x'*(2<<20);a[(8<<20)-1]=9;print(1,flush=True);sys.stdin.read()";
  const child = spawn('python3', ['-c', code], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  const pid = child.pid ?? 0;
  const area = ownMappings(readFileSync(`/proc/${pid}/maps`, 'utf8')).find(({ start, end }) => end - start >= 8 << 20);
  const { end = 0 } = area ?? {};
  const start = end - (8 << 20);
  const memory = Buffer.alloc(8 << 20);
  const file = openSync(`/proc/${pid}/mem`, 'r');
  readSync(file, memory, 0, memory.length, start);
  closeSync(file);
  const beyond = [end - PAGE_BYTES, end + 4 * PAGE_BYTES].map(BigInt);
  for (const fresh of [true, false]) {
    const path = join(folder, `memory-${fresh}`);
    const { port } = await server(world.host1, { lines: [taking(path)] });
    await client(world.home, port).line(upload, 'a', async (line) => {
      const all = flatten([{ start, end }]);
      assert.equal(await line.pages(pid, all, fresh), { bytes: 8 << 20, missed: new BigUint64Array() });
      const { bytes, missed } = await line.pages(pid, BigUint64Array.from([...beyond, 0n, 4096n, ...beyond]), fresh);
      assert.is(bytes, 2 * PAGE_BYTES);
      assert.equal([...missed], [BigInt(end), beyond[1], 0n, 4096n, BigInt(end), beyond[1]]);
      await line.write(signRecord('end'));
    });
    const rebuilt = Buffer.alloc(8 << 20, fresh ? 0 : 5);
    let kinds = new Set<number>();
    const stream = readFileSync(path);
    for (let at = 0; at < stream.length; ) {
      const kind = stream.readUInt32BE(at);
      const [from, bytes] = [stream.readBigUInt64BE(at + 8), Number(stream.readBigUInt64BE(at + 16))];
      kinds = kinds.add(kind);
      at += HEADER_BYTES;
      if (kind === 2) stream.copy(rebuilt, Number(from) - start, at, at + bytes);
      if (kind === 3) rebuilt.fill(0, Number(from) - start, Number(from) - start + bytes);
      if (kind === 2) at += bytes;
    }
    assert.ok(rebuilt.equals(memory), `fresh: ${fresh}`);
    assert.equal([...kinds].sort(), fresh ? [2, 6] : [2, 3, 6]);
  }
  child.stdin.end();
});

test('who takes a line may answer before its end: the sender gets that answer, and stops', async (world) => {
  const lines = [
    serveLine(upload, async (_id, line) => {
      await line.relay(openSync('/dev/null', 'w'), 1 << 20);
      throw new UserError({ code: 'MEMORY_REFUSED', message: 'no room', exitStatus: 6 });
    }),
  ];
  const { port } = await server(world.host1, { lines });
  let sent = 0;
  const error = await failure(
    client(world.home, port).line(upload, 'a', async (line) => {
      for (const piece = Buffer.alloc(1 << 20); ; sent += piece.length) await line.write(piece);
    }),
  );
  assert.equal([error.code, error.exitStatus], ['MEMORY_REFUSED', 6]);
  assert.ok(sent < 512 << 20, `${sent} bytes were sent`);
});

test('a sender that fails, gives up or takes too long ends its line at both ends', async (world) => {
  const ends: unknown[] = [];
  const lines = [
    serveLine(upload, async (_id, line) => {
      await line.relay(openSync('/dev/null', 'w')).catch((error: unknown) => ends.push((error as BpfError).code));
      return { bytes: 0, peer: '' };
    }),
  ];
  const { port } = await server(world.host1, { lines });
  const caller = client(world.home, port);
  assert.match(await reason(caller.line(upload, 'a', () => Promise.reject(new Error('unreadable')))), /unreadable/);
  const stop = new AbortController();
  const forever = async (line: Line): Promise<void> => {
    setTimeout(() => stop.abort(new Error('given up')), 20);
    for (;;) await line.write(Buffer.alloc(1 << 16));
  };
  assert.match(await reason(caller.line(upload, 'a', forever, { signal: stop.signal })), /given up/);
  const late = await failure(caller.line(upload, 'a', forever, { timeoutMs: 50 }));
  assert.is(late.code, 'HOST_UNREACHABLE');
  while (ends.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(
    ends.every((code) => code === 'ECONNRESET' || code === 'EPROTO'),
    ends.join(' '),
  );
});

test('whoever serves memory to a process hears why it is not wanted', async (world) => {
  const lines = [
    serveLine(upload, async () => {
      throw new UserError({ code: 'PAGER_LOST', message: 'it is gone '.repeat(20), exitStatus: 6 });
    }),
  ];
  const { port } = await server(world.host1, { lines });
  const error = await failure(
    client(world.home, port).line(upload, 'a', async (line) => void (await line.serveLater(process.pid, 0))),
  );
  assert.is(error.code, 'PAGER_LOST');
});

test('an end that is silent for too long is given up then, and no answer is awaited from it', async (world) => {
  const over = deferred<void>();
  const silent = serveLine(upload, async (_id, _line, { peer }: PeerContext) => {
    await over.promise;
    return { bytes: 0, peer };
  });
  const { port } = await server(world.host1, { lines: [silent] });
  const began = performance.now();
  const failed = await failure(
    client(world.home, port).line(upload, 'a', async (line) => void (await line.serveLater(process.pid, 0, 800))),
  );
  assert.is(failed.code, 'HOST_UNREACHABLE');
  assert.ok(performance.now() - began < 1500, 'not for as long again');
  over.resolve(undefined);
});

test('a sender that pauses for too long is cut off', async (world) => {
  const { port } = await server(world.host1, { lines: [taking()], receiveTimeoutMs: 100 });
  const error = await failure(
    client(world.home, port).line(upload, 'a', async (line) => {
      await line.write(Buffer.alloc(100));
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 400));
        await line.write(Buffer.alloc(1));
      }
    }),
  );
  assert.is(error.code, 'REQUEST_TIMEOUT');
});

test('no line for a node that is not configured, revoked, or for what is not served over one', async (world) => {
  let taken = 0;
  const lines = [
    serveLine(upload, async () => {
      taken++;
      return { bytes: 0, peer: '' };
    }),
  ];
  const feed = async (): Promise<void> => undefined;
  const stranger = await server(world.host1, { lines, nodes: [{ name: 'host1' }] });
  await failure(client(world.home, stranger.port).line(upload, 'a', feed));
  const { X509Certificate } = await import('node:crypto');
  const revoked = new Set([serialOf(new X509Certificate(world.home.cert).serialNumber)]);
  const strict = await server({ ...world.host1, revoked }, { lines });
  await failure(client(world.home, strict.port).line(upload, 'a', feed));
  const other = await server(world.host1, { lines: [] });
  await failure(client(world.home, other.port).line(upload, 'a', feed));
  assert.is(taken, 0);
});

test('a certificate that is revoked while its line is open ends it', async (world) => {
  const { promise, resolve } = deferred<void>();
  const lines = [
    serveLine(upload, async (_id, line) => {
      await line.relay(openSync('/dev/null', 'w'), 1);
      resolve();
      await line.relay(openSync('/dev/null', 'w'));
      return { bytes: 0, peer: '' };
    }),
  ];
  const peer = await server(world.host1, { lines });
  const ended = failure(
    client(world.home, peer.port).line(upload, 'a', async (line) => {
      for (;;) await line.write(Buffer.alloc(1 << 16));
    }),
  );
  await promise;
  const { X509Certificate } = await import('node:crypto');
  peer.renew({ ...world.host1, revoked: new Set([serialOf(new X509Certificate(world.home.cert).serialNumber)]) });
  const { code } = await ended;
  assert.ok(/^(HOST_UNREACHABLE|PEER_REVOKED|HOST_NOT_TRUSTED)$/.test(code), code);
});

test('a node of a version without lines is told of as such, and keeps no connection from further calls', async (world) => {
  const old = createHttpsServer({ ...world.host1, requestCert: true }, (request, response) => {
    request.resume();
    response.end('{"peer":"home"}');
  });
  await once(old.listen(0, '127.0.0.1'), 'listening');
  const caller = client(world.home, (old.address() as AddressInfo).port, { maxSockets: 1 });
  for (let turn = 0; turn < 3; turn++) {
    assert.is((await failure(caller.line(upload, 'a', async () => undefined))).code, 'INCOMPATIBLE');
    await caller.warm();
  }
  old.closeAllConnections();
  old.close();
});

test('one caller has 32 lines at most; who ends its client ends its lines', async (world) => {
  let begun = 0;
  const lines = [
    serveLine(upload, async (_id, line) => {
      begun++;
      const fd = openSync('/dev/null', 'w');
      await line.relay(fd).finally(() => closeSync(fd));
      return { bytes: 0, peer: '' };
    }),
  ];
  const { port } = await server(world.host1, { lines });
  const caller = client(world.home, port);
  const endless = async (line: Line): Promise<void> => {
    for (;;) await line.write(Buffer.alloc(100)).then(() => new Promise((resolve) => setTimeout(resolve, 5)));
  };
  const open = Array.from({ length: 32 }, () => failure(caller.line(upload, 'a', endless, { timeoutMs: 600_000 })));
  while (begun < 32) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.is(
    (await failure(client(world.home, port).line(upload, 'a', async () => undefined))).code,
    'HOST_UNREACHABLE',
  );
  caller.close();
  for (const { code } of await Promise.all(open)) assert.is(code, 'HOST_UNREACHABLE');
  assert.is((await client(world.home, port).line(upload, 'a', async () => undefined)).bytes, 0);
  assert.is(begun, 33);
});

/** The ends of a TCP connection that nobody reads. */
async function pair(): Promise<[Socket, Socket]> {
  const listener = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const one = connect((listener.address() as { port: number }).port, '127.0.0.1');
  const [[other]] = await Promise.all([once(listener, 'connection'), once(one, 'connect')]);
  listener.close();
  one.pause();
  for (const socket of [one, other as Socket]) handleOf(socket).readStop();
  return [one, other as Socket];
}

function handleOf(socket: Socket): { fd: number; readStop(): void } {
  return (socket as unknown as { _handle: { fd: number; readStop(): void } })._handle;
}

test('ends that do not have the same secret do not come together, and nothing is readable between those that do', async () => {
  const secret = randomBytes(LINE_SECRET_BYTES);
  for (const [mine, theirs, outcome] of [
    [secret, secret, 'fulfilled'],
    [secret, randomBytes(LINE_SECRET_BYTES), 'rejected'],
  ] as const) {
    const sockets = await pair();
    const ends = [
      new Line(handleOf(sockets[0]).fd, mine, 'client', 1000),
      new Line(handleOf(sockets[1]).fd, theirs, 'server', 1000),
    ] as const;
    const outcomes = await Promise.allSettled(ends.map((end) => end.handshake().finally(() => undefined)));
    assert.equal(
      outcomes.map(({ status }) => status),
      [outcome, outcome],
    );
    for (const socket of sockets) socket.destroy();
  }
  assert.throws(() => new Line(0, Buffer.alloc(16), 'client', 0));
});

test.run();
