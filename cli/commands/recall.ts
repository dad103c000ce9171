import { type DryRun, MigratingCommand, movingFlags, pidArgument } from '../migrating-command.js';
import type { MigrationSummary } from '../migration/records.js';

export default class Recall extends MigratingCommand {
  static override summary = 'Bring a process that is away back home.';
  static override description =
    `PID is its number at home. It gets that number back and is an ordinary process of this node again.

Exit status: as \`homeproxy migrate\`; 3 also when it is not away or its number at home was taken meanwhile.`;
  static override examples = [
    { description: 'Bring process 4242 back', command: '<%= config.bin %> <%= command.id %> 4242' },
  ];
  static override args = { pid: pidArgument };

  static override flags = movingFlags;

  async run(): Promise<MigrationSummary | DryRun> {
    const { args, flags } = await this.parse(Recall);
    return this.move(args.pid, undefined, flags);
  }
}
