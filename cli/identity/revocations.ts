import 'reflect-metadata';
import type { X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { UserError } from '../errors.js';
import { type Authority, openAuthority } from './ca.js';
import { serialOf } from './serial.js';

/** A list that nobody renews must not stop nodes that are to be trusted; RFC 5280, 5.1.2.5, wants a date all the same. */
const NEXT_UPDATE_MS = 100 * 365 * 86_400_000;
/** As OpenSSL writes and reads it; RFC 7468, section 6. */
const PEM = /-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----/;

/**
 * A certificate revocation list (RFC 5280, section 5), signed by the authority; PEM.
 * @param serials serial numbers, hexadecimal
 * @throws {UserError} `AUTHORITY_INVALID`
 */
export async function createRevocations(authority: Authority, serials: readonly string[]): Promise<string> {
  const { certificate, signingKey, signature } = await openAuthority(authority);
  const list = await x509.X509CrlGenerator.create({
    issuer: certificate.subject,
    entries: [...new Set(serials.map(serialOf))].map((serialNumber) => ({
      serialNumber: even(serialNumber),
      reason: x509.X509CrlReason.privilegeWithdrawn, // without extensions the library writes an empty list of them, which nobody reads
    })),
    nextUpdate: new Date(Date.now() + NEXT_UPDATE_MS),
    signingAlgorithm: signature,
    signingKey,
  });
  const lines =
    Buffer.from(list.rawData)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return ['-----BEGIN X509 CRL-----', ...lines, '-----END X509 CRL-----', ''].join('\n');
}

/**
 * The serial numbers in a revocation list, as {@link serialOf} writes them.
 * @param path for messages
 * @throws {UserError} `REVOCATIONS_INVALID` (exit 2) when it is none, or no authority of these has signed it
 */
export async function serialsIn(
  pem: string,
  path: string,
  authorities: readonly X509Certificate[],
): Promise<ReadonlySet<string>> {
  const list = parse(pem, path);
  for (const authority of authorities) {
    const signer = new x509.X509Certificate(authority.raw);
    const signed = await list.verify({ publicKey: signer }).catch(() => false); // keys of other kinds
    if (signed) return new Set(list.entries.map((entry) => serialOf(entry.serialNumber)));
  }
  throw invalid(path, 'it was not signed by the authority of this node');
}

function parse(pem: string, path: string): x509.X509Crl {
  const [, base64] = PEM.exec(pem) ?? [];
  if (base64 === undefined) throw invalid(path, 'it is not a revocation list in PEM form');
  let list: x509.X509Crl;
  try {
    list = new x509.X509Crl(Buffer.from(base64, 'base64'));
  } catch (cause) {
    throw invalid(path, 'its revocation list cannot be read', cause);
  }
  // The library takes a list without that date for an empty one (@peculiar/x509 2.2.0).
  if (list.nextUpdate === undefined) throw invalid(path, 'its revocation list has no date of the next one');
  return list;
}

function even(hexadecimal: string): string {
  return hexadecimal.length % 2 === 0 ? hexadecimal : `0${hexadecimal}`;
}

function invalid(path: string, reason: string, cause?: unknown): UserError {
  return new UserError({
    code: 'REVOCATIONS_INVALID',
    message: `${path}: ${reason}`,
    remedy: 'copy ca.crl again from the machine with the authority, or remove it if nothing is revoked',
    exitStatus: 2,
    cause,
  });
}
