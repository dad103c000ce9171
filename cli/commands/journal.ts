import { join } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { type JournalReport, type JournalRow, journalMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';
import { textTable } from '../text-table.js';

export default class Journal extends ConfiguredCommand {
  static override summary = 'Show what happened in each migration that this node decided or took part in.';
  static override description =
    `Without an argument the last migrations, one line each; with one, its steps on this node with their times. A migration that
this node did not decide is \`taken-part\`: ask its home node for the outcome. The last 1000 are kept.

Exit status: 0; 3 there is no such migration; 7 no daemon.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> m-mi9k2x1c-0f3a9b12',
    { description: 'For a script', command: '<%= config.bin %> <%= command.id %> --json --last 100' },
  ];
  static override args = { migration: Args.string({ description: 'name of a migration' }) };
  static override flags = {
    last: Flags.integer({
      description: 'how many migrations',
      default: 20,
      min: 1,
      max: 200,
      exclusive: ['migration'],
    }),
  };

  async run(): Promise<JournalReport> {
    const { args, flags } = await this.parse(Journal);
    const config = await this.loadConfig();
    const { migration } = args;
    const report = await callControl(join(config.paths.run, 'control.sock'), journalMethod, {
      last: flags.last,
      ...(migration === undefined ? {} : { migration }),
    });
    if (migration === undefined) this.renderAll(report);
    else report.migrations.forEach((row) => void this.renderOne(row));
    return report;
  }

  private renderAll({ migrations, departing, arriving }: JournalReport): void {
    if (migrations.length === 0) this.log('no migration yet');
    else
      this.log(textTable(['migration', 'begun', 'pid', 'command', 'from', 'to', 'state', 'why'], migrations.map(line)));
    for (const one of departing) this.log(`waiting for the end of ${one}: its process leaves from here`);
    for (const one of arriving) this.log(`waiting for the end of ${one}: its process comes here`);
  }

  private renderOne(row: JournalRow): void {
    const where = row.from === undefined ? '' : `: process ${row.pid} (${row.comm}) from ${row.from} to ${row.to}`;
    this.log(`${row.migration}${where}, ${row.state}${row.error === undefined ? '' : `: ${row.error.message}`}`);
    const start = row.steps[0]?.at ?? 0;
    let before = start;
    const rows = row.steps.map(({ step, at }) => {
      const since = at - before;
      before = at;
      return [clock(at), `${(at - start).toFixed(1)} ms`, `+${since.toFixed(1)} ms`, step];
    });
    this.log(textTable(['time', 'since the start', 'took', 'step'], rows));
  }
}

function line(row: JournalRow): (string | number)[] {
  const begun = row.startedAt ?? row.steps[0]?.at;
  return [
    row.migration,
    begun === undefined ? '' : new Date(begun).toISOString().replace(/\.\d+Z$/, 'Z'),
    row.pid ?? '',
    row.comm ?? '',
    row.from ?? '',
    row.to ?? '',
    row.state,
    row.error?.code ?? (row.policy === undefined ? '' : `policy ${row.policy}`),
  ];
}

function clock(at: number): string {
  return new Date(at).toISOString().slice(11, 23);
}
