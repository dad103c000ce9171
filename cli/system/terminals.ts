import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Consoles and serial lines in /dev, beside the pseudo terminals of ssh, desktops and screens in /dev/pts. */
const CONSOLE = /^tty([1-9]\d*|[A-Z]+\d+)$|^hvc\d+$/;
const PSEUDO = /^\d+$/;

/**
 * How long ago somebody typed at a terminal of this machine: as w(1) finds it, by the time of the last access, which the kernel
 * moves on, in steps of 8 s, whenever a program reads what was typed (drivers/tty/tty_io.c, tty_update_time). Guests' terminals
 * are in file systems of their own.
 * @param at now, in milliseconds since the epoch
 * @returns milliseconds; null when there is no terminal at which anybody ever typed
 */
export function terminalIdleMs(at: number, folder = '/dev'): number | null {
  const consoles = list(folder).filter((name) => CONSOLE.test(name));
  const pseudo = list(join(folder, 'pts')).filter((name) => PSEUDO.test(name));
  const times = [...consoles, ...pseudo.map((name) => join('pts', name))].flatMap((name) =>
    typedAt(join(folder, name)),
  );
  return times.length === 0 ? null : Math.max(0, at - Math.max(...times));
}

/** Nothing for what is no terminal, and for a console that nobody has used: it has all its times from when it was made. */
function typedAt(path: string): number[] {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined || !found.isCharacterDevice()) return [];
  const untouched = found.atimeMs === found.birthtimeMs && !path.includes('/pts/');
  return untouched ? [] : [found.atimeMs];
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // no devpts
  }
}
