import { join } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { isNodeName } from '../../config/schema.js';
import { UserError } from '../../errors.js';
import { issueCertificate } from '../../identity/ca.js';
import { certificatesIn } from '../../identity/credentials.js';
import { type CertificateDescription, describeCertificate } from '../../identity/description.js';
import { DEFAULT_AUTHORITY_DIRECTORY, loadAuthority, saveNodeCredentials } from '../../identity/files.js';
import { noteIssued } from '../../identity/register.js';

interface Result {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
  readonly node: CertificateDescription | undefined;
}

export default class CaIssue extends BaseCommand {
  static override summary = 'make the certificate and the key of a node';
  static override description =
    `Writes ca.pem, node.pem and node.key: copy them to /etc/homeproxy on that node (the key by a safe way, mode 0600). The name must be the node's name in the configuration.

Valid for a year. A key that exists is not replaced without --force; a daemon that runs takes up new files within seconds.

EXIT STATUS: 0 done, 2 wrong usage, no authority, or a key is there already, 7 the directory cannot be written.`;
  static override examples = [
    {
      description: 'For the node host1',
      command: '<%= config.bin %> <%= command.id %> host1 --address 10.77.0.3 --out host1-files',
    },
    {
      description: 'For this machine, right into its place',
      command: '<%= config.bin %> <%= command.id %> home --address 10.77.0.2 --address fd00::2 --out /etc/homeproxy',
    },
  ];
  static override args = {
    node: Args.string({ description: "the node's name", required: true }),
  };
  static override flags = {
    address: Flags.string({
      description: 'an address of the node; may be repeated',
      required: true,
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'ADDRESS',
    }),
    directory: Flags.string({
      description: 'where the authority is',
      default: DEFAULT_AUTHORITY_DIRECTORY,
      helpValue: 'DIR',
    }),
    out: Flags.string({ description: 'where to write the files; default: ./<node>', helpValue: 'DIR' }),
    force: Flags.boolean({ description: 'replace files that are there' }),
  };

  override async run(): Promise<Result> {
    const { args, flags } = await this.parse(CaIssue);
    if (!isNodeName(args.node)) {
      throw new UserError({
        code: 'NAME_INVALID',
        message: `"${args.node}" cannot be the name of a node: small letters, digits and inner hyphens, at most 63`,
        exitStatus: 2,
      });
    }
    const authority = await loadAuthority(flags.directory);
    const pair = await issueCertificate(authority, { name: args.node, addresses: flags.address });
    await noteIssued(flags.directory, args.node, pair.certificate);
    const out = flags.out ?? join('.', args.node);
    const paths = await saveNodeCredentials(out, authority.certificate, pair, { force: flags.force });
    const [certificate] = certificatesIn(pair.certificate, paths.certificate);
    const description = certificate && describeCertificate(certificate);
    this.log(
      `made a certificate for ${args.node} (${flags.address.join(', ')}), valid until ${description?.expires.slice(0, 10)}`,
    );
    this.log(`  certificate  ${paths.certificate}`);
    this.log(`  key          ${paths.key}`);
    this.log(`  authority    ${paths.ca}`);
    if (out !== '/etc/homeproxy') this.log(`next: copy the three files to /etc/homeproxy on ${args.node}`);
    return { ...paths, node: description };
  }
}
