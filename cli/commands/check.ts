import { existsSync } from 'node:fs';
import { ux } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import type { Finding } from '../preflight/finding.js';
import { checkMachine } from '../preflight/machine.js';

export default class Check extends ConfiguredCommand {
  static override summary = 'Check this machine: kernel, CRIU (by a real dump and restore), interfaces, configuration.';
  static override description = `One line each, with the remedy. Changes nothing; needs no daemon.

Exit status: 0 all well, or warnings only; 7 something that is needed is missing.`;
  static override examples = ['<%= config.bin %> <%= command.id %>', '<%= config.bin %> <%= command.id %> --json'];

  async run(): Promise<{ ok: boolean; findings: Finding[] }> {
    const { flags } = await this.parse(Check);
    const config = existsSync(flags.config) ? await this.loadConfig() : undefined;
    const { checkCheckpoint } = await import('../preflight/checkpoint.js'); // loads the addon, which other commands need not
    const findings = [
      ...checkMachine(config?.paths ?? { run: '/run/homeproxy', bpf: '/sys/fs/bpf/homeproxy' }),
      ...(await checkCheckpoint(config?.criu.path ?? 'auto')),
    ];
    if (config !== undefined) {
      const { checkUplinks } = await import('../preflight/uplinks.js');
      findings.push(...(await checkUplinks(config)));
    } else {
      findings.push({
        check: 'configuration',
        outcome: 'warning',
        detail: `${flags.config} does not exist: interfaces were not looked at`,
        remedy: 'copy config/homeproxy.example.yaml there and edit it',
      });
    }
    for (const finding of findings) this.log(line(finding));
    const passed = findings.every(({ outcome }) => outcome !== 'failed');
    if (!passed) process.exitCode = 7;
    return { ok: passed, findings };
  }
}

const MARKS = {
  ok: ux.colorize('green', 'ok     '),
  warning: ux.colorize('yellow', 'warning'),
  failed: ux.colorize('red', 'failed '),
};

function line({ check, outcome, detail, remedy }: Finding): string {
  return `${MARKS[outcome]} ${check.padEnd(18)} ${detail}${remedy === undefined ? '' : `\n        try: ${remedy}`}`;
}
