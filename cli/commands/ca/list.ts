import { Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { DEFAULT_AUTHORITY_DIRECTORY, loadAuthority, revokedBy } from '../../identity/files.js';
import { type Issued, readRegister } from '../../identity/register.js';
import { textTable } from '../../text-table.js';

type Row = Issued & { readonly state: 'valid' | 'revoked' | 'expired' };

export default class CaList extends BaseCommand {
  static override summary = 'show what the authority has issued, and what of it is revoked or expired';
  static override description = 'EXIT STATUS: 0 shown, 2 there is no authority.';
  static override examples = [{ description: 'All of it', command: '<%= config.bin %> <%= command.id %>' }];
  static override flags = {
    directory: Flags.string({
      description: 'where the authority is',
      default: DEFAULT_AUTHORITY_DIRECTORY,
      helpValue: 'DIR',
    }),
  };

  override async run(): Promise<{ certificates: readonly Row[] }> {
    const { flags } = await this.parse(CaList);
    const revoked = new Set(await revokedBy(flags.directory, await loadAuthority(flags.directory)));
    const now = new Date().toISOString();
    const certificates = (await readRegister(flags.directory)).map((issued): Row => {
      const state = revoked.has(issued.serial) ? 'revoked' : issued.expires < now ? 'expired' : 'valid';
      return { ...issued, state };
    });
    if (certificates.length === 0) this.log('nothing was issued');
    else this.log(textTable(['node', 'issued', 'expires', 'state', 'serial'], certificates.map(columns)));
    return { certificates };
  }
}

function columns({ node, issued, expires, state, serial }: Row): string[] {
  return [node, issued.slice(0, 10), expires.slice(0, 10), state, serial];
}
