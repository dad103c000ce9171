import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { open } from 'node:fs/promises';
import { UserError } from '../errors.js';
import { nodeNameOf } from './node-name.js';
import { serialOf } from './serial.js';

/** What both ends of a connection between nodes need; PEM. */
export interface Credentials {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** When the first of the certificates expires. */
  readonly expires: Date;
  /** Serial numbers of certificates that are not to be trusted any more, as `serialOf` writes them. */
  readonly revoked: ReadonlySet<string>;
}

/** The `tls` block of the configuration: paths. */
export interface CredentialFiles {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
  /** The authority's revocation list; when there is no such file, nothing is revoked. */
  readonly revocations?: string;
}

const MAX_BYTES = 1 << 20;

/**
 * Reads and checks a node's certificate, its key and the authority's certificate.
 * @param nodeName when given, the certificate must be this node's
 * @throws {UserError} exit 2: `TLS_FILE_MISSING`, `TLS_FILE_UNREADABLE`, `TLS_FILE_INVALID`, `TLS_KEY_EXPOSED`,
 * `TLS_KEY_MISMATCH`, `TLS_NOT_VALID_YET`, `TLS_EXPIRED`, `TLS_NOT_SIGNED`, `TLS_WRONG_NODE`,
 * `TLS_REVOKED`, `REVOCATIONS_INVALID`
 */
export async function loadCredentials(files: CredentialFiles, nodeName?: string): Promise<Credentials> {
  const ca = await readPem(files.ca, false);
  const cert = await readPem(files.certificate, false);
  const key = await readPem(files.key, true);
  const authorities = certificatesIn(ca, files.ca);
  const [certificate] = certificatesIn(cert, files.certificate);
  if (certificate === undefined) throw invalid(files.certificate, 'it holds no certificate');
  if (!certificate.checkPrivateKey(privateKeyIn(key, files.key))) {
    throw problem('TLS_KEY_MISMATCH', `${files.key} is not the key of ${files.certificate}`, reissue(nodeName));
  }
  checkTime(certificate, files.certificate, reissue(nodeName));
  const issuer = authorities.find((authority) => isIssuer(authority, certificate));
  if (issuer === undefined) {
    throw problem(
      'TLS_NOT_SIGNED',
      `${files.certificate} was not signed by the authority in ${files.ca}`,
      reissue(nodeName),
    );
  }
  checkTime(issuer, files.ca, 'homeproxy ca init --force, then issue a new certificate for every node');
  const name = nodeNameOf(certificate);
  if (name === undefined || (nodeName !== undefined && name !== nodeName)) {
    throw problem(
      'TLS_WRONG_NODE',
      `${files.certificate} is the certificate of ${name ?? 'no node'}${nodeName === undefined ? '' : `, not of ${nodeName}`}`,
      reissue(nodeName),
    );
  }
  const revoked = await readRevocations(files.revocations, authorities);
  if (revoked.has(serialOf(certificate.serialNumber))) {
    throw problem('TLS_REVOKED', `${files.certificate} was revoked`, reissue(nodeName));
  }
  const expires = new Date(Math.min(Date.parse(certificate.validTo), Date.parse(issuer.validTo)));
  return { ca, cert, key, expires, revoked };
}

async function readRevocations(
  path: string | undefined,
  authorities: readonly X509Certificate[],
): Promise<ReadonlySet<string>> {
  if (path === undefined) return new Set();
  let pem: string;
  try {
    pem = await readPem(path, false);
  } catch (error) {
    if ((error as UserError).code === 'TLS_FILE_MISSING') return new Set();
    throw error;
  }
  const { serialsIn } = await import('./revocations.js'); // its library takes 60 ms of a start, and most nodes have no list
  return await serialsIn(pem, path, authorities);
}

/** The certificates of a PEM file, in its order. @throws {UserError} `TLS_FILE_INVALID` */
export function certificatesIn(pem: string, path: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw invalid(path, 'it holds no certificate in PEM form');
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (error) {
    throw invalid(path, 'its certificate cannot be read', error);
  }
}

/**
 * Reads a PEM file.
 * @param secret refuse a file that others can read
 * @throws {UserError} `TLS_FILE_MISSING`, `TLS_FILE_UNREADABLE`, `TLS_FILE_INVALID`, `TLS_KEY_EXPOSED`
 */
export async function readPem(path: string, secret: boolean): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const stat = await file.stat();
      if (!stat.isFile() || stat.size > MAX_BYTES) throw invalid(path, 'it is not a PEM file');
      if (secret && (stat.mode & 0o077) !== 0) {
        const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
        throw problem('TLS_KEY_EXPOSED', `others can read the private key ${path} (mode ${mode})`, `chmod 600 ${path}`);
      }
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw problem(
        'TLS_FILE_MISSING',
        `there is no file ${path}`,
        'homeproxy ca issue <node> --address <its address>',
        error,
      );
    }
    throw problem('TLS_FILE_UNREADABLE', `cannot read ${path}: ${message}`, 'run as root', error);
  }
}

function privateKeyIn(pem: string, path: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    throw invalid(path, 'it holds no private key in PEM form without a passphrase', error);
  }
}

function isIssuer(authority: X509Certificate, certificate: X509Certificate): boolean {
  return authority.ca && certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
}

function checkTime(certificate: X509Certificate, path: string, remedy: string): void {
  const now = Date.now();
  if (now > Date.parse(certificate.validTo)) {
    throw problem('TLS_EXPIRED', `${path} expired on ${certificate.validTo}`, remedy);
  }
  if (now < Date.parse(certificate.validFrom)) {
    throw problem('TLS_NOT_VALID_YET', `${path} is not valid before ${certificate.validFrom}`, 'check the clock: date');
  }
}

function reissue(nodeName: string | undefined): string {
  return `homeproxy ca issue ${nodeName ?? '<node>'} --address <its address>`;
}

function invalid(path: string, reason: string, cause?: unknown): UserError {
  return problem('TLS_FILE_INVALID', `${path}: ${reason}`, 'homeproxy ca issue <node> --address <its address>', cause);
}

function problem(code: string, message: string, remedy: string, cause?: unknown): UserError {
  return new UserError({ code, message, remedy, exitStatus: 2, cause });
}
