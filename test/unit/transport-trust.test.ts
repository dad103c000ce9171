import { once } from 'node:events';
import { connect } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import * as assert from 'uvu/assert';
import { createAuthority } from '../../cli/identity/ca.js';
import { type PeerContext, ping } from '../../cli/node/peer-server.js';
import { suite } from '../suite.js';
import { credentialsOf, echo, image, peerHandlers, refuse } from './transport-fixtures.js';
import { client, closeAll, closed, failure, makeWorld, server, tcpServer, type World } from './transport-nodes.js';

const test = suite<World>('peer transport: who is trusted');

test.before(makeWorld);
test.after.each(closeAll);

test('a server with a certificate of another authority is not trusted', async (world) => {
  const { port } = await server(await credentialsOf(await createAuthority({ name: 'other' }), 'host1'));
  const error = await failure(client(world.home, port).call(ping, {}));
  assert.equal([error.code, error.exitStatus], ['HOST_NOT_TRUSTED', 4]);
  assert.match(error.message, /host1 \(127\.0\.0\.1:\d+\) is not trusted: its certificate was signed by/);
});

test('an authority of the same name with another key is another authority', async (world) => {
  const { port } = await server(await credentialsOf(await createAuthority(), 'host1'));
  const error = await failure(client(world.home, port).call(ping, {}));
  assert.is(error.code, 'HOST_NOT_TRUSTED');
});

test('a client with a certificate of another authority is refused, and learns why', async (world) => {
  let handled = 0;
  const other = await createAuthority({ name: 'other' });
  const { methods } = peerHandlers();
  const counting = methods.map((handler) => ({
    ...handler,
    handle: async (request: unknown, context: PeerContext) => {
      handled += 1;
      return handler.handle(request, context);
    },
  }));
  const { port } = await server(world.host1, { methods: counting });
  const stranger = { ...(await credentialsOf(other, 'home')), ca: world.authority.certificate };
  for (const method of [ping, echo, refuse]) {
    const error = await failure(
      client(stranger, port).call(method as never, { text: '', count: 0n, kind: 'user' } as never),
    );
    assert.equal([error.code, error.exitStatus], ['HOST_NOT_TRUSTED', 4], error.message);
    assert.match(error.message, 'does not trust the certificate of this node');
  }
  const upload = await failure(client(stranger, port).stream(image, 'a', [Buffer.alloc(1 << 20)] as never));
  assert.is(upload.code, 'HOST_NOT_TRUSTED');
  assert.is(handled, 0);
});

test('a client without a certificate gets no answer', async (world) => {
  const { port } = await server(world.host1);
  const socket = tlsConnect({ host: '127.0.0.1', port, ca: world.authority.certificate, servername: 'host1' });
  let received = '';
  socket.on('data', (data) => {
    received += data.toString();
  });
  socket.write('POST /v1/ping HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}');
  await closed(socket);
  assert.is(received, '');
});

test('TLS 1.2 is refused', async (world) => {
  const { port } = await server(world.host1);
  const { ca, cert, key } = world.home;
  const socket = tlsConnect({ host: '127.0.0.1', port, ca, cert, key, servername: 'host1', maxVersion: 'TLSv1.2' });
  const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
  assert.match(String(error.code), 'PROTOCOL_VERSION');
});

test('expired certificates are refused on both sides', async (world) => {
  const past = { notBefore: new Date(Date.now() - 7_200_000), notAfter: new Date(Date.now() - 3_600_000) };
  const expiredHost = await server(await credentialsOf(world.authority, 'host1', past));
  const byClient = await failure(client(world.home, expiredHost.port).call(ping, {}));
  assert.is(byClient.code, 'HOST_NOT_TRUSTED');
  assert.match(byClient.message, 'its certificate has expired');
  const good = await server(world.host1);
  const byServer = await failure(client(await credentialsOf(world.authority, 'home', past), good.port).call(ping, {}));
  assert.is(byServer.code, 'HOST_NOT_TRUSTED');
  assert.match(byServer.message, 'does not trust the certificate of this node');
});

test('a certificate that is not valid yet is refused', async (world) => {
  const future = { notBefore: new Date(Date.now() + 3_600_000), notAfter: new Date(Date.now() + 7_200_000) };
  const { port } = await server(await credentialsOf(world.authority, 'host1', future));
  const error = await failure(client(world.home, port).call(ping, {}));
  assert.is(error.code, 'HOST_NOT_TRUSTED');
  assert.match(error.message, 'not valid yet');
});

test('another node at the address of the wanted one is not trusted', async (world) => {
  const { port } = await server(await credentialsOf(world.authority, 'host2'));
  const error = await failure(client(world.home, port).call(ping, {}));
  assert.is(error.code, 'HOST_NOT_TRUSTED');
  assert.match(error.message, 'its certificate is that of "host2"');
});

test("the authority's own certificate is nobody's identity", async (world) => {
  const { certificate, key } = world.authority;
  const asServer = await server({ ...world.host1, cert: certificate, key });
  assert.is((await failure(client(world.home, asServer.port).call(ping, {}))).code, 'HOST_NOT_TRUSTED');
  const { port } = await server(world.host1);
  const asClient = await failure(client({ ...world.home, cert: certificate, key }, port).call(ping, {}));
  assert.ok(['PEER_UNKNOWN', 'HOST_NOT_TRUSTED'].includes(asClient.code), asClient.code);
});

test('a node of the same authority that is not in the configuration gets 403 PEER_UNKNOWN', async (world) => {
  const { port } = await server(world.host1);
  const error = await failure(client(await credentialsOf(world.authority, 'host9'), port).call(ping, {}));
  assert.equal([error.code, error.exitStatus], ['PEER_UNKNOWN', 4]);
  assert.match(error.message, '"host9" is not one of my nodes');
});

test('garbage and silence on the port end with their connection, and harm nobody else', async (world) => {
  const { port } = await server(world.host1, { receiveTimeoutMs: 200 });
  const garbage = connect(port, '127.0.0.1');
  garbage.write('GET / HTTP/1.0\r\n\r\n'.repeat(100));
  const silence = connect(port, '127.0.0.1');
  await Promise.all([closed(garbage), closed(silence)]);
  await client(world.home, port).warm();
});

test('nobody listening, no answer to the handshake, and no TLS there are told apart', async (world) => {
  const free = await tcpServer(() => undefined);
  const refused = await failure(client(world.home, 1).call(ping, {}));
  assert.equal([refused.code, refused.exitStatus], ['HOST_UNREACHABLE', 4]);
  assert.match(refused.message, 'cannot reach host1 (127.0.0.1:1): nothing listens there');
  assert.match(refused.remedy ?? '', 'homeproxy up');
  const mute = await failure(client(world.home, free, { connectMs: 150 }).call(ping, {}));
  assert.is(mute.code, 'HOST_UNREACHABLE');
  assert.match(mute.message, 'within 150 ms');
  const plain = await tcpServer((socket) => socket.end('220 mail.example.org ESMTP\r\n'));
  const noTls = await failure(client(world.home, plain).call(ping, {}));
  assert.is(noTls.code, 'HOST_NOT_TRUSTED');
  assert.match(noTls.message, 'does not speak TLS');
  const closing = await tcpServer((socket) => socket.destroy());
  assert.is((await failure(client(world.home, closing).call(ping, {}))).code, 'HOST_UNREACHABLE');
});

test.run();
