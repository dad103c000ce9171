import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Flags } from '@oclif/core';
import { BaseCommand } from '../base-command.js';
import { ExternalError, UserError } from '../errors.js';
import { run } from '../system/command.js';
import { projectFile } from '../system/project.js';
import { serviceUnit, UNIT_PATH } from '../system/service-unit.js';

export default class Setup extends BaseCommand {
  static override summary =
    'Install what homeproxy needs on this machine: packages, and a CRIU that is proven to work here.';
  static override description =
    `Takes packages from the system's own Debian archive. The CRIU is proven by a real dump and restore of a process with a connected TCP
socket; where the distribution's fails, a newer one goes into a private prefix (/usr/local/lib/homeproxy), and no foreign package
source stays active. Says in one line what each step did; does nothing where nothing is missing. Needs root, or sudo.

With --service it writes the systemd unit instead: for this homeproxy and the Node.js that runs it, wherever they are installed.
Write it again when one of them has moved.

Exit status: 0; 5 a step failed, and said why; 7 this machine has no systemd, or the unit cannot be written.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --service && systemctl enable --now homeproxy',
  ];
  static override flags = {
    service: Flags.boolean({ description: `only write ${UNIT_PATH}`, default: false }),
  };

  async run(): Promise<{ ok: true; unit?: string }> {
    const { flags } = await this.parse(Setup);
    if (flags.service) return await this.writeUnit();
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

  private async writeUnit(): Promise<{ ok: true; unit: string }> {
    const template = readFileSync(projectFile('config/systemd/homeproxy.service'), 'utf8');
    const unit = serviceUnit(template, process.execPath, projectFile('cli/bin/run.js'));
    try {
      writeFileSync(UNIT_PATH, unit, { mode: 0o644 });
    } catch (error) {
      const lacking = (error as NodeJS.ErrnoException).code === 'ENOENT';
      throw new UserError({
        code: 'UNIT_UNWRITABLE',
        message: `${UNIT_PATH} cannot be written: ${lacking ? 'there is no systemd here' : (error as Error).message}`,
        remedy: lacking ? 'let your own service manager run `homeproxy up`' : 'run it as root (sudo)',
        exitStatus: 7,
        cause: error,
      });
    }
    if (existsSync('/run/systemd/system')) await run('systemctl', ['daemon-reload']);
    this.log(`wrote ${UNIT_PATH}; start it with: systemctl enable --now homeproxy`);
    return { ok: true, unit: UNIT_PATH };
  }
}
