import { Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { createAuthority } from '../../identity/ca.js';
import { certificatesIn } from '../../identity/credentials.js';
import { type CertificateDescription, describeCertificate } from '../../identity/description.js';
import { DEFAULT_AUTHORITY_DIRECTORY, saveAuthority } from '../../identity/files.js';

interface Result {
  readonly certificate: string;
  readonly key: string;
  readonly authority: CertificateDescription | undefined;
}

export default class CaInit extends BaseCommand {
  static override summary = 'make the certificate authority that the nodes trust';
  static override description =
    `Nodes talk to each other over mutual TLS. One authority signs the certificates of all of them; make it once, on one machine, and keep its key there.

Valid for 10 years. An authority that exists is not replaced without --force.

EXIT STATUS: 0 done, 2 there is one already, 7 the directory cannot be written.`;
  static override examples = [
    { description: 'On the machine of the administrator', command: '<%= config.bin %> <%= command.id %>' },
    {
      description: 'In another place, for scripts',
      command: '<%= config.bin %> <%= command.id %> --directory /root/homeproxy-ca --json',
    },
  ];
  static override flags = {
    directory: Flags.string({
      description: 'where to write ca.pem and ca.key',
      default: DEFAULT_AUTHORITY_DIRECTORY,
      helpValue: 'DIR',
    }),
    name: Flags.string({ description: 'name in the certificate', default: 'homeproxy CA', helpValue: 'NAME' }),
    force: Flags.boolean({ description: 'replace an authority: every node then needs a new certificate' }),
  };

  override async run(): Promise<Result> {
    const { flags } = await this.parse(CaInit);
    const authority = await createAuthority({ name: flags.name });
    const paths = await saveAuthority(flags.directory, authority, { force: flags.force });
    const [certificate] = certificatesIn(authority.certificate, paths.certificate);
    const description = certificate && describeCertificate(certificate);
    this.log(`made the authority "${flags.name}", valid until ${description?.expires.slice(0, 10)}`);
    this.log(`  certificate  ${paths.certificate}   (the nodes need it)`);
    this.log(`  key          ${paths.key}   (keep it here: who has it can make a node)`);
    this.log('next: homeproxy ca issue <node> --address <its address>');
    return { ...paths, authority: description };
  }
}
