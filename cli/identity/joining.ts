import { randomBytes, timingSafeEqual } from 'node:crypto';
import type { AddressInfo, Socket } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { z } from 'zod';
import { BugError, type HomeproxyError, UserError } from '../errors.js';
import { type Authority, createAuthority, type KeyPair, requestCertificate, signRequest } from './ca.js';
import { fingerprintOf, type Invitation, writeInvitation } from './invitation.js';

/*
 * One line of JSON each way, over TLS 1.3. The inviter's certificate is made for this one invitation, which names its fingerprint;
 * the guest proves itself by the secret. Its key never leaves it: it sends a request for a certificate (PKCS #10, RFC 2986).
 *
 *   guest   -> {"secret": "<64 hexadecimal digits>", "request": "-----BEGIN CERTIFICATE REQUEST-----..."}
 *   inviter -> {"ca": "<PEM>", "certificate": "<PEM>", "settings": "<YAML>"}   or   {"refused": "<why>"}
 */
const MAX_LINE_CHARACTERS = 1 << 18;
const ANSWER_MS = 10_000;

const application = z.object({ secret: z.string().max(64), request: z.string().max(8192) });
const admission = z.union([
  z.object({ ca: z.string(), certificate: z.string(), settings: z.string() }),
  z.object({ refused: z.string().max(1000) }),
]);

export interface Inviting {
  readonly authority: Authority;
  readonly node: string;
  /** Addresses for its certificate. */
  readonly addresses: readonly string[];
  /** Where this machine waits for it. */
  readonly listen: { readonly address: string; readonly port: number };
  /** Text of a first configuration for the guest. */
  readonly settings: string;
  readonly validMs: number;
  /** The certificate must be in the authority's register before anybody has it. */
  note(certificate: string): Promise<void>;
}

/** An invitation that waits for its guest. */
export interface OpenInvitation {
  /** The word for the guest. */
  readonly word: string;
  /**
   * The certificate that the guest went away with.
   * @throws {UserError} `INVITATION_EXPIRED`; what `signal` was aborted with
   */
  joined(signal: AbortSignal): Promise<string>;
}

/** Begins to wait for a guest. @throws {UserError} `PORT_IN_USE`, `ADDRESS_NOT_HERE` (exit 7) */
export async function invite(inviting: Inviting): Promise<OpenInvitation> {
  const shown = await createAuthority({ name: 'homeproxy invitation' });
  const secret = randomBytes(32);
  const server = createServer({
    cert: shown.certificate,
    key: shown.key,
    minVersion: 'TLSv1.3',
    handshakeTimeout: ANSWER_MS,
  });
  server.maxConnections = 16;
  let settle: (certificate: string) => void = () => undefined;
  let fail: (error: unknown) => void = () => undefined;
  const guest = new Promise<string>((resolve, reject) => {
    settle = resolve;
    fail = reject;
  });
  guest.catch(() => undefined);
  let taken = false;
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  server.on('secureConnection', (socket) => {
    socket.on('error', () => undefined);
    admit(socket).catch((error: unknown) => {
      if (!socket.destroyed) socket.end(`${JSON.stringify({ refused: refusalOf(error) })}\n`);
    });
  });

  async function admit(socket: TLSSocket): Promise<void> {
    const asked = application.parse(JSON.parse(await readLine(socket)));
    const given = Buffer.from(asked.secret, 'hex');
    if (given.length !== secret.length || !timingSafeEqual(given, secret))
      throw refusal('the invitation is another one');
    if (taken) throw refusal('somebody has used this invitation already');
    taken = true; // before anything is signed: it is good for one
    try {
      const { authority, node: name, addresses, settings } = inviting;
      const certificate = await signRequest(authority, asked.request, { name, addresses });
      await inviting.note(certificate);
      const answer = { ca: authority.certificate, certificate, settings };
      await new Promise<void>((resolve) => socket.end(`${JSON.stringify(answer)}\n`, () => resolve()));
      settle(certificate);
    } catch (error) {
      fail(error);
      throw error;
    }
  }

  await listen(server, inviting.listen);
  const { address } = inviting.listen;
  const { port } = server.address() as AddressInfo;
  const fingerprint = fingerprintOf(shown.certificate);
  const word = writeInvitation({ node: inviting.node, address, port, fingerprint, secret: secret.toString('hex') });
  return {
    word,
    joined: async (signal) => {
      const expiry = setTimeout(() => fail(expired(inviting.node)), inviting.validMs);
      const onAbort = (): void => fail(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      try {
        return await guest;
      } finally {
        clearTimeout(expiry);
        signal.removeEventListener('abort', onAbort);
        server.close();
      }
    },
  };
}

/** What a guest goes home with. */
export interface Membership {
  readonly ca: string;
  readonly pair: KeyPair;
  readonly settings: string;
}

/**
 * Accepts an invitation: makes a key, and has its certificate signed.
 * @throws {UserError} `INVITER_UNREACHABLE`, `INVITER_NOT_TRUSTED`, `INVITATION_REFUSED` (exit 4)
 */
export async function join(invitation: Invitation, connectMs = ANSWER_MS): Promise<Membership> {
  const { request, key } = await requestCertificate(invitation.node);
  const { address: host, port } = invitation;
  // The fingerprint takes the place of a chain and a name: this certificate is not signed by anybody.
  const socket = connect({ host, port, rejectUnauthorized: false, minVersion: 'TLSv1.3' });
  try {
    await connected(socket, invitation, connectMs);
    const shown = socket.getPeerX509Certificate();
    if (shown === undefined || fingerprintOf(shown) !== invitation.fingerprint) throw impostor(invitation);
    socket.write(`${JSON.stringify({ secret: invitation.secret, request })}\n`);
    const answer = admission.safeParse(parseLine(await readLine(socket)));
    if (!answer.success) throw new BugError('the inviter answered what this version does not understand', answer.error);
    if ('refused' in answer.data) throw refusal(answer.data.refused);
    const { ca, certificate, settings } = answer.data;
    return { ca, pair: { certificate, key }, settings };
  } finally {
    socket.destroy();
  }
}

async function connected(socket: TLSSocket, { address, port }: Invitation, limitMs: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const give = (reason: string, cause?: unknown): void => reject(unreachable(address, port, reason, cause));
    const timer = setTimeout(() => give(`no answer within ${limitMs} ms`), limitMs);
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      resolve();
    });
    socket.on('error', (error) => {
      clearTimeout(timer);
      give(error.message, error);
    });
  });
}

/** The first line of what comes. @throws {UserError} `INVITATION_REFUSED` when it does not come, or is too long */
async function readLine(socket: Socket): Promise<string> {
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => socket.destroy(), ANSWER_MS);
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end >= 0) {
        clearTimeout(timer);
        resolve(text.slice(0, end));
      } else if (text.length > MAX_LINE_CHARACTERS) socket.destroy();
    });
    const ended = (): void => {
      clearTimeout(timer);
      reject(refusal('the connection ended before a whole line had come'));
    };
    socket.once('end', ended);
    socket.once('close', ended);
  });
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

async function listen(server: ReturnType<typeof createServer>, at: Inviting['listen']): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(cannotListen(error, at)));
    server.listen({ host: at.address, port: at.port }, () => resolve());
  });
}

function cannotListen(error: NodeJS.ErrnoException, { address, port }: Inviting['listen']): HomeproxyError {
  const taken = error.code === 'EADDRINUSE';
  if (!taken && error.code !== 'EADDRNOTAVAIL') {
    return new BugError(`cannot listen on ${address} port ${port}: ${error.message}`, error);
  }
  return new UserError({
    code: taken ? 'PORT_IN_USE' : 'ADDRESS_NOT_HERE',
    message: taken
      ? `another program listens on ${address} port ${port}`
      : `no interface of this machine has the address ${address}`,
    remedy: taken ? 'give another port with --port' : 'name an address of this machine with --listen',
    exitStatus: 7,
    cause: error,
  });
}

function refusalOf(error: unknown): string {
  return error instanceof UserError ? error.message : 'the request is not one that this version understands';
}

function refusal(why: string): UserError {
  return new UserError({
    code: 'INVITATION_REFUSED',
    message: why,
    remedy: 'ask for a new invitation: homeproxy ca invite',
    exitStatus: 4,
  });
}

function impostor({ address, port }: Invitation): UserError {
  return new UserError({
    code: 'INVITER_NOT_TRUSTED',
    message: `what answers on ${address} port ${port} is not the machine that made this invitation; it was told nothing`,
    remedy: 'ask for a new invitation, and see who has that address',
    exitStatus: 4,
  });
}

function unreachable(address: string, port: number, reason: string, cause: unknown): UserError {
  return new UserError({
    code: 'INVITER_UNREACHABLE',
    message: `cannot reach the inviting machine, ${address} port ${port}: ${reason}`,
    remedy: 'the command that printed the invitation must still be running there, and no firewall between',
    exitStatus: 4,
    cause,
  });
}

function expired(node: string): UserError {
  return new UserError({
    code: 'INVITATION_EXPIRED',
    message: `${node} has not joined in time: the invitation is void`,
    remedy: 'make a new one, or one that is valid for longer: --valid',
    exitStatus: 4,
  });
}
