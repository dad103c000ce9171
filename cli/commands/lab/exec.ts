import { Args, Flags } from '@oclif/core';
import { UserError } from '../../errors.js';
import { Lab } from '../../lab/lab.js';
import { LabCommand } from '../../lab-command.js';

export default class LabExec extends LabCommand {
  static override summary = 'Run a command in a node of a lab.';
  static override description =
    `Without --detach it has this command's standard streams and signals, and its exit status becomes ours.
With --detach it runs on its own until it ends or the lab is taken down, and its pid in the node is printed: the
pid that \`homeproxy migrate\` takes there.

Exit status: that of the command (128 + n when signal n ended it); with --detach 0. Of our own: 2 wrong usage; 3 no such lab, node or command;
5 the command could not be started; 7 not root.`;

  static override examples = [
    '<%= config.bin %> <%= command.id %> home -- homeproxy status',
    '<%= config.bin %> <%= command.id %> home --detach -- redis-server --bind 10.77.0.2 --protected-mode no',
    '<%= config.bin %> <%= command.id %> client -- redis-cli -h 10.77.0.2 ping',
  ];

  static override strict = false;
  static override args = { node: Args.string({ description: 'client, home, host1, ...', required: true }) };
  static override flags = {
    detach: Flags.boolean({ description: 'start it, print its pid in the node, and return' }),
  };

  async run(): Promise<{ pid: number } | { exitStatus: number }> {
    const { args, argv, flags } = await this.parse(LabExec);
    // oclif puts equal words of `argv` side by side; what follows the first `--` must stay as it was written
    const mark = this.argv.indexOf('--');
    const command = mark >= 0 ? this.argv.slice(mark + 1) : argv.slice(1).map(String);
    if (command.length === 0) {
      throw new UserError({
        code: 'USAGE',
        message: `which command is to run in ${args.node}?`,
        remedy: `homeproxy lab exec ${args.node} -- <command...>`,
        exitStatus: 2,
      });
    }
    const node = (await Lab.open(flags.lab)).node(args.node);
    if (flags.detach) {
      const pid = await node.detach(command);
      this.log(String(pid));
      return { pid };
    }
    const exitStatus = await node.exec(command);
    process.exitCode = exitStatus;
    return { exitStatus };
  }
}
