import { Errors, ux } from '@oclif/core';
import {
  asHomeproxyError,
  BugError,
  type ErrorDocument,
  ExternalError,
  type HomeproxyError,
  UserError,
} from './errors.js';
import { printable } from './printable.js';

/** The status of a thrown value that only asks to exit (`this.exit(n)`), or undefined when it is a real error. */
export function requestedExit(thrown: unknown): number | undefined {
  if (!(thrown instanceof Errors.ExitError)) return undefined;
  return thrown.oclif.exit ?? 0;
}

/**
 * Any value thrown in a command as one of our three kinds: oclif's parse and usage errors become `USAGE` (exit 2), an
 * abort (Ctrl-C) becomes `INTERRUPTED` (exit 130), everything unknown a bug.
 */
export function describeThrown(thrown: unknown, commandId?: string): HomeproxyError {
  if (thrown instanceof Errors.CLIError) {
    const help = commandId === undefined ? 'homeproxy --help' : `homeproxy ${commandId.replaceAll(':', ' ')} --help`;
    return new UserError({
      code: 'USAGE',
      message: thrown.message.replace(/\n\nNote: [\s\S]*|\n?See more help with --help$/, '').trim(),
      remedy: thrown.suggestions?.join(', ') || help,
      exitStatus: 2,
      cause: thrown,
    });
  }
  if (thrown instanceof Error && thrown.name === 'AbortError') {
    if (thrown.cause instanceof Error && thrown.cause !== thrown) return describeThrown(thrown.cause, commandId);
    return new UserError({ code: 'INTERRUPTED', message: 'interrupted', exitStatus: 130, cause: thrown });
  }
  return asHomeproxyError(thrown);
}

/** The human form: several lines, without a newline at the end. The stack is added when `debug` is set. */
export function errorText(error: HomeproxyError, debug = false): string {
  const lines = [`${ux.colorize('red', `error ${printable(error.code)}:`)} ${printable(error.message)}`];
  if (error instanceof ExternalError) {
    if (error.command !== '') lines.push(`  command: ${printable(error.command)}`);
    for (const line of error.log) lines.push(`  | ${printable(line)}`);
  }
  if (error.remedy !== undefined)
    lines.push(`  ${error instanceof BugError ? 'this is a bug' : 'try'}: ${printable(error.remedy)}`);
  if (debug) lines.push(...stackLines(error));
  else if (error instanceof BugError) lines.push('  HOMEPROXY_DEBUG=1 shows where it happened');
  return lines.join('\n');
}

/** The form under `--json`. */
export function errorJson(error: HomeproxyError): { error: ErrorDocument } {
  return { error: error.toDocument() };
}

/** One line of JSON for any result: BigInt becomes a number where that is exact, else a string of digits. */
export function jsonLine(value: unknown): string {
  const text = JSON.stringify(value ?? null, (_key, part: unknown) => {
    if (typeof part !== 'bigint') return part;
    const number = Number(part);
    return Number.isSafeInteger(number) ? number : part.toString();
  });
  // JSON has no need to, but the C1 controls among them begin escape sequences on some terminals.
  return text.replace(/[\u007f-\u009f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`);
}

/**
 * Ends the process for a value that no command caught (an unknown command, a module that does not load) or for an exit
 * that a command asked for. Only the start script calls it.
 */
export function finish(thrown: unknown, argv: readonly string[]): void {
  const status = requestedExit(thrown);
  if (status === undefined) {
    const error = isUnknownCommand(thrown) ? unknownCommand(argv) : describeThrown(thrown);
    const separator = argv.indexOf('--');
    const own = separator === -1 ? argv : argv.slice(0, separator);
    if (own.includes('--json')) process.stdout.write(`${jsonLine(errorJson(error))}\n`);
    else process.stderr.write(`${errorText(error, debugWanted())}\n`);
    process.exit(error.exitStatus);
  }
  process.exit(status);
}

/** oclif's status for a command that it does not find. */
function isUnknownCommand(thrown: unknown): boolean {
  return thrown instanceof Errors.CLIError && thrown.oclif.exit === 127;
}

function unknownCommand(argv: readonly string[]): UserError {
  const firstFlag = argv.findIndex((word) => word.startsWith('-'));
  const name = (firstFlag > 0 ? argv.slice(0, firstFlag) : argv).join(' ');
  return new UserError({
    code: 'USAGE',
    message: `"${name}" is not a command of homeproxy`,
    remedy: 'homeproxy help',
    exitStatus: 2,
  });
}

export function debugWanted(): boolean {
  const value = process.env.HOMEPROXY_DEBUG;
  return value !== undefined && value !== '' && value !== '0';
}

function stackLines(error: Error): string[] {
  const lines = (error.stack ?? '').split('\n').slice(1);
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    lines.push(`  caused by ${cause.name}: ${cause.message}`, ...(cause.stack ?? '').split('\n').slice(1));
  }
  return lines;
}
