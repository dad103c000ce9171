import type { IncomingMessage, ServerResponse } from 'node:http';
import { z } from 'zod';
import {
  asHomeproxyError,
  BugError,
  type ErrorDocument,
  fromDocument,
  type HomeproxyError,
  UserError,
} from '../errors.js';
import type { Method } from './method.js';

/** The version that both ends must speak; it begins every path. */
export const PROTOCOL = 'v1';
export const MAX_JSON_BYTES = 1 << 20;

const errorAnswer = z.object({
  error: z.object({
    code: z.string(),
    kind: z.enum(['user', 'external', 'bug']),
    message: z.string(),
    remedy: z.string().optional(),
    exitStatus: z.int().min(1).max(255),
    command: z.string().optional(),
    log: z.array(z.string()).optional(),
  }),
});

/** JSON in one line; BigInt values become strings of digits. */
export function encode(value: unknown): string {
  return JSON.stringify(value ?? null, (_key, part: unknown) => (typeof part === 'bigint' ? part.toString() : part));
}

/** A refusal that has its own HTTP status. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly error: HomeproxyError,
  ) {
    super(error.message);
  }
}

/**
 * Reads a whole request body.
 * @throws {Refusal} 413 for more than `MAX_JSON_BYTES`, 408 when it has not ended after `timeoutMs`
 */
export async function readBody(request: IncomingMessage, timeoutMs: number): Promise<string> {
  const tooLarge = (): Refusal =>
    new Refusal(413, requestError('REQUEST_TOO_LARGE', `the request is larger than ${MAX_JSON_BYTES} bytes`));
  if (Number(request.headers['content-length'] ?? 0) > MAX_JSON_BYTES) throw tooLarge();
  return await new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const timer = setTimeout(() => {
      finish(new Refusal(408, requestError('REQUEST_TIMEOUT', `the request did not end within ${timeoutMs} ms`)));
    }, timeoutMs);
    const onData = (chunk: Buffer): void => {
      length += chunk.length;
      if (length > MAX_JSON_BYTES) finish(tooLarge());
      else chunks.push(chunk);
    };
    const onEnd = (): void => finish();
    const onClose = (): void => finish(new Refusal(400, requestError('REQUEST_ABORTED', 'the request was cut off')));
    function finish(problem?: Refusal): void {
      clearTimeout(timer);
      request.off('data', onData).off('end', onEnd).off('close', onClose);
      if (problem === undefined) resolve(Buffer.concat(chunks).toString());
      else reject(problem);
    }
    request.on('data', onData).on('end', onEnd).on('close', onClose).on('error', onClose);
  });
}

/**
 * Reads the first line of a body and leaves the rest open.
 * @param onSecondLine called once, when anything follows the first line
 * @throws {Refusal} as {@link readBody}
 */
export async function readFirstLine(
  request: IncomingMessage,
  timeoutMs: number,
  onSecondLine: () => void,
): Promise<string> {
  return await new Promise((resolve, reject) => {
    let text = '';
    let complete = false;
    const fail = (status: number, code: string, message: string): void => {
      complete = true;
      clearTimeout(timer);
      reject(new Refusal(status, requestError(code, message)));
    };
    const timer = setTimeout(() => {
      fail(408, 'REQUEST_TIMEOUT', `the request did not come within ${timeoutMs} ms`);
    }, timeoutMs);
    request.setEncoding('utf8');
    request.on('error', () => undefined); // 'close' follows
    request.on('end', () => {
      clearTimeout(timer);
      resolve(text);
    });
    request.on('close', () => fail(400, 'REQUEST_ABORTED', 'the request was cut off'));
    request.on('data', (part: string) => {
      if (complete) {
        onSecondLine();
        return;
      }
      text += part;
      const end = text.indexOf('\n');
      if (end < 0) {
        if (text.length > MAX_JSON_BYTES) fail(413, 'REQUEST_TOO_LARGE', `more than ${MAX_JSON_BYTES} bytes`);
        return;
      }
      complete = true;
      clearTimeout(timer);
      resolve(text.slice(0, end));
      if (end + 1 < text.length) onSecondLine();
    });
  });
}

/** @throws {Refusal} 400 when the text is no JSON or not what the method asks for */
export function decodeRequest(method: Method, text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refusal(400, requestError('REQUEST_INVALID', 'the request is not JSON'));
  }
  const checked = method.request.safeParse(value);
  if (checked.success) return checked.data;
  throw new Refusal(400, requestError('REQUEST_INVALID', `${method.name}: ${issuesText(checked.error)}`));
}

/** The answer of a handler as JSON. @throws {BugError} when the handler broke the method's own description */
export function encodeAnswer(schema: z.ZodType, name: string, answer: unknown): string {
  const text = encode(answer);
  const checked = schema.safeParse(JSON.parse(text));
  if (!checked.success)
    throw new BugError(`the answer to ${name} is not what it should be: ${issuesText(checked.error)}`);
  return text;
}

/**
 * Turns what came back into the method's response.
 * @throws {HomeproxyError} the error that the other end described, of the same kind
 * @throws {UserError} `INCOMPATIBLE` when the other end answers something else
 */
export function decodeAnswer<Response extends z.ZodType>(
  method: { name: string; response: Response },
  status: number,
  text: string,
  who: string,
): z.output<Response> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw incompatible(who, `status ${status} without JSON`);
  }
  if (status !== 200) throw decodeError(value) ?? incompatible(who, `status ${status}`);
  const checked = method.response.safeParse(value);
  if (checked.success) return checked.data;
  throw incompatible(who, `${method.name}: ${issuesText(checked.error)}`);
}

/** The error in an `{error}` answer, or undefined when it is not one. */
export function decodeError(value: unknown): HomeproxyError | undefined {
  const checked = errorAnswer.safeParse(value);
  return checked.success ? fromDocument(checked.data.error as ErrorDocument) : undefined;
}

export function incompatible(who: string, detail: string): UserError {
  return new UserError({
    code: 'INCOMPATIBLE',
    message: `${who} gave an answer that this version does not understand (${detail})`,
    remedy: 'run the same version of homeproxy on every node, and restart the daemons after an upgrade',
    exitStatus: 4,
  });
}

/** Answers with JSON and ends the response. */
export function answerJson(response: ServerResponse, status: number, text: string): void {
  if (response.destroyed || response.headersSent) return;
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

/**
 * Answers with an error document. When the request's body has not been read, the connection ends afterwards, but only
 * after the rest was thrown away for a moment: a reset would destroy the answer on its way.
 */
export function answerError(request: IncomingMessage, response: ServerResponse, thrown: unknown): HomeproxyError {
  const error = thrown instanceof Refusal ? thrown.error : asHomeproxyError(thrown);
  const status = thrown instanceof Refusal ? thrown.status : { user: 422, external: 502, bug: 500 }[error.kind];
  const text = encode({ error: error.toDocument() });
  if (request.readableEnded || request.destroyed || response.headersSent) {
    answerJson(response, status, text);
    return error;
  }
  // The answer is whole by its length, but ends only with the request: Node closes the socket at the end of a last answer.
  const headers = {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    connection: 'close',
  };
  response.writeHead(status, headers);
  response.write(text);
  const end = (): void => {
    clearTimeout(timer);
    response.end();
  };
  const timer = setTimeout(() => request.socket.destroy(), 2000);
  request.on('error', () => undefined);
  request.once('end', end);
  request.once('close', end);
  request.resume();
  return error;
}

/** A signal that aborts when the other end goes away before it got its answer. */
export function goneSignal(response: ServerResponse, who: string): AbortController {
  const controller = new AbortController();
  response.once('close', () => {
    if (response.writableFinished) return;
    controller.abort(new UserError({ code: 'CALLER_GONE', message: `${who} went away`, exitStatus: 4 }));
  });
  return controller;
}

export function requestError(code: string, message: string, exitStatus = 2): UserError {
  return new UserError({ code, message, exitStatus });
}

export function unknownMethod(path: string): Refusal {
  return new Refusal(
    404,
    new UserError({
      code: 'METHOD_UNKNOWN',
      message: `${path} is not known here`,
      remedy: 'run the same version of homeproxy on every node, and restart the daemons after an upgrade',
      exitStatus: 4,
    }),
  );
}

function issuesText(error: z.ZodError): string {
  return error.issues.map((issue) => `${issue.path.map(String).join('.') || 'value'}: ${issue.message}`).join('; ');
}
