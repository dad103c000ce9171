import { connect, type Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { connect as tlsConnect } from 'node:tls';
import * as assert from 'uvu/assert';
import { z } from 'zod';
import { BugError, ExternalError, UserError } from '../../cli/errors.js';
import { defineMethod } from '../../cli/node/method.js';
import { type PeerContext, ping } from '../../cli/node/peer-server.js';
import { askSocket } from '../../cli/process/ask-socket.js';
import { readInternetSockets, readSocketHolders } from '../../cli/process/sockets.js';
import { suite } from '../suite.js';
import {
  broken,
  echo,
  fullDisk,
  image,
  peerHandlers,
  refuse,
  slowReader,
  Waiting,
  wait,
} from './transport-fixtures.js';
import {
  client,
  closeAll,
  closed,
  deferred,
  failure,
  makeWorld,
  server,
  tcpServer,
  type World,
} from './transport-nodes.js';

const IPPROTO_TCP = 6;
const TCP_NODELAY = 1; // include/uapi/linux/tcp.h

const test = suite<World>('peer transport: calls and uploads');

test.before(makeWorld);
test.after.each(closeAll);

test('a call between two nodes of one authority arrives with the name of its caller, 64-bit numbers intact', async (world) => {
  const { port } = await server(world.host1);
  const count = 2n ** 63n + 1n;
  const answer = await client(world.home, port).call(echo, { text: 'héllo', count });
  assert.equal(answer, { text: 'héllo', count, peer: 'home' });
});

test('no end of a connection keeps a segment back until the other acknowledges the one before', async (world) => {
  const { port } = await server(world.host1);
  await client(world.home, port).call(ping, {});
  const holders = readSocketHolders([process.pid]);
  const ends = readInternetSockets(process.pid, ['tcp']).filter(
    ({ local, remote, inode }) => holders.has(inode) && (remote.port === port || local.port === port),
  );
  const connected = ends.filter(({ state }) => state === 'ESTABLISHED');
  assert.is(connected.length, 2);
  for (const { inode } of connected) {
    const holder = holders.get(inode);
    assert.is(holder && askSocket(holder, IPPROTO_TCP, TCP_NODELAY, Buffer.alloc(4))?.readInt32LE(), 1);
  }
});

test('warm opens the connection that the next call uses', async (world) => {
  const made = await server(world.host1);
  let connections = 0;
  const relayed = await tcpServer((socket) => {
    connections += 1;
    const onward = connect(made.port, '127.0.0.1');
    onward.on('error', () => undefined);
    socket.pipe(onward).pipe(socket);
  });
  const caller = client(world.home, relayed);
  await caller.warm();
  await caller.call(echo, { text: '', count: 0n });
  await caller.call(ping, {});
  assert.is(connections, 1);
});

test('a daemon that was restarted is reached again by the same client', async (world) => {
  const first = await server(world.host1);
  const caller = client(world.home, first.port);
  await caller.warm();
  await first.close(0);
  const gone = await failure(caller.warm());
  assert.is(gone.code, 'HOST_UNREACHABLE');
  await server(world.host1, { port: first.port });
  await caller.warm();
});

test('errors come back as the same kind, with code, remedy, exit status, command and log', async (world) => {
  const { port } = await server(world.host1);
  const caller = client(world.home, port);
  const user = await failure(caller.call(refuse, { kind: 'user' }));
  assert.instance(user, UserError);
  assert.equal([user.code, user.exitStatus, user.remedy], ['PROCESS_UNKNOWN', 3, 'homeproxy ps']);
  const external = (await failure(caller.call(refuse, { kind: 'external' }))) as ExternalError;
  assert.instance(external, ExternalError);
  assert.equal([external.code, external.command, external.log], ['CRIU_FAILED', 'criu dump', ['Error: x']]);
  const bug = await failure(caller.call(refuse, { kind: 'bug' }));
  assert.instance(bug, BugError);
  assert.match(bug.message, 'undefined is not a function');
  assert.match((await failure(caller.call(refuse, { kind: 'string' }))).message, 'thrown text');
});

test('an answer that breaks its own description is a bug of the answering node', async (world) => {
  const { port } = await server(world.host1);
  const error = await failure(client(world.home, port).call(broken, {}));
  assert.is(error.code, 'BUG');
  assert.match(error.message, 'size');
});

test('unknown methods, ids with slashes and requests of another shape are refused with words', async (world) => {
  const { port } = await server(world.host1);
  const caller = client(world.home, port);
  const unknown = defineMethod({ name: 'unknown', request: z.object({}), response: z.object({}) });
  assert.is((await failure(caller.call(unknown, {}))).code, 'METHOD_UNKNOWN');
  const shape = await failure(caller.call(echo, { text: 5, count: 1n } as never));
  assert.is(shape.code, 'REQUEST_INVALID');
  assert.match(shape.message, 'text');
  for (const id of ['../../etc', '..', '']) {
    const error = await failure(caller.stream(image, id, [Buffer.from('x')] as never));
    assert.ok(['REQUEST_INVALID', 'METHOD_UNKNOWN'].includes(error.code), `${id}: ${error.code}`);
  }
});

test('a body larger than 1 MiB is refused, with and without a declared length', async (world) => {
  const { port } = await server(world.host1);
  const caller = client(world.home, port);
  const error = await failure(caller.call(echo, { text: 'x'.repeat(8 << 20), count: 0n }));
  assert.is(error.code, 'REQUEST_TOO_LARGE');
  const { ca, cert, key } = world.home;
  const socket = tlsConnect({ host: '127.0.0.1', port, ca, cert, key, servername: 'host1' });
  let received = '';
  socket.on('data', (data) => {
    received += data.toString();
  });
  socket.write('POST /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n');
  const chunk = `10000\r\n${' '.repeat(65_536)}\r\n`;
  for (let sent = 0; sent < 20; sent++) socket.write(chunk);
  await closed(socket);
  assert.match(received, 'HTTP/1.1 413');
  assert.match(received, 'REQUEST_TOO_LARGE');
});

test('a client that sends its head or its body too slowly is cut off', async (world) => {
  const { port } = await server(world.host1, { receiveTimeoutMs: 200 });
  const { ca, cert, key } = world.home;
  const head = 'POST /v1/echo HTTP/1.1\r\nhost: x\r\n';
  for (const text of [head, `${head}content-length: 100\r\n\r\n{`]) {
    const socket = tlsConnect({ host: '127.0.0.1', port, ca, cert, key, servername: 'host1' });
    socket.resume();
    socket.write(text);
    const began = Date.now();
    await closed(socket);
    assert.ok(Date.now() - began < 5000);
  }
});

test('more connections than it takes are ended at once, and those that are open go on', async (world) => {
  const { port } = await server(world.host1, { maxConnections: 2 });
  const [first, second] = [client(world.home, port), client(world.home, port)];
  for (const one of [first, second]) await one.call(ping, {});
  const refused = await failure(client(world.home, port).call(ping, {}));
  assert.is(refused.code, 'HOST_UNREACHABLE');
  for (const one of [first, second]) assert.equal(await one.call(ping, {}), { peer: 'home' });
  first.close();
  assert.equal(await second.call(ping, {}), { peer: 'home' });
});

test('a handler that takes too long is a timeout of the caller, and its signal aborts', async (world) => {
  const waiting = new Waiting();
  const { port } = await server(world.host1, { methods: peerHandlers(waiting).methods });
  const error = await failure(client(world.home, port).call(wait, {}, { timeoutMs: 150 }));
  assert.is(error.code, 'HOST_UNREACHABLE');
  assert.match(error.message, 'no answer to "wait" within 150 ms');
  assert.is(((await waiting.ended) as UserError).code, 'CALLER_GONE');
});

test("aborting a call throws the reason here and aborts the handler's signal there", async (world) => {
  const waiting = new Waiting();
  const { port } = await server(world.host1, { methods: peerHandlers(waiting).methods });
  const controller = new AbortController();
  const call = client(world.home, port).call(wait, {}, { signal: controller.signal });
  await waiting.started;
  const reason = new UserError({ code: 'INTERRUPTED', message: 'interrupted', exitStatus: 130 });
  const began = Date.now();
  controller.abort(reason);
  assert.is(await failure(call), reason);
  assert.ok(Date.now() - began < 2000, 'at once, not at the time limit');
  assert.is(((await waiting.ended) as UserError).code, 'CALLER_GONE');
});

test('a daemon that dies during a call is unreachable, not distrusted', async (world) => {
  const waiting = new Waiting();
  const made = await server(world.host1, { methods: peerHandlers(waiting).methods });
  const call = failure(client(world.home, made.port).call(wait, {}));
  await waiting.started;
  await made.close(0);
  assert.is((await call).code, 'HOST_UNREACHABLE');
});

test('a connection that breaks during a call while the node lives is named as lost', async (world) => {
  const waiting = new Waiting();
  const made = await server(world.host1, { methods: peerHandlers(waiting).methods });
  const sockets: Socket[] = [];
  const relayed = await tcpServer((socket) => {
    const onward = connect(made.port, '127.0.0.1');
    onward.on('error', () => undefined);
    sockets.push(socket, onward);
    socket.pipe(onward).pipe(socket);
  });
  const call = failure(client(world.home, relayed).call(wait, {}));
  await waiting.started;
  for (const socket of sockets) socket.destroy();
  const error = await call;
  assert.is(error.code, 'HOST_UNREACHABLE');
  assert.match(error.message, 'the connection was lost during "wait"');
});

test('an upload of 32 MiB arrives whole', async (world) => {
  const { port } = await server(world.host1);
  async function* source() {
    for (let index = 0; index < 512; index++) yield Buffer.alloc(65_536, index);
  }
  let sum = 0;
  for (let index = 0; index < 512; index++) sum = (sum + 65_536 * (index % 256)) % 65_521;
  const answer = await client(world.home, port).stream(image, 'c0ffee.tar', source());
  assert.equal(answer, { bytes: 32 << 20, sum });
});

test('an upload is read no faster than it is taken', async (world) => {
  const { port } = await server(world.host1);
  let produced = 0;
  async function* endless() {
    for (;;) {
      produced += 65_536;
      yield Buffer.alloc(65_536);
    }
  }
  const answer = await client(world.home, port).stream(slowReader, 'x', endless());
  assert.ok(answer.bytes > 2 << 20);
  assert.ok(produced < 48 << 20, `${produced} bytes were produced for ${answer.bytes} taken`);
});

test('a destination that refuses an upload in the middle says why', async (world) => {
  const { port } = await server(world.host1);
  async function* endless() {
    for (;;) yield Buffer.alloc(65_536);
  }
  const error = await failure(client(world.home, port).stream(fullDisk, 'x', endless()));
  assert.is(error.code, 'DISK_FULL');
});

test('an upload whose source fails throws that, and the other end does not take it for complete', async (world) => {
  const started = deferred<void>();
  const ended = deferred<string>();
  const { uploads } = peerHandlers();
  const watched = uploads.map((handler) => ({
    ...handler,
    handle: async (id: string, body: Readable, context: PeerContext) => {
      started.resolve();
      try {
        const answer = await handler.handle(id, body, context);
        ended.resolve('complete');
        return answer;
      } catch (error) {
        ended.resolve('failed');
        throw error;
      }
    },
  }));
  const { port } = await server(world.host1, { uploads: watched });
  async function* failing() {
    yield Buffer.alloc(65_536);
    await started.promise;
    throw new UserError({ code: 'IMAGE_UNREADABLE', message: 'gone' });
  }
  const error = await failure(client(world.home, port).stream(image, 'x', failing()));
  assert.is(error.code, 'IMAGE_UNREADABLE');
  assert.is(await ended.promise, 'failed');
});

test('an upload can be aborted, and one that pauses too long is cut off', async (world) => {
  const { port } = await server(world.host1, { receiveTimeoutMs: 150 });
  async function* pausing() {
    yield Buffer.alloc(10);
    await new Promise(() => undefined);
  }
  const controller = new AbortController();
  const call = failure(client(world.home, port).stream(image, 'x', pausing(), { signal: controller.signal }));
  setTimeout(() => controller.abort(new UserError({ code: 'INTERRUPTED', message: 'x' })), 50);
  assert.is((await call).code, 'INTERRUPTED');
  const paused = await failure(client(world.home, port).stream(image, 'x', pausing(), { timeoutMs: 5000 }));
  assert.is(paused.code, 'HOST_UNREACHABLE');
  assert.match(paused.message, 'was lost during "image"');
});

test("a port in use and an address of another machine are the user's to correct", async (world) => {
  const { port } = await server(world.host1);
  const used = await failure(server(world.host1, { port }));
  assert.equal([used.code, used.exitStatus], ['PORT_IN_USE', 7]);
  const elsewhere = await failure(server(world.host1, { address: '192.0.2.1' }));
  assert.is(elsewhere.code, 'ADDRESS_NOT_HERE');
});

test.run();
