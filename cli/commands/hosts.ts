import { join } from 'node:path';
import { ConfiguredCommand } from '../base-command.js';
import { type HostRow, hostsMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';
import { textTable } from '../text-table.js';

export default class Hosts extends ConfiguredCommand {
  static override summary = 'Show the nodes of the configuration, and whether each answers and trusts this one.';
  static override description = 'Exit status: 0, also when a node does not answer; 7 no daemon here.';
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --json'];

  async run(): Promise<{ hosts: HostRow[] }> {
    const config = await this.loadConfig();
    const answer = await callControl(join(config.paths.run, 'control.sock'), hostsMethod, {});
    const rows = answer.hosts.map((row) => {
      const { name, address, port, self, reachable, roundTripMs, error, departedHere, draining } = row;
      const up = `${self ? 'this node' : `up (${roundTripMs?.toFixed(1)} ms)`}${draining === true ? ', being drained' : ''}`;
      const state = reachable ? up : `${error?.code ?? 'down'}: ${error?.message ?? ''}`;
      return [name, `${address}:${port}`, self ? '' : departedHere, state];
    });
    this.log(textTable(['node', 'address', 'ours there', 'state'], rows));
    return answer;
  }
}
