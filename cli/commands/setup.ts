import { spawnSync } from 'node:child_process';
import { BaseCommand } from '../base-command.js';
import { ExternalError } from '../errors.js';
import { projectFile } from '../system/project.js';

export default class Setup extends BaseCommand {
  static override summary =
    'Install what homeproxy needs on this machine: packages, and a CRIU that is proven to work here.';
  static override description =
    `Takes packages from the system's own Debian archive. The CRIU is proven by a real dump and restore of a process with a connected TCP
socket; where the distribution's fails, a newer one goes into a private prefix (/usr/local/lib/homeproxy), and no foreign package
source stays active. Says in one line what each step did; does nothing where nothing is missing. Needs root, or sudo.

Exit status: 0; 5 a step failed, and said why.`;
  static override examples = ['<%= config.bin %> <%= command.id %>'];

  async run(): Promise<{ ok: true }> {
    await this.parse(Setup);
    const script = projectFile('config/setup.sh');
    const { status } = spawnSync(script, { stdio: ['inherit', 2, 'inherit'] });
    if (status !== 0) {
      throw new ExternalError({
        code: 'SETUP_FAILED',
        message: 'the set-up did not come to its end',
        command: script,
        log: [],
        remedy: 'see what it said above',
      });
    }
    return { ok: true };
  }
}
