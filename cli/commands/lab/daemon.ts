import { Args } from '@oclif/core';
import { Lab } from '../../lab/lab.js';
import { LabCommand } from '../../lab-command.js';

export default class LabDaemon extends LabCommand {
  static override summary = 'Stop, kill or start the daemon of a node.';
  static override description =
    `stop ends it in order; kill ends it with SIGKILL, as a crash would; start waits until it serves.

Exit status: 0; 2 wrong usage; 3 no such lab or node, or a node without a daemon; 5 it does not start or does not end;
7 not root.`;

  static override examples = [
    '<%= config.bin %> <%= command.id %> home kill',
    '<%= config.bin %> <%= command.id %> home start',
  ];

  static override args = {
    node: Args.string({ description: 'home, host1, ...', required: true }),
    action: Args.string({ description: 'what to do', required: true, options: ['start', 'stop', 'kill'] }),
  };

  async run(): Promise<{ node: string; pid: number | null }> {
    const { args, flags } = await this.parse(LabDaemon);
    const lab = await Lab.open(flags.lab);
    if (args.action === 'start') {
      const pid = await lab.startDaemon(args.node);
      this.log(`the daemon of ${args.node} runs (pid ${pid} on this machine)`);
      return { node: args.node, pid };
    }
    await lab.stopDaemon(args.node, args.action === 'kill' ? 'SIGKILL' : 'SIGTERM');
    this.log(`the daemon of ${args.node} has ended`);
    return { node: args.node, pid: null };
  }
}
