import { X509Certificate } from 'node:crypto';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { PeerCertificate, TLSSocket } from 'node:tls';
import type { z } from 'zod';
import type { Line } from '../../addon/lib/index.js';
import { BugError, HomeproxyError, UserError } from '../errors.js';
import type { Credentials } from '../identity/credentials.js';
import { nodeNameOf } from '../identity/node-name.js';
import { serialOf } from '../identity/serial.js';
import type { Method, Upload } from './method.js';
import { ping } from './peer-server.js';
import { LINE_PROTOCOL, type Spoken, talkOver } from './private-line.js';
import { decodeAnswer, encode, incompatible, MAX_JSON_BYTES, PROTOCOL } from './wire.js';

export interface PeerClientOptions {
  readonly credentials: Credentials;
  readonly node: { readonly name: string; readonly address: string; readonly port: number };
  /** For the connection and its handshake. Default 3000 ms. */
  readonly connectMs?: number;
  /** Connections at the same time; further calls wait. Default 8. */
  readonly maxSockets?: number;
}

export interface CallOptions {
  /** For the whole call. Default 10 000 ms. */
  readonly timeoutMs?: number;
  /** Its abort ends the call, which throws the signal's reason; the handler's own signal aborts as well. */
  readonly signal?: AbortSignal;
}

const CODE_WRONG_NODE = 'HOMEPROXY_WRONG_NODE';

/** Calls one other node. Connections are kept and TLS sessions reused; `close()` ends them. */
export class PeerClient {
  readonly name: string;
  #agent: Agent;
  #options: PeerClientOptions;
  readonly #connectMs: number;
  /** They are no connections of the agent any more. */
  readonly #lines = new Set<TLSSocket>();

  constructor(options: PeerClientOptions) {
    this.name = options.node.name;
    this.#options = options;
    this.#connectMs = options.connectMs ?? 3000;
    this.#agent = this.#makeAgent();
  }

  /** Uses other credentials for all further calls; those that are running go on. */
  renew(credentials: Credentials): void {
    const before = this.#agent;
    this.#options = { ...this.#options, credentials };
    this.#agent = this.#makeAgent(); // with no session to resume: every handshake looks at the certificates again
    (before as Agent & { keepAlive: boolean }).keepAlive = false; // a connection in use ends with its call
    for (const sockets of Object.values(before.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
  }

  #makeAgent(): Agent {
    const { credentials, maxSockets } = this.#options;
    return new Agent({
      keepAlive: true,
      maxSockets: maxSockets ?? 8,
      scheduling: 'lifo', // the last used connection is the surest to be alive
      keepAliveMsecs: 5000,
      ca: credentials.ca,
      cert: credentials.cert,
      key: credentials.key,
      minVersion: 'TLSv1.3',
      servername: this.name,
      checkServerIdentity: (_host: string, certificate: PeerCertificate) => this.#checkServer(certificate),
    });
  }

  /**
   * Opens a connection and finishes its handshake, so that the next call need not.
   * @throws {UserError} as {@link call}
   */
  async warm(options: CallOptions = {}): Promise<void> {
    await this.call(ping, {}, { timeoutMs: this.#connectMs, ...options });
  }

  /**
   * Calls a method of the node. When the answer is lost (`HOST_UNREACHABLE`), the node may have done what was asked.
   * @throws {UserError} exit 4: `HOST_UNREACHABLE`, `HOST_NOT_TRUSTED`, `INCOMPATIBLE`
   * @throws {HomeproxyError} what the handler threw there, of the same kind
   */
  async call<Request extends z.ZodType, Response extends z.ZodType>(
    method: Method<Request, Response>,
    request: z.input<Request>,
    options: CallOptions = {},
  ): Promise<z.output<Response>> {
    const body = encode(request);
    const path = `/${PROTOCOL}/${method.name}`;
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    return await this.#exchange('POST', path, headers, method, options, async (outgoing) => {
      outgoing.end(body);
    });
  }

  /**
   * Sends a body of any length, no faster than the node takes it.
   * @param id at most 128 letters, digits, `_`, `-` and `.`
   * @throws as {@link call}, and what reading `source` throws
   */
  async stream<Response extends z.ZodType>(
    upload: Upload<Response>,
    id: string,
    source: Readable | AsyncIterable<Uint8Array>,
    options: CallOptions = {},
  ): Promise<z.output<Response>> {
    const path = `/${PROTOCOL}/${upload.name}/${encodeURIComponent(id)}`;
    const readable = source instanceof Readable ? source : Readable.from(source, { objectMode: false });
    const headers = { 'content-type': 'application/octet-stream' };
    try {
      return await this.#exchange('PUT', path, headers, upload, options, (outgoing) => pipeline(readable, outgoing));
    } finally {
      readable.destroy();
    }
  }

  /**
   * Sends what JavaScript need not see: over a connection of its own, which is turned into a line.
   * @param feed sends it; the answer may cut it short, which is no failure of the line
   * @throws as {@link call}, and what `feed` throws
   */
  async line<Response extends z.ZodType>(
    upload: Upload<Response>,
    id: string,
    feed: (line: Line) => Promise<void>,
    options: CallOptions = {},
  ): Promise<z.output<Response>> {
    const path = `/${PROTOCOL}/${upload.name}/${encodeURIComponent(id)}`;
    const headers = { connection: 'Upgrade', upgrade: LINE_PROTOCOL };
    const talk = (outgoing: ClientRequest, over: AbortSignal): Promise<Spoken> =>
      talkOver(outgoing, { path, over, feed, who: this.#who(), open: this.#lines });
    return await this.#talk('PUT', path, headers, upload, options, talk);
  }

  /** Ends every connection; calls in progress fail. */
  close(): void {
    this.#agent.destroy();
    for (const socket of this.#lines) socket.destroy();
  }

  async #exchange<Response extends z.ZodType>(
    verb: string,
    path: string,
    headers: Record<string, string | number>,
    method: { name: string; response: Response },
    options: CallOptions,
    send: (outgoing: ClientRequest) => Promise<void>,
  ): Promise<z.output<Response>> {
    return await this.#talk(verb, path, headers, method, options, (outgoing) => exchange(outgoing, send, this.#who()));
  }

  async #talk<Response extends z.ZodType>(
    verb: string,
    path: string,
    headers: Record<string, string | number>,
    method: { name: string; response: Response },
    options: CallOptions,
    talk: (outgoing: ClientRequest, over: AbortSignal) => Promise<Spoken>,
  ): Promise<z.output<Response>> {
    options.signal?.throwIfAborted();
    const timeoutMs = options.timeoutMs ?? 10_000;
    const { address, port } = this.#options.node;
    const outgoing = httpsRequest({ agent: this.#agent, host: address, port, method: verb, path, headers });
    const over = new AbortController();
    const end = (reason: Error): void => {
      over.abort(reason);
      outgoing.destroy(reason);
    };
    const timer = setTimeout(() => end(this.#silent(method.name, timeoutMs)), timeoutMs);
    const onAbort = (): void => end(asError(options.signal?.reason));
    options.signal?.addEventListener('abort', onAbort, { once: true });
    let connected = false;
    this.#limitConnect(outgoing, () => {
      connected = true;
    });
    try {
      const { status, text } = await talk(outgoing, over.signal);
      return decodeAnswer(method, status, text, this.#who());
    } catch (error) {
      if (options.signal?.aborted) throw options.signal.reason;
      if (error instanceof HomeproxyError) throw error;
      throw await this.#translate(error, connected, method.name, outgoing.reusedSocket);
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
      if (!outgoing.destroyed && !outgoing.writableFinished) outgoing.destroy();
    }
  }

  #limitConnect(outgoing: ClientRequest, onConnected: () => void): void {
    outgoing.once('socket', (socket) => {
      // Node 20's agent keeps its own `noDelay` from a TLS socket: a request's last segment then waits for the other end's
      // delayed acknowledgement, 40 ms of a freeze.
      socket.setNoDelay(true);
      if (!socket.connecting && (socket as TLSSocket).getProtocol?.() === 'TLSv1.3') {
        onConnected();
        return;
      }
      const timer = setTimeout(() => {
        outgoing.destroy(this.#unreachable(`it did not answer within ${this.#connectMs} ms`));
      }, this.#connectMs);
      socket.once('secureConnect', () => {
        clearTimeout(timer);
        onConnected();
      });
      socket.once('close', () => clearTimeout(timer));
    });
  }

  /**
   * In TLS 1.3 a client is "connected" before the server has looked at its certificate: a refusal is a reset just like the
   * death of the daemon. A second, empty call on a fresh connection tells them apart.
   */
  async #translate(error: unknown, connected: boolean, method: string, reused: boolean): Promise<HomeproxyError> {
    const direct = this.#classify(error, connected);
    if (direct !== undefined) return direct;
    const lost = this.#unreachable(`the connection was lost during "${method}" (${codeOf(error)})`, error);
    if (method === ping.name && !reused) return this.#distrusted(error);
    const probe = new PeerClient({ ...this.#options, maxSockets: 1 });
    try {
      await probe.warm();
      return lost;
    } catch (again) {
      return again instanceof UserError ? again : lost;
    } finally {
      probe.close();
    }
  }

  /** The error that speaks for itself, or undefined for a reset after the handshake. */
  #classify(error: unknown, connected: boolean): HomeproxyError | undefined {
    const code = codeOf(error);
    if (code === CODE_WRONG_NODE) return this.#untrusted((error as Error).message, error);
    if (/^(ERR_SSL_|EPROTO)/.test(code)) {
      if (/ALERT/.test(code) || /alert/.test((error as Error).message)) return this.#distrusted(error);
      return this.#untrusted('what listens there does not speak TLS 1.3: it is not a homeproxy daemon', error);
    }
    const reason = CERTIFICATE_REASONS[code];
    if (reason !== undefined) return this.#untrusted(`its certificate ${reason}`, error);
    if (connected && /^(ECONNRESET|EPIPE|ECONNABORTED|ERR_STREAM_PREMATURE_CLOSE)$/.test(code)) return undefined;
    const silence = UNREACHABLE_REASONS[code];
    if (silence !== undefined) return this.#unreachable(silence, error);
    if (/CERT|SIGNATURE|ISSUER|PURPOSE|CRL/.test(code))
      return this.#untrusted(`its certificate is refused: ${code}`, error);
    return new BugError(`calling ${this.#who()} failed: ${(error as Error).message}`, error);
  }

  #checkServer(certificate: PeerCertificate): Error | undefined {
    const presented = new X509Certificate(certificate.raw);
    const name = nodeNameOf(presented);
    const revoked = this.#options.credentials.revoked.has(serialOf(presented.serialNumber));
    if (name === this.name && !revoked) return undefined;
    const wrong = `its certificate is that of ${name === undefined ? 'no node' : `"${name}"`}`;
    const message = revoked ? 'its certificate was revoked' : wrong;
    return Object.assign(new Error(message), { code: CODE_WRONG_NODE });
  }

  #who(): string {
    const { name, address, port } = this.#options.node;
    return `${name} (${isIP(address) === 6 ? `[${address}]` : address}:${port})`;
  }

  #silent(method: string, timeoutMs: number): UserError {
    return this.#unreachable(`no answer to "${method}" within ${timeoutMs} ms`);
  }

  #unreachable(reason: string, cause?: unknown): UserError {
    return new UserError({
      code: 'HOST_UNREACHABLE',
      message: `cannot reach ${this.#who()}: ${reason}`,
      remedy: `start the daemon there (homeproxy up), and see that no firewall is between: TCP port ${this.#options.node.port}`,
      exitStatus: 4,
      cause,
    });
  }

  #untrusted(reason: string, cause: unknown): UserError {
    return new UserError({
      code: 'HOST_NOT_TRUSTED',
      message: `${this.#who()} is not trusted: ${reason}`,
      remedy: `give it a certificate of our authority: homeproxy ca issue ${this.name} --address ${this.#options.node.address}`,
      exitStatus: 4,
      cause,
    });
  }

  #distrusted(cause: unknown): UserError {
    return new UserError({
      code: 'HOST_NOT_TRUSTED',
      message: `${this.#who()} does not trust the certificate of this node: it ended the connection after the handshake`,
      remedy: 'both nodes need certificates of the same authority that have not expired; its daemon logs the reason',
      exitStatus: 4,
      cause,
    });
  }
}

const CERTIFICATE_REASONS: Record<string, string | undefined> = {
  CERT_HAS_EXPIRED: 'has expired',
  CERT_NOT_YET_VALID: 'is not valid yet (are the clocks right?)',
  SELF_SIGNED_CERT_IN_CHAIN: 'was signed by an authority that this node does not know',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'is signed by itself',
  UNABLE_TO_GET_ISSUER_CERT: 'was signed by an authority that this node does not know',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'was signed by an authority that this node does not know',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'was signed by an authority that this node does not know',
  CERT_SIGNATURE_FAILURE: 'was signed by another authority of the same name',
};

const UNREACHABLE_REASONS: Record<string, string | undefined> = {
  ECONNREFUSED: 'nothing listens there',
  EHOSTUNREACH: 'there is no such machine on the network',
  ENETUNREACH: 'this machine has no route to it',
  ENETDOWN: 'the network interface is down',
  EACCES: 'a local firewall forbids it',
  EPERM: 'a local firewall forbids it',
  EADDRNOTAVAIL: 'this machine has no address or free port to call from',
  ETIMEDOUT: 'it does not answer',
  ECONNRESET: 'it ended the connection before the handshake',
  EPIPE: 'it ended the connection before the handshake',
};

/** Sends, and returns the answer, also when it comes (and the sending fails) before everything was sent. */
async function exchange(
  outgoing: ClientRequest,
  send: (outgoing: ClientRequest) => Promise<void>,
  who: string,
): Promise<Spoken> {
  const answer = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.on('error', reject);
    outgoing.once('close', () => reject(Object.assign(new Error('closed early'), { code: 'ECONNRESET' })));
  });
  const sent = send(outgoing);
  let failed: unknown;
  sent.catch((error: unknown) => {
    failed = error;
    // A source that cannot be read must end the request; a connection that failed has ended it already.
    if (!outgoing.destroyed) outgoing.destroy(asError(error));
  });
  let response: IncomingMessage;
  try {
    response = await answer;
  } catch (error) {
    throw failed !== undefined && !isConnectionError(failed) ? failed : error;
  }
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > MAX_JSON_BYTES) throw incompatible(who, `more than ${MAX_JSON_BYTES} bytes`);
    chunks.push(chunk);
  }
  return { status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() };
}

function isConnectionError(error: unknown): boolean {
  return /^(ECONNRESET|EPIPE|ECONNABORTED|ERR_STREAM_PREMATURE_CLOSE|ERR_STREAM_DESTROYED)$/.test(codeOf(error));
}

function codeOf(error: unknown): string {
  const code: unknown = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : '';
}

function asError(value: unknown): Error {
  return value instanceof Error ? value : new Error(String(value));
}
