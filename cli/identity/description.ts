import type { X509Certificate } from 'node:crypto';
import ipaddr from 'ipaddr.js';
import { nodeNameOf } from './node-name.js';

const IP_PREFIX = 'IP Address:';

/** What a person wants to know of a certificate. Times are ISO 8601, UTC. */
export interface CertificateDescription {
  readonly subject: string;
  readonly issuer: string;
  readonly kind: 'authority' | 'node' | 'other';
  /** DNS and IP names, for a node. */
  readonly names: readonly string[];
  /** SHA-256, hexadecimal with colons. */
  readonly fingerprint: string;
  readonly validFrom: string;
  readonly expires: string;
  /** Whole days; negative when it has expired. */
  readonly daysLeft: number;
}

export function describeCertificate(certificate: X509Certificate, now = Date.now()): CertificateDescription {
  const expires = Date.parse(certificate.validTo);
  const node = nodeNameOf(certificate) !== undefined;
  return {
    subject: certificate.subject.replaceAll('\n', ', '),
    issuer: certificate.issuer.replaceAll('\n', ', '),
    kind: certificate.ca ? 'authority' : node ? 'node' : 'other',
    names: (certificate.subjectAltName ?? '')
      .split(', ')
      .filter((name) => name !== '')
      .map((name) => (name.startsWith(IP_PREFIX) ? ipaddr.parse(name.slice(IP_PREFIX.length)).toString() : name))
      .map((name) => name.replace(/^DNS:/, '')),
    fingerprint: certificate.fingerprint256,
    validFrom: new Date(certificate.validFrom).toISOString(),
    expires: new Date(expires).toISOString(),
    daysLeft: Math.floor((expires - now) / 86_400_000),
  };
}
