import { readdirSync } from 'node:fs';
import { BEHIND_NICE, sessionsCompete } from '../../cli/system/priority.js';
import { readText } from '../../cli/system/procfs.js';

/** Nice values of a process's threads: those that work for lines to other nodes, and all others. */
export function threadNices(pid: number | 'self' = 'self'): { readonly line: number[]; readonly other: number[] } {
  const found = { line: [] as number[], other: [] as number[] };
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const stat = readText(`/proc/${pid}/task/${thread}/stat`);
    if (stat === undefined) continue; // its work is over
    const nice = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
    found[stat.includes('(homeproxy-line)') ? 'line' : 'other'].push(nice);
  }
  return found;
}

/** The nice value of a process's session among others; NaN where the kernel makes no groups of sessions. */
export function sessionNice(pid: number | 'self' = 'self'): number {
  return Number(/ nice (-?\d+)$/m.exec(readText(`/proc/${pid}/autogroup`) ?? '')?.[1] ?? Number.NaN);
}

/** Whether what a process copies goes behind others: its session, or where sessions do not compete, its line's threads. */
export function copiesBehind(pid: number = process.pid): boolean {
  if (sessionsCompete(pid)) return sessionNice(pid) === BEHIND_NICE;
  const { line } = threadNices(pid);
  return line.length > 0 && line.every((nice) => nice === BEHIND_NICE);
}

/** What a process has when it copies nothing. */
export function rankOf(pid: number): { readonly session: number; readonly threads: number[] } {
  return { session: sessionNice(pid), threads: [...new Set(threadNices(pid).other)] };
}
