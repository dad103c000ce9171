import { Lab } from '../../lab/lab.js';
import { LabCommand } from '../../lab-command.js';

export default class LabDown extends LabCommand {
  static override summary = 'Take a lab down, with every process in it.';
  static override description = `A half-built lab is taken down too. Nothing is left of it.

Exit status: 0, also when there was no such lab; 5 a process could not be ended; 7 not root.`;
  static override examples = ['<%= config.bin %> <%= command.id %>'];

  async run(): Promise<{ lab: string; removed: boolean }> {
    const { flags } = await this.parse(LabDown);
    const removed = await Lab.down(flags.lab);
    this.log(removed ? `lab "${flags.lab}" is down` : `there is no lab "${flags.lab}"`);
    return { lab: flags.lab, removed };
  }
}
