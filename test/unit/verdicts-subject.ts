import type { Verdict } from '../../cli/process/description.js';
import { type Examination, examineProcess } from '../../cli/process/examine.js';
import { readProcess } from '../../cli/system/procfs.js';
import { Subject, until } from './private-world.js';

/** What every program of these tests begins with; `ready()` says that it is in its state, and keeps it there. */
const PRELUDE = `
import ctypes, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *words):
    result = libc.syscall(number, *words)
    if result < 0: raise OSError(ctypes.get_errno(), f'system call {number}')
    return result
def ready():
    with open('/proc/self/comm', 'w') as comm: comm.write('ready')
    time.sleep(3600)
`;

export const HOME = '10.77.0.2';

/** Starts a Python program that comes into a state and stays in it. `cannot`: what it says when this kernel has no such state. */
export async function startInState(source: string): Promise<Subject> {
  const subject = Subject.silent(`${PRELUDE}\n${source}\nready()`);
  await until('the program is in its state', () => {
    const { comm, state } = readProcess(subject.pid) ?? { comm: '', state: 'X' };
    if (state === 'Z' || state === 'X') throw new Error(`the program has failed:\n${source}`);
    return comm === 'ready';
  });
  return subject;
}

export async function examine(pid: number): Promise<Examination> {
  return await examineProcess(pid, { homeAddresses: [HOME, 'fd77::2'], ownPids: [process.pid] });
}

/** Of the tests themselves: the limits and unit of their cgroup, and that they are the parent of each subject. */
const OURS = new Set(['SERVICE', 'CGROUP_LIMITS', 'PARENT_STAYS']);

/** All but what is in order; and but what depends on who runs the tests. */
export function objections(verdicts: readonly Verdict[]): Verdict[] {
  return verdicts.filter(({ outcome, code }) => outcome !== 'ok' && !OURS.has(code));
}

export const words = (verdicts: readonly Verdict[]): string[] =>
  objections(verdicts).map(({ outcome, code }) => `${outcome} ${code}`);
