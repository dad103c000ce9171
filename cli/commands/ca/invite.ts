import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { Args, Flags } from '@oclif/core';
import { stringify } from 'yaml';
import { ConfiguredCommand } from '../../base-command.js';
import { DEFAULT_PEER_PORT, isNodeName, type NodeEntry, ownNode } from '../../config/schema.js';
import { UserError } from '../../errors.js';
import { certificatesIn } from '../../identity/credentials.js';
import { type CertificateDescription, describeCertificate } from '../../identity/description.js';
import { DEFAULT_AUTHORITY_DIRECTORY, loadAuthority } from '../../identity/files.js';
import { invite } from '../../identity/joining.js';
import { noteIssued } from '../../identity/register.js';

const DEFAULT_INVITATION_PORT = 7079;

interface Result {
  readonly node: CertificateDescription | undefined;
  /** What all other nodes must know of it from now on. */
  readonly entry: { readonly name: string; readonly address: string };
}

export default class CaInvite extends ConfiguredCommand {
  static override summary = 'let another machine become a node: prints a word that is good for one, once';
  static override description =
    `Prints an invitation and waits for its guest, on the machine that has the authority. On the other machine, \`homeproxy node join <word>\` makes a key, which never leaves it, and gets its certificate. The connection is encrypted, and the word proves each end to the other: carry it by a way that nobody else reads.

When this machine has a configuration, the guest gets a first one with the same nodes and itself.

EXIT STATUS: 0 it has joined; 2 wrong usage or no authority; 4 nobody came in time; 7 the port is taken; 130 withdrawn by Ctrl-C.`;
  static override examples = [
    {
      description: 'For host3, which has the address 10.77.0.5',
      command: '<%= config.bin %> <%= command.id %> host3 --address 10.77.0.5',
    },
    {
      description: 'For scripts: the word goes to a file that only its owner can read',
      command: '<%= config.bin %> <%= command.id %> host3 --address 10.77.0.5 --word-file invitation --json',
    },
  ];
  static override args = { node: Args.string({ description: "the new node's name", required: true }) };
  static override flags = {
    address: Flags.string({
      description: 'an address of the new node; may be repeated',
      required: true,
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'ADDRESS',
    }),
    listen: Flags.string({
      description: "address of this machine where it waits; default: this node's in the configuration",
      helpValue: 'ADDRESS',
    }),
    port: Flags.integer({
      description: 'TCP port where it waits',
      default: DEFAULT_INVITATION_PORT,
      min: 1,
      max: 65_535,
    }),
    valid: Flags.integer({
      description: 'for how long, in minutes',
      default: 60,
      min: 1,
      max: 10_080,
      helpValue: 'MINUTES',
    }),
    'word-file': Flags.string({ description: 'write the word to a new file instead', helpValue: 'FILE' }),
    directory: Flags.string({
      description: 'where the authority is',
      default: DEFAULT_AUTHORITY_DIRECTORY,
      helpValue: 'DIR',
    }),
  };

  override async run(): Promise<Result> {
    const { args, flags } = await this.parse(CaInvite);
    const [address = ''] = flags.address;
    if (!isNodeName(args.node)) {
      throw usage(`"${args.node}" cannot be the name of a node: small letters, digits and inner hyphens, at most 63`);
    }
    const config = existsSync(flags.config) ? await this.loadConfig() : undefined;
    const listen = flags.listen ?? (config && ownNode(config).address);
    if (listen === undefined) throw usage('where shall the guest call? Name an address of this machine with --listen');
    const authority = await loadAuthority(flags.directory);
    const entry = { name: args.node, address };
    const others = (config?.nodes ?? []).filter(({ name }) => name !== args.node).map(shortEntry);
    const invitation = await invite({
      authority,
      node: args.node,
      addresses: flags.address,
      listen: { address: listen, port: flags.port },
      settings: stringify({ node: args.node, nodes: [...others, entry] }),
      validMs: flags.valid * 60_000,
      note: (certificate) => noteIssued(flags.directory, args.node, certificate),
    });
    await this.hand(invitation.word, args.node, flags['word-file']);
    const certificate = await this.interruptible((signal) => invitation.joined(signal));
    const [read] = certificatesIn(certificate, 'the new certificate');
    const node = read && describeCertificate(read);
    this.log(`${args.node} has joined; its certificate is valid until ${node?.expires.slice(0, 10)}`);
    this.log(
      'next: add it to `nodes` in /etc/homeproxy/homeproxy.yaml of every other node, and restart their daemons:',
    );
    this.log(`  - name: ${entry.name}\n    address: ${entry.address}`);
    return { node, entry };
  }

  private async hand(word: string, node: string, file: string | undefined): Promise<void> {
    if (file !== undefined) {
      await writeFile(file, `${word}\n`, { mode: 0o600, flag: 'wx' }).catch((cause: Error) => {
        throw usage(`cannot write the word: ${cause.message}`);
      });
    } else if (this.jsonEnabled()) throw usage('with --json the word needs a --word-file');
    this.log(`on ${node}, as root:`);
    this.log(file === undefined ? `  homeproxy node join ${word}` : `  homeproxy node join "$(cat ${file})"`);
    this.log(`waiting for ${node}; Ctrl-C withdraws the invitation`);
  }
}

/** What differs from the defaults, as a person would write it. */
function shortEntry({ name, address, otherAddress, port, encapsulation, reverseTunnel }: NodeEntry): object {
  return {
    name,
    address,
    ...(otherAddress === undefined ? {} : { otherAddress }),
    ...(port === DEFAULT_PEER_PORT ? {} : { port }),
    ...(encapsulation === 'ip' ? {} : { encapsulation }),
    ...(reverseTunnel ? { reverseTunnel } : {}),
  };
}

function usage(message: string): UserError {
  return new UserError({ code: 'USAGE', message, remedy: 'homeproxy ca invite --help', exitStatus: 2 });
}
