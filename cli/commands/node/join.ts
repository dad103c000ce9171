import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join as path } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../base-command.js';
import { UserError } from '../../errors.js';
import { certificatesIn } from '../../identity/credentials.js';
import { type CertificateDescription, describeCertificate } from '../../identity/description.js';
import { saveNodeCredentials } from '../../identity/files.js';
import { readInvitation } from '../../identity/invitation.js';
import { join } from '../../identity/joining.js';

interface Result {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
  /** Undefined: there was a configuration, which stays as it is. */
  readonly configuration: string | undefined;
  readonly node: CertificateDescription | undefined;
}

export default class NodeJoin extends BaseCommand {
  static override summary = 'become a node: with the word that `homeproxy ca invite` has printed';
  static override description =
    `Makes a key, which never leaves this machine, has its certificate signed by the inviting machine, and writes ca.pem, node.pem, node.key and, when there is none, a first homeproxy.yaml.

A word is good once. Without an argument it is read from the standard input, so that it shows in no list of processes.

EXIT STATUS: 0 joined; 2 that is no invitation, or files are there already; 4 the inviting machine cannot be reached, is another one, or refuses; 7 the directory cannot be written.`;
  static override examples = [
    { description: 'With the word', command: '<%= config.bin %> <%= command.id %> hpjoin1-WyJob3N0...' },
    { description: 'The word from a file', command: '<%= config.bin %> <%= command.id %> < invitation' },
  ];
  static override args = {
    word: Args.string({ description: 'the invitation; default: a line of the standard input' }),
  };
  static override flags = {
    out: Flags.string({ description: 'where to write the files', default: '/etc/homeproxy', helpValue: 'DIR' }),
    force: Flags.boolean({ description: 'replace a certificate and a key that are there' }),
  };

  override async run(): Promise<Result> {
    const { args, flags } = await this.parse(NodeJoin);
    const invitation = readInvitation(args.word ?? (await standardInput()));
    if (!flags.force && existsSync(path(flags.out, 'node.key'))) {
      throw new UserError({
        code: 'FILE_EXISTS', // before the word is used up
        message: `this machine has a key already: ${path(flags.out, 'node.key')}`,
        remedy: 'add --force to replace it',
        exitStatus: 2,
      });
    }
    const { ca, pair, settings } = await join(invitation);
    const paths = await saveNodeCredentials(flags.out, ca, pair, { force: flags.force });
    const [certificate] = certificatesIn(pair.certificate, paths.certificate);
    const node = certificate && describeCertificate(certificate);
    this.log(
      `this machine is the node ${invitation.node}; its certificate is valid until ${node?.expires.slice(0, 10)}`,
    );
    for (const written of Object.values(paths)) this.log(`  ${written}`);
    const configuration = await firstConfiguration(path(flags.out, 'homeproxy.yaml'), settings);
    if (configuration !== undefined) this.log(`  ${configuration}`);
    this.log('next: homeproxy check, then homeproxy up');
    return { ...paths, configuration, node };
  }
}

/** An administrator's configuration is never touched. */
async function firstConfiguration(file: string, settings: string): Promise<string | undefined> {
  try {
    await writeFile(file, settings, { mode: 0o644, flag: 'wx' });
    return file;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return undefined;
    throw error;
  }
}

async function standardInput(): Promise<string> {
  let text = '';
  for await (const chunk of process.stdin) {
    text += String(chunk);
    if (text.length > 4096) break;
  }
  return text.trim();
}
