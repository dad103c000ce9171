import { constants } from 'node:os';

/** `EPERM`; of a number that this system does not know: `errno 524`. */
export function errnoName(errno: number): string {
  const found = Object.entries(constants.errno).find(([, number]) => number === errno);
  return found?.[0] ?? `errno ${errno}`;
}
