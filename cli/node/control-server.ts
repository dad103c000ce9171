import { chmod, chown, link, lstat, mkdir, rename, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { asHomeproxyError, BugError, UserError } from '../errors.js';
import { type Caller, callerOf, requirePermission } from './local-access.js';
import type { EventMethodHandler, MethodHandler } from './method.js';
import type { TransportLogger } from './peer-server.js';
import {
  answerError,
  answerJson,
  decodeRequest,
  encode,
  encodeAnswer,
  goneSignal,
  PROTOCOL,
  readBody,
  readFirstLine,
  unknownMethod,
} from './wire.js';

export interface ControlContext {
  readonly caller: Caller;
  /** Aborted when the client asks for it (Ctrl-C) or goes away. */
  readonly signal: AbortSignal;
  /** Told of the migration that is asked for, for the log. */
  readonly about: { migration?: string };
}

export interface ControlServerOptions {
  /** The socket; its folder is made, for root only, when it is missing. */
  readonly path: string;
  /** A group whose members may reach it too, for the methods that are open to them. */
  readonly group?: number;
  readonly methods?: readonly MethodHandler<ControlContext>[];
  readonly eventMethods?: readonly EventMethodHandler<ControlContext>[];
  readonly logger?: TransportLogger;
}

export interface ControlServer {
  /** Takes no more calls, lets the running ones end for `graceMs` (default 2000), cuts them off, removes the socket. */
  close(graceMs?: number): Promise<void>;
}

/** `sun_path` holds 108 bytes, the closing zero included. */
const MAX_PATH_BYTES = 107;
const BODY_TIMEOUT_MS = 10_000;
/** Events beyond what the client has not read yet are dropped. */
const MAX_UNREAD_BYTES = 1 << 20;

/**
 * Answers the commands on this machine: HTTP over a unix socket that only its owner (root) can open, and a group if one is named.
 * @throws {UserError} `DAEMON_RUNNING` when another daemon answers there, `SOCKET_PATH_TOO_LONG`, `RUN_FOLDER_UNSAFE`
 */
export async function createControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const { path, logger } = options;
  checkLength(path);
  await privateFolder(dirname(path), options.group);
  await removeStale(path);
  const methods = new Map((options.methods ?? []).map((handler) => [handler.method.name, handler]));
  const eventMethods = new Map((options.eventMethods ?? []).map((handler) => [handler.method.name, handler]));
  const server = createServer({ requestTimeout: 0, keepAliveTimeout: 1000 });
  server.on('clientError', (_error, socket) => socket.destroy());
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    response.on('error', () => undefined);
    const about: ControlContext['about'] = {};
    answer(request, response, about).catch((thrown: unknown) => {
      const error = answerError(request, response, thrown);
      if (error.kind === 'bug')
        logger?.error({ ...about, request: request.url, err: error }, 'a command failed by a bug');
    });
  });

  async function answer(
    request: IncomingMessage,
    response: ServerResponse,
    about: ControlContext['about'],
  ): Promise<void> {
    const [, protocol, name = '', ...rest] = (request.url ?? '').split('/');
    if (protocol !== PROTOCOL || rest.length > 0 || request.method !== 'POST') throw unknownMethod(request.url ?? '');
    const gone = goneSignal(response, 'the client');
    const caller = callerOf(request.socket);
    const eventMethod = eventMethods.get(name);
    if (eventMethod !== undefined) {
      requirePermission(caller, eventMethod.method);
      await answerWithEvents(eventMethod, request, response, { caller, gone, about }, logger);
      return;
    }
    const handler = methods.get(name);
    if (handler === undefined) throw unknownMethod(name);
    requirePermission(caller, handler.method);
    const asked = decodeRequest(handler.method, await readBody(request, BODY_TIMEOUT_MS));
    const result = await handler.handle(asked, { caller, signal: gone.signal, about });
    answerJson(response, 200, encodeAnswer(handler.method.response, name, result));
  }

  await listen(server, path, options.group);
  return {
    close: async (graceMs = 2000) => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const timer = setTimeout(() => server.closeAllConnections(), graceMs);
      await closed;
      clearTimeout(timer);
    },
  };
}

/**
 * The request is the first line of the body, which stays open: a second line asks to abort, and the answer is still sent,
 * so that an interrupted command learns how its rollback ended.
 */
async function answerWithEvents(
  handler: EventMethodHandler<ControlContext>,
  request: IncomingMessage,
  response: ServerResponse,
  { caller, gone, about }: Omit<ControlContext, 'signal'> & { readonly gone: AbortController },
  logger: TransportLogger | undefined,
): Promise<void> {
  const asked = decodeRequest(
    handler.method,
    await readFirstLine(request, BODY_TIMEOUT_MS, () => {
      gone.abort(new UserError({ code: 'INTERRUPTED', message: 'interrupted', exitStatus: 130 }));
    }),
  );
  response.writeHead(200, { 'content-type': 'application/x-ndjson', connection: 'close' });
  response.flushHeaders();
  let dropped = 0;
  const emit = (event: unknown): boolean => {
    if (response.destroyed || response.writableEnded) return false;
    if (response.writableLength > MAX_UNREAD_BYTES) {
      dropped += 1;
      return false;
    }
    response.write(`${encode({ event })}\n`);
    return true;
  };
  let last: string;
  try {
    const result = await handler.handle(asked, { caller, signal: gone.signal, about }, emit);
    last = `{"result":${encodeAnswer(handler.method.response, handler.method.name, result)}}`;
  } catch (thrown) {
    last = errorLine(thrown, { ...about, request: handler.method.name }, logger);
  }
  if (dropped > 0) logger?.warn({ ...about, dropped, method: handler.method.name }, 'a client did not read its events');
  response.end(`${last}\n`);
}

function errorLine(thrown: unknown, about: object, logger: TransportLogger | undefined): string {
  const error = asHomeproxyError(thrown);
  if (error.kind === 'bug') logger?.error({ ...about, err: error }, 'a command failed by a bug');
  return encode({ error: error.toDocument() });
}

function checkLength(path: string): void {
  if (Buffer.byteLength(path) <= MAX_PATH_BYTES) return;
  throw new UserError({
    code: 'SOCKET_PATH_TOO_LONG',
    message: `the path of the control socket has ${Buffer.byteLength(path)} bytes, more than ${MAX_PATH_BYTES}: ${path}`,
    remedy: 'choose a shorter `paths.run` in the configuration',
    exitStatus: 2,
  });
}

/** @param group may pass through it, and list nothing. */
async function privateFolder(folder: string, group: number | undefined): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const stat = await lstat(folder);
  if (!stat.isDirectory() || stat.uid !== process.getuid?.()) {
    throw new UserError({
      code: 'RUN_FOLDER_UNSAFE',
      message: `${folder} ${stat.isDirectory() ? 'belongs to another user' : 'is not a folder'}`,
      remedy: 'remove it, or choose another `paths.run` in the configuration',
      exitStatus: 7,
    });
  }
  const mode = group === undefined ? 0o700 : 0o710;
  if (group !== undefined && stat.gid !== group) {
    await chmod(folder, 0o700); // never open to the group before
    await chown(folder, stat.uid, group);
  }
  if ((stat.mode & 0o777) !== mode) await chmod(folder, mode);
}

/**
 * Removes a socket that nobody listens on. It is moved aside before it is judged: were it judged in its place, a second
 * daemon could begin to listen between the judgement and the removal.
 */
async function removeStale(path: string): Promise<void> {
  const aside = `${path}.${process.pid}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  const alive = await somebodyListens(aside);
  if (alive) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
  if (!alive) return;
  throw new UserError({
    code: 'DAEMON_RUNNING',
    message: `a homeproxy daemon is running already: it answers on ${path}`,
    remedy: 'homeproxy status shows it, homeproxy down ends it',
    exitStatus: 2,
  });
}

async function somebodyListens(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'EAGAIN')); // EAGAIN: its queue is full
  });
}

async function listen(server: Server, path: string, group: number | undefined): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') {
        reject(new BugError(`cannot listen on ${path}: ${error.message}`, error));
        return;
      }
      reject(new UserError({ code: 'DAEMON_RUNNING', message: `another daemon just took ${path}`, exitStatus: 2 }));
    });
    const umask = process.umask(0o177); // bind() happens within listen(): the socket is never open to others
    try {
      server.listen(path, () => resolve());
    } finally {
      process.umask(umask);
    }
  });
  if (group === undefined) return;
  await chown(path, process.getuid?.() ?? 0, group);
  await chmod(path, 0o660);
}
