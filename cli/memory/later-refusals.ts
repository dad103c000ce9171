import { UserError } from '../errors.js';
import type { Verdict } from '../process/description.js';
import { refused } from '../process/verdicts.js';
import { readText } from '../system/procfs.js';
import { whyNoPager } from './pager.js';

/** Flags of a mapping (proc_pid_smaps(5)) with which its pages cannot come later, and why. */
const AGAINST: Readonly<Record<string, string>> = {
  lo: 'it has locked memory (mlock): all of that has to be there',
  wf: 'it has memory that its children find empty (MADV_WIPEONFORK): a pager cannot know of that',
};

/** @throws {UserError} `NOT_POST_COPY`: some of its memory must not be missing while it runs. */
export function refusePostCopy(pid: number): void {
  const flags = new Set(
    (readText(`/proc/${pid}/smaps`) ?? '').match(/^VmFlags:.*$/gm)?.flatMap((line) => line.split(' ')),
  );
  for (const [flag, words] of Object.entries(AGAINST)) {
    if (!flags.has(flag)) continue;
    throw new UserError({
      code: 'NOT_POST_COPY',
      message: `process ${pid} cannot run before its memory is there: ${words}`,
      remedy: 'move it without --mode post-copy',
      exitStatus: 3,
    });
  }
}

/** What speaks against a process here some of whose memory follows it. */
export async function pagerVerdicts(): Promise<Verdict[]> {
  const why = await whyNoPager();
  if (why === undefined) return [];
  return [
    refused(
      'NO_USERFAULTFD',
      'memory',
      `the destination cannot hold a process back from memory that has not come (${why})`,
      'move it without --mode post-copy, or use a kernel with CONFIG_USERFAULTFD there',
    ),
  ];
}
