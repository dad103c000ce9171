import { type Command, Config } from '@oclif/core';
import { packageVersion, projectFile } from '../system/project.js';
import { entry, paragraphs, roff } from './roff.js';

const FILES: readonly (readonly [string, string])[] = [
  [
    '/etc/homeproxy/homeproxy.yaml',
    'the configuration: `config/homeproxy.example.yaml` in the package shows every setting',
  ],
  ['/run/homeproxy/control.sock', 'where commands ask the daemon; for root, and the group that control.group names'],
  ['/var/lib/homeproxy', 'the journal of migrations: must survive a reboot'],
  ['/sys/fs/bpf/homeproxy', 'pinned programs, links and maps: forwarding goes on without the daemon'],
];

/** The manual page homeproxy(8) in roff, from what the commands say of themselves. */
export async function manual(): Promise<string> {
  const config = await Config.load(projectFile(''));
  const [summary = '', ...more] = (config.pjson.oclif.description ?? '').split('\n\n');
  const [statuses = '', ...rest] = more;
  const own = config.commands
    .filter(({ pluginName, hidden }) => pluginName === config.name && hidden !== true)
    .sort((a, b) => (a.id < b.id ? -1 : 1));
  return `.\\" Made from what the commands say of themselves: node dist/cli/manual/generate-manual.js
.TH HOMEPROXY 8 "" "homeproxy ${roff(packageVersion())}" "homeproxy"
.SH NAME
homeproxy \\- ${roff(summary.charAt(0).toLowerCase() + summary.slice(1))}
.SH SYNOPSIS
.B homeproxy
.I command
.RI [ arguments ]
.RB [ \\-\\-json ]
.RB [ \\-\\-help ]
.SH DESCRIPTION
${paragraphs(rest.join('\n\n'))}
.SH COMMANDS
${own.map((command) => section(command)).join('\n')}
.SH EXIT STATUS
${statuses
  .split('\n')
  .slice(1)
  .map((line) => line.trim().split(/\s{2,}/))
  .map(([status = '', meaning = '']) => entry(status, meaning))
  .join('\n')}
.SH FILES
${FILES.map(([file, meaning]) => entry(file, meaning)).join('\n')}
.SH SEE ALSO
.BR criu (8),
.BR bpf (2),
.BR tc (8)
`;
}

function section({ id, summary = '', description = '', args, flags, examples = [] }: Command.Loadable): string {
  const name = id.replaceAll(':', ' ');
  const positional = Object.values(args).map((arg) =>
    arg.required === true ? arg.name.toUpperCase() : `[${arg.name.toUpperCase()}]`,
  );
  const options = Object.values(flags).filter((flag) => flag.name !== 'json' && flag.hidden !== true);
  return [
    `.SS ${roff([name, ...positional].join(' '))}`,
    paragraphs(plain(summary, id)),
    ...(description === '' ? [] : ['.PP', paragraphs(plain(description, id))]),
    ...Object.values(args).map((arg) => entry(arg.name.toUpperCase(), plain(arg.description ?? '', id))),
    ...options.map((flag) => entry(flagTag(flag), plain(flag.description ?? flag.summary ?? '', id))),
    ...(examples.length === 0
      ? []
      : [
          '.PP',
          'For example:',
          '.PP',
          '.EX',
          ...examples.map((example) => roff(plain(exampleText(example), id))),
          '.EE',
        ]),
  ].join('\n');
}

function flagTag(flag: Command.Flag.Any): string {
  const value = flag.type === 'boolean' ? '' : ` ${flag.helpValue ?? flag.name.toUpperCase()}`;
  return `${flag.char === undefined ? '' : `-${flag.char}, `}--${flag.name}${value}`;
}

function exampleText(example: Command.Example): string {
  if (typeof example === 'string') return `    ${example}`;
  return `    ${example.command}${example.description === undefined ? '' : `    # ${example.description}`}`;
}

/** oclif's templates, filled in. */
function plain(text: string, id: string): string {
  return text.replaceAll('<%= config.bin %>', 'homeproxy').replaceAll('<%= command.id %>', id.replaceAll(':', ' '));
}
