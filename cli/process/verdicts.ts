import type { Verdict } from './description.js';

/** CRIU, the datapath or the destination cannot do it: nothing is touched. */
export function refused(code: string, subject: string, reason: string, remedy: string): Verdict {
  return { outcome: 'refused', code, subject, reason, remedy };
}

/** It moves, and something about it is not as before; or nobody can know from outside. */
export function willChange(code: string, subject: string, reason: string, remedy?: string): Verdict {
  return { outcome: 'will-change', code, subject, reason, ...(remedy === undefined ? {} : { remedy }) };
}

export function ok(code: string, subject: string, reason: string): Verdict {
  return { outcome: 'ok', code, subject, reason };
}

/** `1 file`, `3 files`. */
export function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`;
}
