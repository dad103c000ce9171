/*
 * A connection between two daemons that has proven who they are is turned into a line of its own, over which memory goes without
 * JavaScript (addon/src/line.cc). Both ends take the line's key from that connection (RFC 8446, 7.5: exporters), so nobody else can
 * have it: who may call, and whose certificate is revoked, is decided where it is for every call.
 */
import type { TLSSocket } from 'node:tls';
import { LINE_SECRET_BYTES, Line } from '../../addon/lib/index.js';
import { BugError, UserError } from '../errors.js';
import { requestError } from './wire.js';

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
export function isLineError(error: unknown): boolean {
  const { syscall } = error as { syscall?: unknown };
  return typeof syscall === 'string' && syscall.startsWith('SSL_');
}

function gone(): UserError {
  return new UserError({ code: 'CALLER_GONE', message: 'the other end of the line went away', exitStatus: 4 });
}
