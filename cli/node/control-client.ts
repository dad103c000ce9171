import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import type { z } from 'zod';
import { BugError, HomeproxyError, UserError } from '../errors.js';
import type { EventMethod, Method } from './method.js';
import { decodeAnswer, decodeError, encode, incompatible, PROTOCOL } from './wire.js';

const WHO = 'the daemon of this machine';

export interface ControlCallOptions {
  /** Default 30 000 ms. */
  readonly timeoutMs?: number;
  /** Its abort ends the call, which throws the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * Asks the daemon of this machine.
 * @throws {UserError} exit 7: `DAEMON_DOWN`, `DAEMON_LOST`, `DAEMON_SILENT`, `NOT_PERMITTED`; exit 4 `INCOMPATIBLE`
 * @throws {HomeproxyError} what the handler threw, of the same kind
 */
export async function callControl<Request extends z.ZodType, Response extends z.ZodType>(
  socketPath: string,
  method: Method<Request, Response>,
  request: z.input<Request>,
  options: ControlCallOptions = {},
): Promise<z.output<Response>> {
  options.signal?.throwIfAborted();
  const outgoing = post(socketPath, method.name);
  const timeoutMs = options.timeoutMs ?? 30_000;
  const timer = setTimeout(() => outgoing.destroy(silent(method.name, timeoutMs)), timeoutMs);
  const onAbort = (): void => {
    outgoing.destroy(new Error('aborted'));
  };
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    outgoing.end(encode(request));
    const response = await answerOf(outgoing);
    const text = await textOf(response);
    return decodeAnswer(method, response.statusCode ?? 0, text, WHO);
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw translate(error, socketPath, method.name);
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
    outgoing.destroy();
  }
}

/**
 * Asks the daemon for something long and hears of its progress. Aborting `signal` aborts the handler's signal, and the call
 * still returns (or throws) what the handler makes of it: an interrupted migration reports its rollback. What `onEvent` returns
 * is awaited before the next event is read: the daemon drops what a slow reader does not take.
 * @throws as {@link callControl}, without a time limit
 */
export async function streamControl<Request extends z.ZodType, Event extends z.ZodType, Response extends z.ZodType>(
  socketPath: string,
  method: EventMethod<Request, Event, Response>,
  request: z.input<Request>,
  onEvent: (event: z.output<Event>) => unknown,
  signal?: AbortSignal,
): Promise<z.output<Response>> {
  signal?.throwIfAborted();
  const outgoing = post(socketPath, method.name);
  const onAbort = (): void => {
    outgoing.end('{"abort":true}\n');
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    outgoing.write(`${encode(request)}\n`);
    const response = await answerOf(outgoing);
    if (response.statusCode !== 200) {
      return decodeAnswer(method, response.statusCode ?? 0, await textOf(response), WHO);
    }
    return await readEvents(response, method, onEvent);
  } catch (error) {
    throw translate(error, socketPath, method.name);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    outgoing.destroy();
  }
}

async function readEvents<Event extends z.ZodType, Response extends z.ZodType>(
  response: IncomingMessage,
  method: EventMethod<z.ZodType, Event, Response>,
  onEvent: (event: z.output<Event>) => unknown,
): Promise<z.output<Response>> {
  for await (const line of linesOf(response)) {
    const message = parseLine(line);
    if ('event' in message) {
      const event = method.event.safeParse(message.event);
      if (!event.success) throw incompatible(WHO, `an event of ${method.name}`);
      await onEvent(event.data);
    } else if ('result' in message) {
      return decodeAnswer(method, 200, encode(message.result), WHO);
    } else {
      throw decodeError(message) ?? incompatible(WHO, `a line of ${method.name}`);
    }
  }
  throw Object.assign(new Error('the answer has no end'), { code: 'ECONNRESET' });
}

async function* linesOf(response: IncomingMessage): AsyncGenerator<string> {
  response.setEncoding('utf8');
  let rest = '';
  for await (const part of response as AsyncIterable<string>) {
    const lines = (rest + part).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  if (rest !== '') yield rest;
}

function parseLine(line: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // falls through to the same error
  }
  throw incompatible(WHO, 'a line that is not JSON');
}

function post(socketPath: string, name: string): ClientRequest {
  return httpRequest({
    socketPath,
    method: 'POST',
    path: `/${PROTOCOL}/${name}`,
    headers: { 'content-type': 'application/json' },
    agent: false,
  });
}

async function answerOf(outgoing: ClientRequest): Promise<IncomingMessage> {
  return await new Promise((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.on('error', reject);
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function translate(error: unknown, socketPath: string, method: string): unknown {
  if (error instanceof HomeproxyError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
    case 'ECONNREFUSED':
    case 'ENOTDIR':
      return new UserError({
        code: 'DAEMON_DOWN',
        message: `no homeproxy daemon runs on this machine (nobody answers on ${socketPath})`,
        remedy: 'homeproxy up',
        exitStatus: 7,
        cause: error,
      });
    case 'EACCES':
    case 'EPERM':
      return new UserError({
        code: 'NOT_PERMITTED',
        message: `this user may not talk to the daemon (${socketPath})`,
        remedy: 'run the command with sudo, or become a member of the group that control.group names',
        exitStatus: 7,
        cause: error,
      });
    case 'ECONNRESET':
    case 'EPIPE':
    case 'ERR_STREAM_PREMATURE_CLOSE':
      return new UserError({
        code: 'DAEMON_LOST',
        message: `the daemon ended while it worked on "${method}"`,
        remedy: 'homeproxy up (it finishes or undoes what was in progress), then homeproxy ps',
        exitStatus: 7,
        cause: error,
      });
    default:
      if (code === undefined) return error;
      return new BugError(`asking the daemon failed: ${message}`, error);
  }
}

function silent(method: string, timeoutMs: number): UserError {
  return new UserError({
    code: 'DAEMON_SILENT',
    message: `the daemon did not answer "${method}" within ${timeoutMs} ms`,
    remedy: "look at the daemon's log; homeproxy down, then homeproxy up, restarts it without touching connections",
    exitStatus: 7,
  });
}
