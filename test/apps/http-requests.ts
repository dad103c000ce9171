import { createHash } from 'node:crypto';

/** What a client asks for, and how it knows the answer. */
export interface Errand {
  readonly path: string;
  /** A GET: of the body, in hexadecimal. */
  readonly sha256?: string;
  /** A POST of so many random bytes: the answer is their SHA-256, in hexadecimal. */
  readonly upload?: number;
}

export interface HttpLoadOptions {
  readonly host: string;
  readonly port: number;
  /** Persistent connections. */
  readonly connections: number;
  /** Requests under way at once on each connection. */
  readonly inFlight: number;
  /** Time between a reply and the next request. */
  readonly paceMs: number;
  /** Each connection does them in turn, again and again. */
  readonly errands: readonly Errand[];
}

export interface HttpLoadResult {
  readonly connections: number;
  readonly replies: number;
  readonly bytes: number;
  /** Longest time between a request and the last byte of its reply. */
  readonly longestMs: number;
  /** In words, each kind once; empty when every reply was the right one and no connection ended. */
  readonly faults: readonly string[];
}

export const HTTP_CLIENT = 'test/apps/http-load-main.js';

/** A GET of what has that content. */
export function getErrand(path: string, content: Buffer): Errand {
  return { path, sha256: createHash('sha256').update(content).digest('hex') };
}

/** What our own servers answer to `/bytes/<n>`: the path and a line feed, again and again. */
export function bytesErrand(bytes: number): Errand {
  const path = `/bytes/${bytes}`;
  return getErrand(path, Buffer.alloc(bytes, `${path}\n`));
}

/** What our own servers answer with the hash of what they got. */
export function uploadErrand(bytes: number): Errand {
  return { path: '/upload', upload: bytes };
}
