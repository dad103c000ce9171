import { Flags } from '@oclif/core';
import { Lab, type LabStatus } from '../../lab/lab.js';
import { DEFAULT_HOSTS, MAX_HOSTS } from '../../lab/plan.js';
import { LabCommand } from '../../lab-command.js';

export default class LabUp extends LabCommand {
  static override summary = 'Build a network of nodes on this machine: a client, a home node and hosts.';
  static override description =
    `Each node has its own network, processes, mounts, /run, /var, /tmp and /etc; the operating system is shared
read-only. The home node and the hosts run the real daemon, with certificates of their own. A lab that is up already is
left as it is. An interrupted or failed command leaves nothing.

Exit status: 0 the lab is up; 2 wrong usage; 3 a lab of that name is up with other options; 5 a program failed;
7 not root, or the machine lacks something; 130 interrupted.`;

  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --hosts 3 --json',
    { description: 'A second lab beside it', command: '<%= config.bin %> <%= command.id %> --lab second' },
  ];

  static override flags = {
    hosts: Flags.integer({ description: 'number of hosts', default: DEFAULT_HOSTS, min: 1, max: MAX_HOSTS }),
    attach: Flags.option({
      description: 'where the daemons attach to eth0',
      options: ['auto', 'xdp', 'xdp-generic', 'tc'] as const,
      default: 'xdp' as const,
    })(),
    offloads: Flags.boolean({
      description: 'keep checksum and segmentation offload on the links; for --attach tc or auto',
    }),
    daemons: Flags.boolean({ description: 'start the daemons', default: true, allowNo: true }),
  };

  async run(): Promise<LabStatus> {
    const { flags } = await this.parse(LabUp);
    let step = '';
    await this.interruptible((signal) =>
      Lab.up({
        name: flags.lab,
        hosts: flags.hosts,
        attach: flags.attach,
        offloads: flags.offloads,
        daemons: flags.daemons,
        signal,
        onStep: (next) => {
          if (step !== '') this.progress.done(step);
          step = next;
          this.progress.start(step);
        },
      }),
    );
    if (step !== '') this.progress.done(step);
    const status = await Lab.status(flags.lab);
    this.log(
      status.nodes
        .map(({ name, address, address6 }) => `${name.padEnd(8)} ${address.padEnd(12)} ${address6}`)
        .join('\n'),
    );
    this.log('\nNext: homeproxy lab exec home -- homeproxy status');
    return status;
  }
}
