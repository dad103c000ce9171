import { setTimeout as sleep } from 'node:timers/promises';
import type { Lab } from '../../cli/lab/lab.js';
import { Cgroup } from '../../cli/system/cgroup.js';
import { copiesOf } from '../lab/copies.js';

/**
 * Whether the cgroup of a process is frozen at any time in so many milliseconds, as that of one that is slowed down is.
 * @param argument what the command line of that `remembering` has and no other's
 * @throws {Error} when there is not one copy of it
 */
export async function isSlowed(lab: Lab, argument: string | number, ms: number): Promise<boolean> {
  const copies = copiesOf(lab, 'remembering').filter(({ commandLine }) => commandLine.includes(` ${argument} `));
  const [copy] = copies;
  if (copy === undefined || copies.length > 1) throw new Error(`${copies.length} processes with ${argument}`);
  for (const deadline = Date.now() + ms; ; await sleep(2)) {
    if (Cgroup.of(copy.machinePid).frozen) return true;
    if (Date.now() > deadline) return false;
  }
}
