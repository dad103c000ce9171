import type { X509Certificate } from 'node:crypto';

/**
 * The name of the node that a (verified) certificate belongs to: its CN, if the same name is also a DNS name of the
 * certificate. Undefined for any other certificate, such as that of `homeproxy ca init`.
 */
export function nodeNameOf(certificate: X509Certificate): string | undefined {
  const name: unknown = certificate.toLegacyObject().subject?.CN;
  if (typeof name !== 'string') return undefined;
  const dnsName = certificate.checkHost(name, { subject: 'never', wildcards: false });
  return dnsName === name ? name : undefined;
}
