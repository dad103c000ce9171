import { writeFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';

/**
 * Lets a process run ahead of ordinary load. Where the kernel groups tasks by session (sched_autogroup, sched(7)), a nice
 * value counts only within the session, and the session has one of its own. What is not permitted is left as it is: freezes
 * are then longer on a busy machine, nothing else.
 * @param pid ours by default; its children inherit both.
 */
export function favour(pid: number = process.pid): void {
  quietly(() => setPriority(pid, constants.priority.PRIORITY_HIGH));
  quietly(() => writeFileSync(`/proc/${pid}/autogroup`, String(constants.priority.PRIORITY_HIGH)));
}

function quietly(act: () => void): void {
  try {
    act();
  } catch {
    // no permission, no such process any more, or a kernel without groups
  }
}
