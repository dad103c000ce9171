import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';
import ipaddr from 'ipaddr.js';
import { UserError } from '../errors.js';

/** A certificate and its private key (PKCS#8), both PEM. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

/** What signs the certificates of the nodes. Its key belongs on one machine only, not on the nodes. */
export type Authority = KeyPair;

export interface Validity {
  readonly notBefore?: Date;
  readonly notAfter?: Date;
}

const KEY_ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const SIGNATURE = { name: 'ECDSA', hash: 'SHA-256' } as const;
const DAY_MS = 86_400_000;
/** Certificates begin to be valid before they are made, because the clocks of machines differ. */
const CLOCK_SKEW_MS = 3_600_000;
const AUTHORITY_DAYS = 3650;
const NODE_DAYS = 365;

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);

/**
 * Makes a new certificate authority: ECDSA P-256, valid for 10 years, allowed to sign node certificates and nothing below
 * them.
 */
export async function createAuthority(options: { name?: string } & Validity = {}): Promise<Authority> {
  const keys = await generateKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: [{ CN: [options.name ?? 'homeproxy CA'] }],
    ...validity(options, AUTHORITY_DAYS),
    keys,
    signingAlgorithm: SIGNATURE,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: pemFile(certificate.toString('pem')), key: await exportKey(keys.privateKey) };
}

/** What a certificate of a node says. */
export interface NodeSubject extends Validity {
  readonly name: string;
  readonly addresses: readonly string[];
}

/**
 * Makes a key for a node and signs its certificate: see {@link signKey}.
 * @throws {UserError} `ADDRESS_INVALID`, `AUTHORITY_INVALID`
 */
export async function issueCertificate(authority: Authority, node: NodeSubject): Promise<KeyPair> {
  const keys = await generateKeys();
  return { certificate: await signKey(authority, keys.publicKey, node), key: await exportKey(keys.privateKey) };
}

/** A new key, and a request (PKCS #10, PEM) for a certificate of it. */
export async function requestCertificate(name: string): Promise<{ request: string; key: string }> {
  const keys = await generateKeys();
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: [name] }],
    keys,
    signingAlgorithm: SIGNATURE,
  });
  return { request: pemFile(request.toString('pem')), key: await exportKey(keys.privateKey) };
}

/**
 * Signs the key of a request. Nothing else of the request counts: name and addresses are ours to say.
 * @throws {UserError} `REQUEST_INVALID`, `ADDRESS_INVALID`, `AUTHORITY_INVALID`
 */
export async function signRequest(authority: Authority, request: string, node: NodeSubject): Promise<string> {
  try {
    const read = new x509.Pkcs10CertificateRequest(request);
    if (!(await read.verify())) throw new Error('its signature does not fit');
    return await signKey(authority, await read.publicKey.export(KEY_ALGORITHM, ['verify']), node);
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError({
      code: 'REQUEST_INVALID',
      message: 'that is not a request for the certificate of an ECDSA P-256 key',
      exitStatus: 2,
      cause,
    });
  }
}

/** CN and DNS name are the node's, its addresses IP names, for both ends of a connection, valid for a year. */
async function signKey(authority: Authority, publicKey: webcrypto.CryptoKey, node: NodeSubject): Promise<string> {
  const { certificate: issuer, signingKey } = await openAuthority(authority);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ CN: [node.name] }],
    issuer: issuer.subjectName,
    ...validity(node, NODE_DAYS),
    publicKey,
    signingKey,
    signingAlgorithm: SIGNATURE,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([
        { type: 'dns', value: node.name },
        ...node.addresses.map((address) => ({ type: 'ip' as const, value: normalAddress(address) })),
      ]),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return pemFile(certificate.toString('pem'));
}

/** What signs in the name of an authority. @throws {UserError} `AUTHORITY_INVALID` */
export async function openAuthority(
  authority: Authority,
): Promise<{ certificate: x509.X509Certificate; signingKey: webcrypto.CryptoKey; signature: typeof SIGNATURE }> {
  return {
    certificate: parseAuthority(authority),
    signingKey: await importKey(authority.key),
    signature: SIGNATURE,
  };
}

function parseAuthority(authority: Authority): x509.X509Certificate {
  let certificate: x509.X509Certificate;
  try {
    certificate = new x509.X509Certificate(authority.certificate);
  } catch (cause) {
    throw new UserError({
      code: 'AUTHORITY_INVALID',
      message: 'the certificate of the authority cannot be read',
      remedy: 'homeproxy ca init --directory <a new directory>',
      exitStatus: 2,
      cause,
    });
  }
  if (certificate.getExtension(x509.BasicConstraintsExtension)?.ca !== true) {
    throw new UserError({
      code: 'AUTHORITY_INVALID',
      message: `the certificate of ${certificate.subject} is not the certificate of an authority`,
      remedy: 'name the directory that `homeproxy ca init` made',
      exitStatus: 2,
    });
  }
  return certificate;
}

function normalAddress(address: string): string {
  if (isIP(address) === 0 || address.includes('%')) {
    throw new UserError({ code: 'ADDRESS_INVALID', message: `"${address}" is not an IP address`, exitStatus: 2 });
  }
  return ipaddr.parse(address).toString();
}

function validity(wanted: Validity, days: number): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  return {
    notBefore: wanted.notBefore ?? new Date(now - CLOCK_SKEW_MS),
    notAfter: wanted.notAfter ?? new Date(now + days * DAY_MS),
  };
}

/** 127 random bits: positive, as RFC 5280 asks. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(KEY_ALGORITHM, true, ['sign', 'verify']);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const der = await webcrypto.subtle.exportKey('pkcs8', key);
  return pemFile(x509.PemConverter.encode(der, x509.PemConverter.PrivateKeyTag));
}

async function importKey(pem: string): Promise<webcrypto.CryptoKey> {
  try {
    return await webcrypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(pem), KEY_ALGORITHM, false, [
      'sign',
    ]);
  } catch (cause) {
    throw new UserError({
      code: 'AUTHORITY_INVALID',
      message: 'the key of the authority is not an ECDSA P-256 key in PEM form',
      remedy: 'homeproxy ca init --directory <a new directory>',
      exitStatus: 2,
      cause,
    });
  }
}

function pemFile(pem: string): string {
  return pem.endsWith('\n') ? pem : `${pem}\n`;
}
