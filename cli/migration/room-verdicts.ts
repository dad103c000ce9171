import { existsSync } from 'node:fs';
import type { ProcessDescription, Verdict } from '../process/description.js';
import { readProcess } from '../system/procfs.js';

export interface Room {
  /** This node is its home. */
  readonly returning: boolean;
  /** This node is being emptied. */
  readonly draining: boolean;
}

/** What speaks against a process here, before anything is made. */
export function roomVerdicts(description: ProcessDescription, { returning, draining }: Room): Verdict[] {
  return [
    ...(draining ? [beingDrained(description)] : []),
    ...missingFiles(description),
    ...(returning ? takenPids(description) : []),
  ];
}

function beingDrained({ homePid }: ProcessDescription): Verdict {
  return {
    outcome: 'refused',
    code: 'DRAINING',
    subject: `process ${homePid}`,
    reason: 'the destination is being drained and takes no process',
    remedy: 'choose another node, or run `homeproxy undrain` there',
  };
}

/** `shared` files: the same paths must exist here; what they hold is the administrator's word. */
function missingFiles(description: ProcessDescription): Verdict[] {
  return description.executables
    .filter((path) => !existsSync(path))
    .map((path) => ({
      outcome: 'refused' as const,
      code: 'FILE_MISSING',
      subject: path,
      reason: 'the process runs this file, and the destination does not have it',
      remedy: 'install the same package there, at the same path',
    }));
}

function takenPids(description: ProcessDescription): Verdict[] {
  return description.pids
    .filter((pid) => readProcess(pid) !== undefined)
    .map((pid) => ({
      outcome: 'refused' as const,
      code: 'PID_TAKEN',
      subject: `pid ${pid}`,
      reason: `at home this number now belongs to ${readProcess(pid)?.comm ?? 'another process'}`,
      remedy: 'end that process, or leave this one where it is',
    }));
}
