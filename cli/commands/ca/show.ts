import { join } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { certificatesIn, readPem } from '../../identity/credentials.js';
import { type CertificateDescription, describeCertificate } from '../../identity/description.js';
import { DEFAULT_AUTHORITY_DIRECTORY } from '../../identity/files.js';

interface Result {
  readonly file: string;
  readonly certificates: readonly CertificateDescription[];
}

export default class CaShow extends BaseCommand {
  static override summary = 'show the authority, or any certificate: subject, names, fingerprint, expiry';
  static override description = 'EXIT STATUS: 0 shown, 2 there is no such file or it is not a certificate.';
  static override examples = [
    { description: 'The authority', command: '<%= config.bin %> <%= command.id %>' },
    {
      description: 'When does the certificate of this node expire?',
      command: '<%= config.bin %> <%= command.id %> /etc/homeproxy/node.pem --json',
    },
  ];
  static override args = {
    file: Args.string({ description: 'a certificate; default: that of the authority' }),
  };
  static override flags = {
    directory: Flags.string({
      description: 'where the authority is',
      default: DEFAULT_AUTHORITY_DIRECTORY,
      helpValue: 'DIR',
    }),
  };

  override async run(): Promise<Result> {
    const { args, flags } = await this.parse(CaShow);
    const file = args.file ?? join(flags.directory, 'ca.pem');
    const certificates = certificatesIn(await readPem(file, false), file).map((one) => describeCertificate(one));
    for (const one of certificates) {
      const left = one.daysLeft < 0 ? 'EXPIRED' : `${one.daysLeft} days left`;
      this.log(`${one.subject}  (${one.kind})`);
      this.log(`  signed by    ${one.issuer === one.subject ? 'itself' : one.issuer}`);
      if (one.names.length > 0) this.log(`  names        ${one.names.join(', ')}`);
      this.log(`  fingerprint  ${one.fingerprint}`);
      this.log(`  expires      ${one.expires.slice(0, 10)}  (${left})`);
    }
    return { file, certificates };
  }
}
