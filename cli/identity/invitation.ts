import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { UserError } from '../errors.js';

/** What somebody carries by hand to a machine that shall become a node. Whoever has it becomes that node, once. */
export interface Invitation {
  readonly node: string;
  /** Where the inviter waits. */
  readonly address: string;
  readonly port: number;
  /** SHA-256 of the certificate that the inviter shows, 64 hexadecimal digits: nobody else can stand there in its place. */
  readonly fingerprint: string;
  /** 256 random bits, hexadecimal: proves the guest. */
  readonly secret: string;
}

const PREFIX = 'hpjoin1-';

const fields = z.tuple([
  z.string().max(63),
  z.string().max(45),
  z.int().min(1).max(65_535),
  z.string().regex(/^[0-9a-f]{64}$/),
  z.string().regex(/^[0-9a-f]{64}$/),
]);

/** One word without characters that a shell would touch. */
export function writeInvitation({ node, address, port, fingerprint, secret }: Invitation): string {
  const content: z.input<typeof fields> = [node, address, port, fingerprint, secret];
  return `${PREFIX}${Buffer.from(JSON.stringify(content)).toString('base64url')}`;
}

/** @throws {UserError} `INVITATION_INVALID` (exit 2); the message never repeats the word, which is a secret */
export function readInvitation(word: string): Invitation {
  try {
    if (!word.startsWith(PREFIX) || word.length > 1024) throw new Error('no invitation');
    const text = Buffer.from(word.slice(PREFIX.length), 'base64url').toString();
    const [node, address, port, fingerprint, secret] = fields.parse(JSON.parse(text));
    return { node, address, port, fingerprint, secret };
  } catch {
    throw new UserError({
      code: 'INVITATION_INVALID',
      message: 'that is not an invitation, or not the whole of it',
      remedy: 'copy the word that `homeproxy ca invite` printed, from its beginning to its end',
      exitStatus: 2,
    });
  }
}

/** As {@link Invitation.fingerprint} has it. */
export function fingerprintOf(certificate: X509Certificate | string): string {
  const read = typeof certificate === 'string' ? new X509Certificate(certificate) : certificate;
  return read.fingerprint256.replaceAll(':', '').toLowerCase();
}
