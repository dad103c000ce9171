import { once } from 'node:events';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import * as assert from 'uvu/assert';
import { HomeproxyError } from '../../cli/errors.js';
import { type Authority, createAuthority } from '../../cli/identity/ca.js';
import type { Credentials } from '../../cli/identity/credentials.js';
import { PeerClient, type PeerClientOptions } from '../../cli/node/peer-client.js';
import { createPeerServer, type PeerServer, type PeerServerOptions } from '../../cli/node/peer-server.js';
import { credentialsOf, peerHandlers } from './transport-fixtures.js';

/** One authority and two of its nodes. */
export interface World {
  authority: Authority;
  home: Credentials;
  host1: Credentials;
}

const open: { close(): unknown }[] = [];

export async function makeWorld(world: World): Promise<void> {
  world.authority = await createAuthority();
  world.home = await credentialsOf(world.authority, 'home');
  world.host1 = await credentialsOf(world.authority, 'host1');
}

/** Ends what a test opened, the last first. */
export async function closeAll(): Promise<void> {
  for (const one of open.splice(0).reverse()) await one.close();
}

export async function server(credentials: Credentials, options: Partial<PeerServerOptions> = {}): Promise<PeerServer> {
  const { methods, uploads } = peerHandlers();
  const nodes = [{ name: 'home' }, { name: 'host1' }];
  const made = await createPeerServer({
    credentials,
    nodes,
    address: '127.0.0.1',
    port: 0,
    methods,
    uploads,
    ...options,
  });
  open.push({ close: () => made.close(0) });
  return made;
}

export function client(credentials: Credentials, port: number, options: Partial<PeerClientOptions> = {}): PeerClient {
  const made = new PeerClient({ credentials, node: { name: 'host1', address: '127.0.0.1', port }, ...options });
  open.push(made);
  return made;
}

export async function failure(promise: Promise<unknown>): Promise<HomeproxyError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, HomeproxyError, String(error));
    return error as HomeproxyError;
  }
  return assert.unreachable('it should have failed') as never;
}

export function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

export async function closed(socket: Socket): Promise<void> {
  socket.on('error', () => undefined);
  if (!socket.closed) await new Promise<void>((resolve) => socket.once('close', () => resolve()));
}

export async function tcpServer(onConnection: (socket: Socket) => void): Promise<number> {
  const tcp: Server = createTcpServer((socket) => {
    socket.on('error', () => undefined);
    open.push({ close: () => socket.destroy() });
    onConnection(socket);
  });
  tcp.listen(0, '127.0.0.1');
  await once(tcp, 'listening');
  open.push({ close: () => new Promise((resolve) => tcp.close(resolve)) });
  return (tcp.address() as { port: number }).port;
}
