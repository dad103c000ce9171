import { join } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { resetClosingFlag } from '../migrating-command.js';
import { streamControl } from '../node/control-transport.js';
import { type DrainReport, type DrainRow, drainMethod } from '../node/policy-methods.js';
import { textTable } from '../text-table.js';

export default class Drain extends ConfiguredCommand {
  static override summary =
    'Empty a node for maintenance: it takes no process any more, and those that are there leave.';
  static override description =
    `The mark is durable: it lasts until \`homeproxy undrain\`, also over a restart. Each guest's home is asked to take it back; when
that is refused, or the home is being drained too, the home moves it to another host. Processes whose home the node is leave
when a policy of its file is about them, whatever its \`when\` says; all others stay. Nothing comes back by itself, unless a
policy's \`until\` says so.

Ctrl-C begins no more moves and waits for those that go on. Run it again to try again those that could not leave.

Exit status: 0 all have left; 4 the node cannot be reached; 6 somebody is still there, the table says why; 7 no daemon; 130
interrupted. In each of these cases but 4 and 7 the node is marked.`;
  static override examples = [
    { description: 'This node', command: '<%= config.bin %> <%= command.id %>' },
    {
      description: 'Another one, with four moves at the same time',
      command: '<%= config.bin %> <%= command.id %> host1 --parallel 4',
    },
  ];
  static override args = { host: Args.string({ description: 'name of a node; default: this one' }) };
  static override flags = {
    parallel: Flags.integer({ description: 'moves at the same time', default: 2, min: 1, max: 4 }),
    'reset-closing': resetClosingFlag,
  };

  async run(): Promise<DrainReport> {
    const { args, flags } = await this.parse(Drain);
    const config = await this.loadConfig();
    const resetClosing = flags['reset-closing'];
    const request = { parallel: flags.parallel, resetClosing, ...(args.host === undefined ? {} : { host: args.host }) };
    const report = await this.interruptible((signal) =>
      streamControl(
        join(config.paths.run, 'control.sock'),
        drainMethod,
        request,
        (event) => {
          if (event.event === 'begun') this.progress.start(`${event.name} (${event.pid})`, `of ${event.home}`);
          else this.show(event.row);
        },
        signal,
      ),
    );
    const left = report.processes.filter(({ outcome }) => outcome !== 'moved');
    if (report.processes.length > 0) {
      this.log(textTable(['pid', 'name', 'home', 'outcome', 'to', 'freeze', 'why'], report.processes.map(columns)));
    }
    const state = left.length === 0 ? 'nobody is left to move' : `${left.length} still there`;
    this.log(`${report.host} is being drained: ${state}; \`homeproxy undrain ${report.host}\` opens it again`);
    if (left.length > 0) process.exitCode = left.some(({ outcome }) => outcome === 'not-tried') ? 130 : 6;
    return report;
  }

  private show({ pid, name, outcome, to, error }: DrainRow): void {
    const step = `${name} (${pid})`;
    if (outcome === 'moved') this.progress.done(step, `moved to ${to}`);
    else this.progress.failed(step, error?.message.split('\n')[0] ?? '');
  }
}

function columns({ pid, name, home, outcome, to, freezeMs, error }: DrainRow): (string | number)[] {
  const freeze = freezeMs === undefined ? '' : `${freezeMs.toFixed(1)} ms`;
  return [pid, name, home, outcome, to ?? '', freeze, error === undefined ? '' : error.message.replaceAll('\n', ' ')];
}
