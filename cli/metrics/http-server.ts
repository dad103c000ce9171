import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerOptions, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { MetricsPage, PageLogger } from './page.js';

export interface MetricsServerOptions {
  readonly page: Pick<MetricsPage, 'render' | 'contentType'>;
  readonly address: string;
  /** 0 takes any free port. */
  readonly port: number;
  /** PEM. */
  readonly tls?: { readonly certificate: string; readonly key: string };
  readonly basicAuth?: { readonly user: string; readonly password: string };
  readonly logger?: PageLogger;
  /** For a handshake and for a whole request, in milliseconds. Default 5000. */
  readonly receiveTimeoutMs?: number;
}

export interface MetricsServer {
  readonly port: number;
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 32;
/** A Prometheus that asks once a minute keeps its connection. */
const IDLE_MS = 75_000;
const MAX_HEADER_BYTES = 8192;

/**
 * Answers GET and HEAD of /metrics, and of /healthz, and nothing else. Only /metrics asks for a name and a password.
 * @throws {NodeJS.ErrnoException} what the kernel said about the address and the port, or OpenSSL about the certificate.
 */
export async function createMetricsServer(options: MetricsServerOptions): Promise<MetricsServer> {
  const receiveTimeoutMs = options.receiveTimeoutMs ?? 5000;
  const limits: ServerOptions = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: receiveTimeoutMs,
    requestTimeout: receiveTimeoutMs,
    connectionsCheckingInterval: Math.min(1000, receiveTimeoutMs),
    keepAliveTimeout: IDLE_MS,
  };
  const { tls } = options;
  const server: Server =
    tls === undefined
      ? createServer(limits)
      : createTlsServer({
          ...limits,
          cert: tls.certificate,
          key: tls.key,
          minVersion: 'TLSv1.2',
          handshakeTimeout: receiveTimeoutMs,
        });
  server.maxConnections = MAX_CONNECTIONS;
  server.on('tlsClientError', (_error, socket: { destroy(): void }) => socket.destroy());
  server.on('clientError', (_error, socket) => socket.destroy());
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    response.on('error', () => undefined);
    answer(options, request, response).catch((error: unknown) => {
      options.logger?.error({ err: error }, 'serving metrics failed');
      if (response.headersSent) response.destroy();
      else say(response, 500, 'the page cannot be made; the log of the daemon says why\n');
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: options.address, port: options.port }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  server.on('error', (error) => options.logger?.error({ err: error }, 'the server of metrics failed'));
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

async function answer(
  { page, basicAuth }: MetricsServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const [path] = (request.url ?? '').split('?');
  const hasBody =
    request.headers['transfer-encoding'] !== undefined || (request.headers['content-length'] ?? '0') !== '0';
  if (hasBody) response.setHeader('connection', 'close'); // nobody reads it
  if (path !== '/metrics' && path !== '/healthz') return say(response, 404, 'there are /metrics and /healthz\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return say(response, 405, 'only GET and HEAD\n');
  }
  if (hasBody) return say(response, 400, 'a request without a body, please\n');
  if (path === '/healthz') return say(response, 200, 'ok\n');
  if (basicAuth !== undefined && !isAllowed(basicAuth, request.headers.authorization)) {
    response.setHeader('www-authenticate', 'Basic realm="homeproxy metrics", charset="UTF-8"');
    return say(response, 401, 'name and password, please\n');
  }
  return say(response, 200, await page.render(), page.contentType);
}

function say(response: ServerResponse, status: number, text: string, type = 'text/plain; charset=utf-8'): void {
  response.statusCode = status;
  response.setHeader('content-type', type);
  response.setHeader('cache-control', 'no-store');
  response.setHeader('x-content-type-options', 'nosniff');
  response.setHeader('content-length', Buffer.byteLength(text));
  response.end(text); // Node.js leaves the body of an answer to HEAD out
}

/** In a time that does not depend on how much of it is right. */
function isAllowed({ user, password }: { user: string; password: string }, header = ''): boolean {
  const [, encoded = ''] = /^Basic ([A-Za-z0-9+/=]{1,1024})$/i.exec(header) ?? [];
  const given = Buffer.from(encoded, 'base64').toString();
  return timingSafeEqual(digest(given), digest(`${user}:${password}`));
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
