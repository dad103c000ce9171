// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';

/** A descriptor of a process. */
export interface Opened {
  readonly pid: number;
  readonly fd: number;
}

/**
 * Which descriptors of two groups are the same open file description (kcmp(2): one of dup or fork, with one offset for both), on
 * another thread; a microsecond or so for each of `theirs`. Those that are closed meanwhile, or that we may not look at
 * (ptrace(2), PTRACE_MODE_READ_REALCREDS), are none of them. Of `ours` the first stands for those that are the same.
 */
export async function sameFiles<Ours extends Opened, Theirs extends Opened>(
  ours: readonly Ours[],
  theirs: readonly Theirs[],
): Promise<(readonly [ours: Ours, theirs: Theirs])[]> {
  const pairs = await native.sameFiles(numbersOf(ours), numbersOf(theirs));
  const found: (readonly [Ours, Theirs])[] = [];
  for (let at = 0; at < pairs.length; at += 2) {
    const [one, other] = [ours[pairs[at] ?? -1], theirs[pairs[at + 1] ?? -1]];
    if (one !== undefined && other !== undefined) found.push([one, other]);
  }
  return found;
}

function numbersOf(opened: readonly Opened[]): Int32Array {
  return Int32Array.from(opened.flatMap(({ pid, fd }) => [pid, fd]));
}
