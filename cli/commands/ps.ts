import { join } from 'node:path';
import { ConfiguredCommand } from '../base-command.js';
import { type ProcessRow, psMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';
import { textTable } from '../text-table.js';

export default class Ps extends ConfiguredCommand {
  static override summary = 'Show processes that are away from here, and those that live here for another home.';
  static override description =
    'Each with what the datapath counted for it. PID is always the number at home. Exit status: 0; 7 no daemon.';
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --json'];

  async run(): Promise<{ processes: ProcessRow[] }> {
    const config = await this.loadConfig();
    const answer = await callControl(join(config.paths.run, 'control.sock'), psMethod, {});
    if (answer.processes.length === 0) {
      this.log('no process is away, and none lives here for another home');
      return answer;
    }
    const rows = answer.processes.map((row) => [
      row.pid,
      row.home,
      row.location,
      row.role,
      row.files ?? '',
      new Date(row.since).toISOString().replace(/\.\d+Z$/, 'Z'),
      row.ports.join(', '),
      Object.entries(row.counters)
        .filter(([, { packets }]) => packets > 0)
        .map(([reason, { packets }]) => `${reason} ${packets}`)
        .join(', '),
      row.commandLine.length > 40 ? `${row.commandLine.slice(0, 39)}…` : row.commandLine,
    ]);
    this.log(textTable(['pid', 'home', 'runs on', 'role', 'files', 'since', 'ports', 'packets', 'command'], rows));
    return answer;
  }
}
