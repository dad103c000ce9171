import { Lab, type LabStatus, type NodeStatus } from '../../lab/lab.js';
import { LabCommand } from '../../lab-command.js';

export default class LabStatusCommand extends LabCommand {
  static override summary = 'Show the nodes of a lab and their daemons.';
  static override description = 'Exit status: 0, also when the lab is down (then there are no nodes); 7 not root.';
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --json'];

  async run(): Promise<LabStatus> {
    const { flags } = await this.parse(LabStatusCommand);
    const status = await Lab.status(flags.lab);
    this.log(`lab "${status.lab}": ${status.state}`);
    for (const node of status.nodes) {
      const state = node.running ? `pid ${node.pid}` : 'dead';
      this.log(
        `${node.name.padEnd(8)} ${node.address.padEnd(12)} ${node.address6.padEnd(9)} ${node.role.padEnd(7)} ${state.padEnd(12)} ${daemonText(node)}`,
      );
    }
    return status;
  }
}

function daemonText(node: NodeStatus): string {
  if (node.role === 'client') return '';
  if (node.daemon === null) return 'no daemon';
  return node.daemon.running ? `daemon pid ${node.daemon.pid}` : 'daemon dead';
}
