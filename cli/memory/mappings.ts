import type { Range } from './records.js';

/** Smaller mappings are CRIU's: each that is moved costs the restore some system calls. */
const MIN_BYTES = 1 << 20;
/** More than CRIU's side takes (addon/src/criu-memory.c) go to CRIU as well: the largest are ours. */
const MAX_MAPPINGS = 1500;

/**
 * The mappings of a process that are moved without CRIU: private, anonymous, readable and large (proc_pid_maps(5)). Stacks that
 * grow by themselves are CRIU's: a mapping that was moved could not grow.
 * @returns in ascending order.
 */
export function ownMappings(maps: string): Range[] {
  const found: Range[] = [];
  for (const line of maps.split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) r..p 0+ 00:00 0 *(\[heap\]|\[anon:.*\]|)$/.exec(line);
    if (match === null) continue;
    const range = { start: Number.parseInt(match[1] ?? '', 16), end: Number.parseInt(match[2] ?? '', 16) };
    if (range.end - range.start >= MIN_BYTES) found.push(range);
  }
  if (found.length <= MAX_MAPPINGS) return found;
  const largest = found.sort((a, b) => b.end - b.start - (a.end - a.start)).slice(0, MAX_MAPPINGS);
  return largest.sort((a, b) => a.start - b.start);
}
