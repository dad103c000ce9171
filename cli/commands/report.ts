import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Args, Flags } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { UserError } from '../errors.js';
import { type MigrationReport, reportMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';
import { reportPage } from '../report/page.js';

export default class Report extends ConfiguredCommand {
  static override summary = 'Write what happened in one migration to one HTML file that needs nothing else.';
  static override description =
    `Outcome, figures, phases and steps of every node that took part, what became of the packets, and the sequence numbers of its TCP
connections (of up to 200) before and after. Run it on the home node of the process: it asks the others for their steps; one that
cannot be reached is named in the page. The file has no script and loads nothing, so that it can be kept or sent. Only its owner may
read it at first: while a connection lives, its sequence numbers are nobody else's business.

Exit status: 0; 2 the file cannot be written; 3 there is no such migration; 7 no daemon.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %> m-mi9k2x1c-0f3a9b12',
    '<%= config.bin %> <%= command.id %> m-mi9k2x1c-0f3a9b12 --output move.html --force',
  ];
  static override args = {
    migration: Args.string({ description: 'name of a migration (`homeproxy journal`)', required: true }),
  };
  static override flags = {
    output: Flags.string({
      char: 'o',
      description: 'file to write (default: <migration>.html here)',
      helpValue: 'FILE',
    }),
    force: Flags.boolean({ description: 'write over a file that is there', default: false }),
  };

  async run(): Promise<MigrationReport & { file: string }> {
    const { args, flags } = await this.parse(Report);
    const config = await this.loadConfig();
    const socket = join(config.paths.run, 'control.sock');
    const report = await callControl(socket, reportMethod, { migration: args.migration });
    const file = resolve(flags.output ?? `${report.row.migration}.html`);
    write(file, reportPage(report), flags.force);
    this.log(file);
    return { ...report, file };
  }
}

function write(file: string, page: string, force: boolean): void {
  try {
    writeFileSync(file, page, { flag: force ? 'w' : 'wx', mode: 0o600 });
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    throw new UserError({
      code: exists ? 'FILE_EXISTS' : 'REPORT_UNWRITABLE',
      message: exists ? `${file} is there already` : `cannot write ${file}: ${(cause as Error).message}`,
      remedy: exists ? 'name another file with --output, or add --force' : 'name another file with --output',
      exitStatus: 2,
      cause,
    });
  }
}
