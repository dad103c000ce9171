import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Args, ux } from '@oclif/core';
import { ConfiguredCommand } from '../base-command.js';
import { checkLines, type ProcessCheck } from '../check-report.js';
import { type FileFlags, fileFlags, filesAsked, optionalPid } from '../migrating-command.js';
import { assessMethod, inspectMethod } from '../node/control-methods.js';
import { callControl } from '../node/control-transport.js';
import type { Finding } from '../preflight/finding.js';
import { checkMachine } from '../preflight/machine.js';
import type { Verdict } from '../process/description.js';
import { projectFile } from '../system/project.js';

export default class Check extends ConfiguredCommand {
  static override summary = 'Check this machine, or whether a process can be moved.';
  static override description =
    `Without arguments: kernel, CRIU (by a real dump and restore), interfaces, configuration. One line each, with the remedy.
Changes nothing; needs no daemon.

With PID: what would move with that process, and what stops it. Asks the daemon, which reads /proc and the kernel's tables of
sockets: nothing stops, traces or signals the process. With HOST also what that node says: files (compared by SHA-256),
processor, memory, privileges, versions. Each verdict is "refused", "will change" or "in order", with its reason and what to
do about it. \`migrate\` asks the same before it touches anything.

Exit status: 0 all well, warnings only, or it can be moved; 3 the process cannot be moved, or there is none; 4 HOST cannot be
reached or is not trusted; 7 something that is needed is missing.`;
  static override examples = [
    '<%= config.bin %> <%= command.id %>',
    { description: 'What would stop process 4242 from leaving', command: '<%= config.bin %> <%= command.id %> 4242' },
    { description: 'May it go to host1?', command: '<%= config.bin %> <%= command.id %> 4242 host1' },
    {
      description: 'The codes of what is against it',
      command:
        '<%= config.bin %> <%= command.id %> 4242 host1 --json | jq -r \'.verdicts[] | select(.outcome == "refused") | .code\'',
    },
  ];

  static override args = {
    pid: optionalPid,
    host: Args.string({ required: false, description: 'name of a node in the configuration (`homeproxy hosts`)' }),
  };

  static override flags = fileFlags;

  async run(): Promise<{ ok: boolean; findings: Finding[] } | ProcessCheck> {
    const { args, flags } = await this.parse(Check);
    return args.pid === undefined ? this.checkMachine(flags.config) : this.checkProcess(args.pid, args.host, flags);
  }

  private async checkProcess(pid: number, to: string | undefined, files: FileFlags): Promise<ProcessCheck> {
    const socket = join((await this.loadConfig()).paths.run, 'control.sock');
    const found =
      to === undefined
        ? await callControl(socket, inspectMethod, { pid, ...filesAsked(files) })
        : await callControl(socket, assessMethod, { pid, to, ...filesAsked(files) });
    const { from, moving } = found;
    const verdicts = found.verdicts as readonly Verdict[];
    const refused = verdicts.some(({ outcome }) => outcome === 'refused');
    const outcome = refused ? 'refused' : 'possible';
    const check: ProcessCheck = { pid, from, ...(to === undefined ? {} : { to }), outcome, moving, verdicts };
    for (const line of checkLines(check)) this.log(line);
    if (refused) process.exitCode = 3;
    return check;
  }

  private async checkMachine(file: string): Promise<{ ok: boolean; findings: Finding[] }> {
    const config = existsSync(file) ? await this.loadConfig() : undefined;
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
        detail: `${file} does not exist: interfaces were not looked at`,
        remedy: `copy ${projectFile('config/homeproxy.example.yaml')} there and edit it`,
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
