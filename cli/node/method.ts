import type { Readable } from 'node:stream';
import type { z } from 'zod';
import type { Line } from '../../addon/lib/index.js';

/** A request and its answer, described once and typed for both ends. */
export interface Method<Request extends z.ZodType = z.ZodType, Response extends z.ZodType = z.ZodType> {
  readonly name: string;
  /**
   * Who may call it over the control socket besides root, where `control.group` lets others reach that: everybody, or everybody
   * about their own processes, which the handler has to check. Default: nobody.
   */
  readonly users?: 'everybody' | 'owner';
  readonly request: Request;
  readonly response: Response;
}

/** A request whose answer is preceded by any number of events (progress). */
export interface EventMethod<
  Request extends z.ZodType = z.ZodType,
  Event extends z.ZodType = z.ZodType,
  Response extends z.ZodType = z.ZodType,
> extends Method<Request, Response> {
  readonly event: Event;
}

/** A body of any length, named by an id, and the answer to it. */
export interface Upload<Response extends z.ZodType = z.ZodType> {
  readonly name: string;
  readonly response: Response;
}

const NAME = /^[a-z][a-z0-9-]*$/;
/** What may stand in a path as the id of an upload. */
export const UPLOAD_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

/**
 * Describes a method. BigInt values travel as strings of digits: use `z.coerce.bigint()` for them.
 * @throws {TypeError} for a name that cannot stand in a path
 */
export function defineMethod<Request extends z.ZodType, Response extends z.ZodType>(
  method: Method<Request, Response>,
): Method<Request, Response> {
  checkName(method.name);
  return method;
}

/** Describes a method with events. @throws {TypeError} as {@link defineMethod} */
export function defineEventMethod<Request extends z.ZodType, Event extends z.ZodType, Response extends z.ZodType>(
  method: EventMethod<Request, Event, Response>,
): EventMethod<Request, Event, Response> {
  checkName(method.name);
  return method;
}

/** Describes an upload. @throws {TypeError} as {@link defineMethod} */
export function defineUpload<Response extends z.ZodType>(upload: Upload<Response>): Upload<Response> {
  checkName(upload.name);
  return upload;
}

/** What a handler returns; an empty answer may be any object. */
export type Answer<Response extends z.ZodType> =
  z.input<Response> extends Record<string, never> ? object : z.input<Response>;

/** What answers a method on a server; made by {@link serve}. */
export interface MethodHandler<Context> {
  readonly method: Method;
  readonly handle: (request: unknown, context: Context) => Promise<unknown>;
}

/** Joins a method and the function that answers it. */
export function serve<Request extends z.ZodType, Response extends z.ZodType, Context>(
  method: Method<Request, Response>,
  handle: (request: z.output<Request>, context: Context) => Promise<Answer<Response>>,
): MethodHandler<Context> {
  return { method, handle: (request, context) => handle(request as z.output<Request>, context) };
}

/** What answers a method with events; made by {@link serveEvents}. */
export interface EventMethodHandler<Context> {
  readonly method: EventMethod;
  readonly handle: (request: unknown, context: Context, emit: (event: unknown) => boolean) => Promise<unknown>;
}

/**
 * Joins a method with events and the function that answers it. `emit` never waits: events for a client that does not read
 * them are dropped, so that a stalled terminal cannot stall a migration, and it says false.
 */
export function serveEvents<Request extends z.ZodType, Event extends z.ZodType, Response extends z.ZodType, Context>(
  method: EventMethod<Request, Event, Response>,
  handle: (
    request: z.output<Request>,
    context: Context,
    emit: (event: z.input<Event>) => boolean,
  ) => Promise<Answer<Response>>,
): EventMethodHandler<Context> {
  return {
    method,
    handle: (request, context, emit) => handle(request as z.output<Request>, context, emit),
  };
}

/** What takes an upload; made by {@link serveUpload}. */
export interface UploadHandler<Context> {
  readonly upload: Upload;
  readonly handle: (id: string, body: Readable, context: Context) => Promise<unknown>;
}

/** Joins an upload and the function that reads its body. Answering before the end of the body refuses the rest of it. */
export function serveUpload<Response extends z.ZodType, Context>(
  upload: Upload<Response>,
  handle: (id: string, body: Readable, context: Context) => Promise<Answer<Response>>,
): UploadHandler<Context> {
  return { upload, handle };
}

/** What takes what comes over a line; made by {@link serveLine}. */
export interface LineHandler<Context> {
  readonly upload: Upload;
  readonly handle: (id: string, line: Line, context: Context) => Promise<unknown>;
}

/** Joins an upload and the function that takes it from a line. It must not end the line: the answer goes over it. */
export function serveLine<Response extends z.ZodType, Context>(
  upload: Upload<Response>,
  handle: (id: string, line: Line, context: Context) => Promise<Answer<Response>>,
): LineHandler<Context> {
  return { upload, handle };
}

function checkName(name: string): void {
  if (!NAME.test(name)) throw new TypeError(`"${name}" cannot be the name of a method`);
}
