import { join } from 'node:path';
import { Args } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { callControl } from '../node/control-transport.js';
import { undrainMethod } from '../node/policy-methods.js';

export default class Undrain extends ConfiguredCommand {
  static override summary = 'Open a node again that was drained: it takes processes as before.';
  static override description = `Moves nothing; policies may, from now on.

Exit status: 0, also when it was not being drained; 4 the node cannot be reached; 7 no daemon.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    { description: 'Another node', command: '<%= config.bin %> <%= command.id %> host1 --json' },
  ];
  static override args = { host: Args.string({ description: 'name of a node; default: this one' }) };

  async run(): Promise<{ host: string; draining: false; before: boolean }> {
    const { args } = await this.parse(Undrain);
    const config = await this.loadConfig();
    const request = args.host === undefined ? {} : { host: args.host };
    const answer = await callControl(join(config.paths.run, 'control.sock'), undrainMethod, request);
    this.log(answer.before ? `${answer.host} takes processes again` : `${answer.host} was not being drained`);
    return answer;
  }
}
