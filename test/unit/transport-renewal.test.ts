import { X509Certificate } from 'node:crypto';
import * as assert from 'uvu/assert';
import { createAuthority } from '../../cli/identity/ca.js';
import type { Credentials } from '../../cli/identity/credentials.js';
import { serialOf } from '../../cli/identity/serial.js';
import { ping, serve } from '../../cli/node/peer-transport.js';
import { suite } from '../suite.js';
import { credentialsOf, peerHandlers, Waiting, wait } from './transport-fixtures.js';
import { client, closeAll, failure, makeWorld, server, type World } from './transport-nodes.js';

const test = suite<World>('peer transport: credentials are renewed and revoked while it runs');

test.before(makeWorld);
test.after.each(closeAll);

function revoking(credentials: Credentials, ...others: Credentials[]): Credentials {
  const serials = others.map(({ cert }) => serialOf(new X509Certificate(cert).serialNumber));
  return { ...credentials, revoked: new Set(serials) };
}

test('certificates of both ends are renewed while calls go on: none fails, and none is made twice', async (world) => {
  const host = await server(world.host1);
  const caller = client(world.home, host.port);
  let over = false;
  let calls = 0;
  const calling = Array.from({ length: 4 }, async () => {
    for (; !over; calls++) assert.is((await caller.call(ping, {})).peer, 'home');
  });
  for (let round = 0; round < 5; round++) {
    const before = calls;
    host.renew(await credentialsOf(world.authority, 'host1'));
    caller.renew(await credentialsOf(world.authority, 'home'));
    while (calls < before + 8) await caller.call(ping, {});
  }
  over = true;
  await Promise.all(calling);
});

test('the authority itself is replaced: for a while both are trusted', async (world) => {
  const next = await createAuthority();
  const both = `${world.authority.certificate}${next.certificate}`;
  const host = await server({ ...world.host1, ca: both });
  const caller = client(world.home, host.port);
  await caller.call(ping, {});
  caller.renew({ ...(await credentialsOf(next, 'home')), ca: both });
  await caller.call(ping, {});
  host.renew(await credentialsOf(next, 'host1'));
  await caller.call(ping, {});
  caller.renew(world.home);
  assert.is((await failure(caller.call(ping, {}))).code, 'HOST_NOT_TRUSTED', 'the one before is not any more');
});

test('a node that is revoked is cut off, also in the middle of a call, and learns why when it comes back', async (world) => {
  const waiting = new Waiting();
  const { methods } = peerHandlers();
  const host = await server(world.host1, {
    methods: [
      ...methods.filter(({ method }) => method.name !== wait.name),
      serve(wait, (_, { signal }) => waiting.run(signal)),
    ],
  });
  const caller = client(world.home, host.port);
  const pending = failure(caller.call(wait, {}));
  await waiting.started;
  host.renew(revoking(world.host1, world.home));
  await waiting.ended;
  assert.is((await pending).kind, 'user');
  const error = await failure(caller.call(ping, {}));
  assert.equal([error.code, error.exitStatus], ['PEER_REVOKED', 4]);
  caller.renew(await credentialsOf(world.authority, 'home'));
  await caller.call(ping, {}); // a new certificate of the same name is trusted
});

test('a host whose certificate is revoked is not called any more, also over a connection that is open', async (world) => {
  const { port } = await server(world.host1);
  const caller = client(world.home, port);
  await caller.call(ping, {});
  caller.renew(revoking(world.home, world.host1));
  const error = await failure(caller.call(ping, {}));
  assert.is(error.code, 'HOST_NOT_TRUSTED');
  assert.match(error.message, 'its certificate was revoked');
});

test.run();
