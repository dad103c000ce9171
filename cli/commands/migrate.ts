import { Args } from '@oclif/core';
import { type DryRun, fileFlags, MigratingCommand, movingFlags, pidArgument } from '../migrating-command.js';
import type { MigrationSummary } from '../migration/records.js';

export default class Migrate extends MigratingCommand {
  static override summary = 'Move a running process, with its connections, to another host.';
  static override description =
    `PID is the process's number on this node, which is its home; it keeps that name while it is away, so that the same
command moves it on to a second host. Its whole tree moves. Ctrl-C asks for a rollback while that is still possible.

Exit status: 0 moved; 3 it cannot be moved, nothing was touched; 4 the host cannot be reached or is not trusted; 6 rolled back, it runs where
it was; 130 interrupted.`;
  static override examples = [
    { description: 'Move process 4242 to host1', command: '<%= config.bin %> <%= command.id %> 4242 host1' },
    {
      description: 'The same to a host that does not have its program: files go with it',
      command: '<%= config.bin %> <%= command.id %> 4242 host1 --files carry --carry /srv/app',
    },
    { description: 'The same for a script', command: '<%= config.bin %> <%= command.id %> 4242 host1 --json' },
  ];
  static override args = {
    pid: pidArgument,
    host: Args.string({ required: true, description: 'name of a node in the configuration (`homeproxy hosts`)' }),
  };

  static override flags = { ...movingFlags, ...fileFlags };

  async run(): Promise<MigrationSummary | DryRun> {
    const { args, flags } = await this.parse(Migrate);
    return this.move(args.pid, args.host, flags);
  }
}
