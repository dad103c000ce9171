/*
 * A connection between two daemons that has proven who they are is turned into a line of its own, over which memory goes without
 * JavaScript (addon/src/line.cc). Both ends take the line's key from that connection (RFC 8446, 7.5: exporters), so nobody else can
 * have it: who may call, and whose certificate is revoked, is decided where it is for every call.
 */
import type { ClientRequest } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { LINE_SECRET_BYTES, Line } from '../../addon/lib/index.js';
import { BugError, UserError } from '../errors.js';
import { incompatible, MAX_JSON_BYTES, requestError } from './wire.js';

/** What both ends call it when they turn a connection into one (RFC 9110, 7.8). */
export const LINE_PROTOCOL = 'homeproxy-line';
/** RFC 5705, 4: labels that are registered nowhere begin like this. */
const LABEL = 'EXPERIMENTAL homeproxy line';

/** Node has no public way to the descriptor of a connection, nor to stop reading from it now rather than after the next bytes. */
interface Handle {
  readonly fd: number;
  readStop(): number;
}

/**
 * Takes a connection out of Node's hands; until the line's end it stays open there, and nothing reads or writes it.
 * @param path what was asked for: it goes into the key. @param patienceMs as of {@link Line}
 */
export function lineOver(socket: TLSSocket, role: 'client' | 'server', path: string, patienceMs: number): Line {
  const handle = (socket as unknown as { readonly _handle?: Handle | null })._handle;
  if (handle === undefined || handle === null) throw gone();
  if (!(handle.fd >= 0) || handle.readStop() !== 0) throw new BugError('a connection has no descriptor');
  const secret = socket.exportKeyingMaterial(LINE_SECRET_BYTES, LABEL, Buffer.from(path));
  const line = new Line(handle.fd, secret, role, patienceMs);
  secret.fill(0);
  socket.once('close', () => line.cut()); // revoked, or the daemon ends
  return line;
}

/** What happened to the line, as the serving end says it; other errors are as they are. */
export function lineProblem(error: unknown, patienceMs: number): unknown {
  const { code, syscall } = error as { code?: unknown; syscall?: unknown };
  if (!(typeof syscall === 'string' && syscall.startsWith('SSL_'))) return error;
  if (code === 'ETIMEDOUT')
    return requestError('REQUEST_TIMEOUT', `the upload paused for more than ${patienceMs} ms`, 4);
  return gone();
}

/** Whether the line itself failed, or was cut off by the other end. */
function isLineError(error: unknown): boolean {
  const { syscall } = error as { syscall?: unknown };
  return typeof syscall === 'string' && syscall.startsWith('SSL_');
}

function isSilence(error: unknown): boolean {
  return (error as { code?: unknown }).code === 'ETIMEDOUT';
}

function gone(): UserError {
  return new UserError({ code: 'CALLER_GONE', message: 'the other end of the line went away', exitStatus: 4 });
}

/** An answer, by the numbers of HTTP. */
export interface Spoken {
  readonly status: number;
  readonly text: string;
}

/** What the calling end of a line needs. */
export interface Talk {
  readonly path: string;
  /** Its abort cuts the line. */
  readonly over: AbortSignal;
  readonly feed: (line: Line) => Promise<void>;
  /** Who is called, for people. */
  readonly who: string;
  /** Has the connection as long as it is a line: to destroy it cuts that. */
  readonly open: Set<TLSSocket>;
}

/**
 * Turns the request's connection into a line, lets it be fed, and reads the answer.
 * @throws {UserError} `INCOMPATIBLE`: the other end knows no lines. @throws what `feed` throws, and as a request does
 */
export async function talkOver(outgoing: ClientRequest, { path, over, feed, who, open }: Talk): Promise<Spoken> {
  const socket = await new Promise<TLSSocket>((resolve, reject) => {
    outgoing.once('upgrade', (_response, turned) => resolve(turned as TLSSocket));
    outgoing.once('response', () => {
      reject(incompatible(who, 'it knows no lines'));
      outgoing.destroy(); // nobody reads that answer: its connection would wait for that
    });
    outgoing.on('error', reject);
    outgoing.once('close', () => reject(Object.assign(new Error('closed early'), { code: 'ECONNRESET' })));
    outgoing.end();
  });
  const cut = (): void => void socket.destroy();
  socket.on('error', () => undefined); // the line itself says what it is
  open.add(socket);
  try {
    const line = lineOver(socket, 'client', path, -1);
    over.addEventListener('abort', cut, { once: true });
    over.throwIfAborted();
    await line.handshake();
    const failed = await feed(line)
      .then(() => line.finish())
      .catch((error: unknown) => error);
    if (failed !== undefined && (!isLineError(failed) || isSilence(failed))) throw failed; // no answer comes
    const answer = await line.readAll(MAX_JSON_BYTES).catch((error: unknown) => {
      throw failed ?? error;
    });
    return { status: Number(answer.subarray(0, 3)), text: answer.subarray(4).toString() };
  } catch (error) {
    if (over.aborted) throw over.reason;
    if (isLineError(error))
      throw Object.assign(new Error('the line was lost', { cause: error }), { code: 'ECONNRESET' });
    throw error;
  } finally {
    over.removeEventListener('abort', cut);
    open.delete(socket);
    socket.destroy();
  }
}
