import { join } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { UserError } from '../../errors.js';
import { certificatesIn, readPem } from '../../identity/credentials.js';
import { DEFAULT_AUTHORITY_DIRECTORY, loadAuthority, revokedBy, saveRevocations } from '../../identity/files.js';
import { readRegister } from '../../identity/register.js';
import { createRevocations } from '../../identity/revocations.js';
import { serialOf } from '../../identity/serial.js';

interface Result {
  readonly revocations: string;
  /** Serial numbers: those of this call, and all. */
  readonly revoked: readonly string[];
  readonly all: readonly string[];
}

export default class CaRevoke extends BaseCommand {
  static override summary = 'take back the trust in a node: its key was lost, or the machine is gone';
  static override description =
    `Adds every certificate that was issued for the node to the authority's revocation list, ca.crl. Copy that file to /etc/homeproxy on the other nodes: their daemons take it up within seconds, cut the node's connections and refuse new ones.

A certificate that is issued afterwards for the same name is trusted.

EXIT STATUS: 0 done, 2 wrong usage, no authority, or it has issued no such certificate, 7 the directory cannot be written.`;
  static override examples = [
    { description: 'All certificates of host1', command: '<%= config.bin %> <%= command.id %> host1' },
    {
      description: 'One certificate, by its file',
      command: '<%= config.bin %> <%= command.id %> --certificate old/node.pem',
    },
  ];
  static override args = { node: Args.string({ description: "the node's name" }) };
  static override flags = {
    certificate: Flags.string({ description: 'a certificate instead of a name', helpValue: 'FILE' }),
    directory: Flags.string({
      description: 'where the authority is',
      default: DEFAULT_AUTHORITY_DIRECTORY,
      helpValue: 'DIR',
    }),
  };

  override async run(): Promise<Result> {
    const { args, flags } = await this.parse(CaRevoke);
    const authority = await loadAuthority(flags.directory);
    const revoked = await chosen(flags.directory, args.node, flags.certificate);
    const before = await revokedBy(flags.directory, authority);
    const all = [...new Set([...before, ...revoked])];
    const revocations = await saveRevocations(flags.directory, await createRevocations(authority, all));
    this.log(
      `revoked ${revoked.length === 1 ? 'one certificate' : `${revoked.length} certificates`}; ${all.length} in all`,
    );
    this.log(`  list  ${revocations}`);
    this.log('next: copy it to /etc/homeproxy on every node; the daemons take it up by themselves');
    return { revocations, revoked, all };
  }
}

async function chosen(directory: string, node: string | undefined, file: string | undefined): Promise<string[]> {
  if ((node === undefined) === (file === undefined)) {
    throw new UserError({
      code: 'USAGE',
      message: 'whose trust ends? Name a node, or a certificate with --certificate',
      remedy: 'homeproxy ca list shows what was issued',
      exitStatus: 2,
    });
  }
  if (file !== undefined) {
    const [certificate] = certificatesIn(await readPem(file, false), file);
    return certificate === undefined ? [] : [serialOf(certificate.serialNumber)];
  }
  const found = (await readRegister(directory)).filter((issued) => issued.node === node);
  if (found.length > 0) return found.map(({ serial }) => serial);
  throw new UserError({
    code: 'NOTHING_ISSUED',
    message: `the authority in ${directory} has noted no certificate for "${node}"`,
    remedy: `homeproxy ca list shows what it has; one that it did not note is revoked by its file: --certificate ${join('<directory>', 'node.pem')}`,
    exitStatus: 2,
  });
}
