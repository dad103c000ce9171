import { UserError } from '../errors.js';
import { readText } from '../system/procfs.js';

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
