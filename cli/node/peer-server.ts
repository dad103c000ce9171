import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { SecureContextOptions, TLSSocket } from 'node:tls';
import type { BaseLogger } from 'pino';
import { z } from 'zod';
import type { Line } from '../../addon/lib/index.js';
import { asHomeproxyError, BugError, type HomeproxyError, UserError } from '../errors.js';
import type { Credentials } from '../identity/credentials.js';
import { nodeNameOf } from '../identity/node-name.js';
import { serialOf } from '../identity/serial.js';
import { migrationIdSchema } from '../migration/messages.js';
import { defineMethod, type LineHandler, type MethodHandler, serve, UPLOAD_ID, type UploadHandler } from './method.js';
import { LINE_PROTOCOL, lineOver, lineProblem } from './private-line.js';
import {
  answerError,
  answerJson,
  decodeRequest,
  encode,
  encodeAnswer,
  goneSignal,
  PROTOCOL,
  Refusal,
  readBody,
  requestError,
  unknownMethod,
} from './wire.js';

/** Of one caller, at the same time: one for each large process that comes from it. */
const MAX_LINES = 32;

export type TransportLogger = Pick<BaseLogger, 'debug' | 'warn' | 'error'>;

/** What a handler knows of the call that it answers. */
export interface PeerContext {
  /** The calling node, proven by its certificate. */
  readonly peer: string;
  /** Aborted when the caller goes away before it got its answer. */
  readonly signal: AbortSignal;
}

export interface PeerServerOptions {
  readonly credentials: Credentials;
  /** Who may call: the names of the configuration's nodes. */
  readonly nodes: readonly { readonly name: string }[];
  readonly address: string;
  /** 0 takes any free port. */
  readonly port: number;
  readonly methods?: readonly MethodHandler<PeerContext>[];
  readonly uploads?: readonly UploadHandler<PeerContext>[];
  readonly lines?: readonly LineHandler<PeerContext>[];
  readonly logger?: TransportLogger;
  /** For a handshake, a request's head, a JSON body, and the longest pause within an upload. Default 10 000 ms. */
  readonly receiveTimeoutMs?: number;
  /** Default 512. */
  readonly maxConnections?: number;
}

export interface PeerServer {
  readonly port: number;
  /** Uses other credentials from now on. Calls that are running go on, unless their caller's certificate is revoked. */
  renew(credentials: Credentials): void;
  /** Takes no more calls, lets the running ones end for `graceMs` (default 2000), then cuts them off. */
  close(graceMs?: number): Promise<void>;
}

/** Answered by every server: is somebody there, who, and does he trust me? */
export const ping = defineMethod({
  name: 'ping',
  request: z.object({}),
  response: z.object({ peer: z.string() }),
});

/**
 * Listens for the other nodes: HTTP over mutual TLS 1.3. A caller without a certificate of our authority gets no further
 * than the handshake; one whose certificate names no node of the configuration gets 403 `PEER_UNKNOWN`.
 * @throws {UserError} `PORT_IN_USE`, `ADDRESS_NOT_HERE` (exit 7)
 */
export async function createPeerServer(options: PeerServerOptions): Promise<PeerServer> {
  const { logger } = options;
  let { credentials } = options;
  const receiveTimeoutMs = options.receiveTimeoutMs ?? 10_000;
  const builtin = serve(ping, async (_request, context: PeerContext) => ({ peer: context.peer }));
  const methods = new Map([builtin, ...(options.methods ?? [])].map((handler) => [handler.method.name, handler]));
  const uploads = new Map((options.uploads ?? []).map((handler) => [handler.upload.name, handler]));
  const lines = new Map((options.lines ?? []).map((handler) => [handler.upload.name, handler]));
  const nodes = new Set(options.nodes.map((node) => node.name));

  const connections = new Set<TLSSocket>();

  const server = createServer({
    ...contextOf(credentials),
    requestCert: true,
    rejectUnauthorized: true,
    handshakeTimeout: receiveTimeoutMs,
    headersTimeout: receiveTimeoutMs,
    requestTimeout: 0, // uploads may take long: readBody and the pause in an upload are timed instead
    connectionsCheckingInterval: Math.min(1000, receiveTimeoutMs),
    keepAliveTimeout: 75_000,
    maxHeaderSize: 8192,
    noDelay: true,
    keepAlive: true, // a caller that lost its power is noticed after about 15 s
    keepAliveInitialDelay: 5000,
  });
  server.maxConnections = options.maxConnections ?? 512;
  server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
    const reason = socket.authorizationError ?? error.code ?? error.message;
    logger?.warn({ from: socket.remoteAddress, reason: String(reason) }, 'refused a connection: no trusted peer');
    socket.destroy();
  });
  server.on('secureConnection', (socket: TLSSocket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    answer(request, response).catch((error: unknown) => {
      logger?.error({ err: error }, 'answering failed');
      response.destroy();
    });
  });

  server.on('upgrade', (request: IncomingMessage, socket: TLSSocket, head: Buffer) => {
    socket.on('error', () => undefined); // 'close' follows
    takeLine(request, socket, head).catch((error: unknown) => {
      logger?.error({ err: error }, 'answering failed');
      socket.destroy();
    });
  });

  /** How many lines each caller has; every one is a thread here. */
  const open = new Map<string, number>();
  const count = (peer: string, change: 1 | -1): void => void open.set(peer, (open.get(peer) ?? 0) + change);

  /** A caller that is refused gets no line, and no word: those of the configuration know what lines there are. */
  async function takeLine(request: IncomingMessage, socket: TLSSocket, head: Buffer): Promise<void> {
    const { url = '', method } = request;
    const about: { peer?: string; migration?: string } = {};
    let line: Line | undefined;
    try {
      const peer = identify(socket, nodes, credentials.revoked);
      about.peer = peer;
      const [, protocol, name = '', id = '', ...rest] = url.split('/');
      const handler = lines.get(name);
      const known = protocol === PROTOCOL && rest.length === 0 && method === 'PUT' && UPLOAD_ID.test(id);
      const turns = request.headers.upgrade === LINE_PROTOCOL && head.length === 0;
      if (handler === undefined || !known || !turns) throw unknownMethod(`${method} ${url}`);
      if (migrationIdSchema.safeParse(id).success) about.migration = id;
      if ((open.get(peer) ?? 0) >= MAX_LINES) throw tooMany(peer);
      count(peer, 1);
      socket.once('close', () => count(peer, -1));
      const turned = lineOver(socket, 'server', url, receiveTimeoutMs);
      await say(socket, `HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: ${LINE_PROTOCOL}\r\n\r\n`);
      await turned.handshake();
      line = turned;
      const gone = new AbortController();
      socket.once('close', () => gone.abort());
      const answered = await handler.handle(id, line, { peer, signal: gone.signal });
      await line.answer(Buffer.from(`200 ${encodeAnswer(handler.upload.response, name, answered)}`));
    } catch (thrown) {
      const problem = lineProblem(thrown, receiveTimeoutMs);
      const error = problem instanceof Refusal ? problem.error : asHomeproxyError(problem);
      report(logger, error, { ...about, request: `${method} ${url}` });
      await line?.answer(Buffer.from(`500 ${encode({ error: error.toDocument() })}`)).catch(() => undefined);
    } finally {
      socket.destroy();
    }
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on('error', () => undefined);
    let peer: string | undefined;
    const about: { migration?: string } = {};
    try {
      peer = identify(request.socket as TLSSocket, nodes, credentials.revoked);
      const gone = goneSignal(response, peer);
      const text = await dispatch(request, { peer, signal: gone.signal }, about);
      answerJson(response, 200, text);
    } catch (thrown) {
      const error = answerError(request, response, thrown);
      report(logger, error, { peer, ...about, request: `${request.method} ${request.url}` });
    }
  }

  /** @param about told of the migration, for the log. */
  async function dispatch(
    request: IncomingMessage,
    context: PeerContext,
    about: { migration?: string },
  ): Promise<string> {
    const path = request.url ?? '';
    const [, protocol, name = '', id, ...rest] = path.split('/');
    if (protocol !== PROTOCOL || rest.length > 0) throw unknownMethod(path);
    if (request.method === 'POST' && id === undefined) {
      const handler = methods.get(name);
      if (handler === undefined) throw unknownMethod(path);
      const asked = decodeRequest(handler.method, await readBody(request, receiveTimeoutMs));
      const { migration } = Object(asked) as { migration?: unknown };
      if (typeof migration === 'string') about.migration = migration;
      return encodeAnswer(handler.method.response, name, await handler.handle(asked, context));
    }
    if (request.method === 'PUT' && id !== undefined) {
      const handler = uploads.get(name);
      if (handler === undefined) throw unknownMethod(path);
      if (migrationIdSchema.safeParse(id).success) about.migration = id;
      if (!UPLOAD_ID.test(id)) throw new Refusal(400, requestError('REQUEST_INVALID', 'the id has other characters'));
      const stopWatching = watchPauses(request, receiveTimeoutMs);
      try {
        return encodeAnswer(handler.upload.response, name, await handler.handle(id, request, context));
      } finally {
        stopWatching();
      }
    }
    throw unknownMethod(`${request.method} ${path}`);
  }

  await listen(server, options.address, options.port);
  return {
    port: (server.address() as AddressInfo).port,
    renew: (renewed) => {
      credentials = renewed;
      server.setSecureContext(contextOf(renewed));
      for (const socket of connections) if (isRevoked(socket, renewed.revoked)) socket.destroy();
    },
    close: async (graceMs = 2000) => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const timer = setTimeout(() => {
        server.closeAllConnections();
        for (const socket of connections) socket.destroy(); // lines, which are no calls to Node
      }, graceMs);
      await closed;
      clearTimeout(timer);
    },
  };
}

function tooMany(peer: string): UserError {
  return new UserError({
    code: 'TOO_MANY_LINES',
    message: `"${peer}" has ${MAX_LINES} lines here already`,
    exitStatus: 4,
  });
}

async function say(socket: TLSSocket, text: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    socket.write(text, (error) => (error === undefined || error === null ? resolve() : reject(error)));
  });
}

function contextOf({ ca, cert, key }: Credentials): SecureContextOptions {
  return { ca, cert, key, minVersion: 'TLSv1.3' };
}

function isRevoked(socket: TLSSocket, revoked: ReadonlySet<string>): boolean {
  const certificate = socket.getPeerX509Certificate();
  return certificate !== undefined && revoked.has(serialOf(certificate.serialNumber));
}

function identify(socket: TLSSocket, nodes: ReadonlySet<string>, revoked: ReadonlySet<string>): string {
  const certificate = socket.getPeerX509Certificate();
  const name = certificate === undefined ? undefined : nodeNameOf(certificate);
  if (isRevoked(socket, revoked)) {
    throw new Refusal(
      403,
      new UserError({
        code: 'PEER_REVOKED',
        message: `the certificate of "${name}" was revoked`,
        remedy: `homeproxy ca issue ${name} makes a new one, if that node is to be trusted again`,
        exitStatus: 4,
      }),
    );
  }
  if (name !== undefined && nodes.has(name)) return name;
  throw new Refusal(
    403,
    new UserError({
      code: 'PEER_UNKNOWN',
      message: name === undefined ? 'the certificate names no node' : `"${name}" is not one of my nodes`,
      remedy: 'list the calling node under `nodes` in the configuration of the called one, and restart its daemon',
      exitStatus: 4,
    }),
  );
}

/** Cuts off an upload whose sender pauses for too long (not one whose reader here is slow: then something is buffered). */
function watchPauses(request: IncomingMessage, limitMs: number): () => void {
  let bytes = request.socket.bytesRead;
  const timer = setInterval(() => {
    const stalled = request.socket.bytesRead === bytes && request.readableLength === 0;
    bytes = request.socket.bytesRead;
    if (stalled && !request.readableEnded) {
      request.destroy(requestError('REQUEST_TIMEOUT', `the upload paused for more than ${limitMs} ms`, 4));
    }
  }, limitMs);
  return () => clearInterval(timer);
}

async function listen(server: ReturnType<typeof createServer>, address: string, port: number): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: address, port }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE') {
      throw new UserError({
        code: 'PORT_IN_USE',
        message: `another program listens on ${address} port ${port}`,
        remedy: `ss -ltnp 'sport = :${port}' names it; or give this node another port in the configuration`,
        exitStatus: 7,
        cause: error,
      });
    }
    if (code === 'EADDRNOTAVAIL') {
      throw new UserError({
        code: 'ADDRESS_NOT_HERE',
        message: `no interface of this machine has the address ${address}`,
        remedy: 'correct the address of this node in the configuration: `ip -brief address` lists the present ones',
        exitStatus: 7,
        cause: error,
      });
    }
    throw new BugError(`cannot listen on ${address} port ${port}: ${(error as Error).message}`, error);
  }
}

function report(logger: TransportLogger | undefined, error: HomeproxyError, about: object): void {
  if (error.kind === 'bug') logger?.error({ ...about, err: error }, 'a call failed by a bug');
  else logger?.warn({ ...about, code: error.code, reason: error.message }, 'a call was refused');
}
