import { join } from 'node:path';
import { ConfiguredCommand } from '../base-command.js';
import { UserError } from '../errors.js';
import { type RecoverReport, recoverMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';
import { textTable } from '../text-table.js';

export default class Recover extends ConfiguredCommand {
  static override summary = 'After this node was rebuilt: find its processes on the hosts and stand in for them again.';
  static override description =
    `A node that lost its state folder no longer knows which of its processes are away. This asks every host, brings migrations
that were under way to an end, and makes the bindings again, so that the processes' connections go on. A daemon that was merely
killed or restarted needs nothing of this.

Exit status: 0; 4 a host did not answer, what lives there is not known; 7 no daemon.`;
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --json'];

  async run(): Promise<RecoverReport> {
    const config = await this.loadConfig();
    const report = await callControl(join(config.paths.run, 'control.sock'), recoverMethod, {}, { timeoutMs: 120_000 });
    const { processes, migrations, unreachable } = report;
    for (const { migration, outcome } of migrations) this.log(`migration ${migration}: ${outcome}`);
    if (processes.length === 0) this.log('no process of this node lives on a host that answered');
    else {
      const rows = processes.map(({ pid, comm, location, outcome, error }) => [
        pid,
        comm,
        location,
        outcome,
        error?.message ?? '',
      ]);
      this.log(textTable(['pid', 'command', 'runs on', 'outcome', 'why'], rows));
    }
    if (unreachable.length > 0) {
      throw new UserError({
        code: 'HOST_UNREACHABLE',
        message: unreachable.map(({ node, error }) => `${node}: ${error.message}`).join('\n'),
        remedy: 'run `homeproxy recover` again when they answer',
        exitStatus: 4,
      });
    }
    return report;
  }
}
