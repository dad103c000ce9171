import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { ExternalError, UserError } from '../../cli/errors.js';
import { type Authority, issueCertificate, type Validity } from '../../cli/identity/ca.js';
import type { Credentials } from '../../cli/identity/credentials.js';
import { defineMethod, defineUpload, serve, serveUpload } from '../../cli/node/method.js';
import type { PeerContext } from '../../cli/node/peer-server.js';

/** Credentials of a node as they would come from its files. */
export async function credentialsOf(authority: Authority, name: string, validity: Validity = {}): Promise<Credentials> {
  const pair = await issueCertificate(authority, { name, addresses: ['127.0.0.1', '::1'], ...validity });
  const expires = new Date(new X509Certificate(pair.certificate).validTo);
  return { ca: authority.certificate, cert: pair.certificate, key: pair.key, expires, revoked: new Set() };
}

export const echo = defineMethod({
  name: 'echo',
  request: z.object({ text: z.string(), count: z.coerce.bigint() }),
  response: z.object({ text: z.string(), count: z.coerce.bigint(), peer: z.string() }),
});

export const refuse = defineMethod({
  name: 'refuse',
  request: z.object({ kind: z.enum(['user', 'external', 'bug', 'string']) }),
  response: z.object({}),
});

/** Answers when its caller is gone, or never. */
export const wait = defineMethod({ name: 'wait', request: z.object({}), response: z.object({}) });

/** Breaks its own description. */
export const broken = defineMethod({ name: 'broken', request: z.object({}), response: z.object({ size: z.int() }) });

export const image = defineUpload({ name: 'image', response: z.object({ bytes: z.int(), sum: z.int() }) });
export const fullDisk = defineUpload({ name: 'full-disk', response: z.object({}) });
export const slowReader = defineUpload({ name: 'slow-reader', response: z.object({ bytes: z.int() }) });

/** Resolves when the signal of a running `wait` aborts. */
export class Waiting {
  #started!: () => void;
  #ended!: (reason: unknown) => void;
  readonly started = new Promise<void>((resolve) => {
    this.#started = resolve;
  });
  readonly ended = new Promise<unknown>((resolve) => {
    this.#ended = resolve;
  });

  async run(signal: AbortSignal): Promise<never> {
    this.#started();
    return await new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        this.#ended(signal.reason);
        reject(signal.reason);
      });
    });
  }
}

export function throwKind(kind: 'user' | 'external' | 'bug' | 'string'): never {
  switch (kind) {
    case 'user':
      throw new UserError({ code: 'PROCESS_UNKNOWN', message: 'there is no process 4711', remedy: 'homeproxy ps' });
    case 'external':
      throw new ExternalError({ code: 'CRIU_FAILED', message: 'criu failed', command: 'criu dump', log: ['Error: x'] });
    case 'bug':
      throw new TypeError('undefined is not a function');
    case 'string':
      throw 'thrown text';
  }
}

export function peerHandlers(waiting = new Waiting()) {
  return {
    waiting,
    methods: [
      serve(echo, async (request, context: PeerContext) => ({ ...request, peer: context.peer })),
      serve(refuse, async (request): Promise<never> => throwKind(request.kind)),
      serve(wait, async (_request, context: PeerContext) => waiting.run(context.signal)),
      serve(broken, async () => ({ size: 'large' }) as unknown as { size: number }),
    ],
    uploads: [
      serveUpload(image, async (_id, body) => {
        let bytes = 0;
        let sum = 0;
        for await (const chunk of body as AsyncIterable<Buffer>) {
          bytes += chunk.length;
          for (const byte of chunk) sum = (sum + byte) % 65_521;
        }
        return { bytes, sum };
      }),
      serveUpload(fullDisk, async (): Promise<never> => {
        throw new UserError({ code: 'DISK_FULL', message: 'no space left', exitStatus: 3 });
      }),
      serveUpload(slowReader, async (_id, body) => {
        let bytes = 0;
        for await (const chunk of body as AsyncIterable<Buffer>) {
          bytes += chunk.length;
          await new Promise((resolve) => setTimeout(resolve, 1));
          if (bytes > 2 << 20) break;
        }
        return { bytes };
      }),
    ],
  };
}
