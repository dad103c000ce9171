import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { constants, getPriority, setPriority } from 'node:os';
import { dirname, join } from 'node:path';
import { unifiedMount } from './cgroup.js';
import { readText } from './procfs.js';

/** sched(7): where one other wants the processor as well, a thirtieth of it is left (weights of 36 and 1024). */
export const BEHIND_NICE = 15;

/**
 * Lets a process run ahead of ordinary load. Where the kernel groups tasks by session (sched_autogroup, sched(7)), a nice
 * value counts only within the session, and the session has one of its own. What is not permitted is left as it is: freezes
 * are then longer on a busy machine, nothing else.
 * @param pid ours by default; its children inherit both.
 */
export function favour(pid: number = process.pid): void {
  const { PRIORITY_HIGH } = constants.priority;
  rank(pid, { nice: PRIORITY_HIGH, group: PRIORITY_HIGH });
}

/**
 * Lets processes go behind ordinary load: with what else is in their sessions, or where sessions do not compete, all their threads.
 * What is not permitted is left as it is.
 * @returns gives each what it had before, threads what the first had
 */
export function giveWay(pids: readonly number[]): () => void {
  const former = pids.map((pid) =>
    sessionsCompete(pid) ? { pid, group: groupNice(pid) } : { pid, nice: niceOf(pid), threads: true },
  );
  for (const { pid, ...had } of former) rank(pid, lowered(had));
  return () => {
    for (const { pid, ...had } of former) rank(pid, had);
  };
}

/**
 * The session of this process among the others of the machine: behind them while somebody here wants that and nothing is urgent.
 * Its threads have nice values of their own, which count within it.
 */
class OwnSession {
  private readonly waiting = new Set<unknown>();
  private readonly urgent = new Set<unknown>();
  private usual: number | undefined;

  /** @param who until {@link goOn} is said for it as well */
  giveWay(who: unknown): void {
    this.waiting.add(who);
    this.settle();
  }

  goOn(who: unknown): void {
    this.waiting.delete(who);
    this.settle();
  }

  /** Nobody's giving way counts, until {@link calm} is said for it as well. */
  hurry(who: unknown): void {
    this.urgent.add(who);
    this.settle();
  }

  calm(who: unknown): void {
    this.urgent.delete(who);
    this.settle();
  }

  private settle(): void {
    const behind = this.waiting.size > 0 && this.urgent.size === 0;
    if (behind === (this.usual !== undefined)) return;
    if (behind) {
      this.usual = groupNice(process.pid);
      rank(process.pid, lowered({ group: this.usual }));
    } else {
      rank(process.pid, { group: this.usual });
      this.usual = undefined;
    }
  }
}

/**
 * Whether this process's session is what the kernel ranks among others, and not each thread (or a cgroup of it). A nice value of
 * one thread must then not differ from the others': a session's weight on a processor is its threads' part of its weight there.
 */
export function sessionsCompete(pid: number = process.pid): boolean {
  if (readText('/proc/sys/kernel/sched_autogroup_enabled')?.trim() !== '1') return false;
  return groupNice(pid) !== undefined && !hasProcessorCgroup(pid);
}

/** Below a cgroup with a weight of its own, sessions are none (`task_wants_autogroup` in kernel/sched/autogroup.c). */
function hasProcessorCgroup(pid: number): boolean {
  const lines = (readText(`/proc/${pid}/cgroup`) ?? '').split('\n').map((line) => line.split(':'));
  const path = (match: (controllers: string) => boolean): string =>
    lines
      .find(([, controllers]) => match(controllers ?? ''))
      ?.slice(2)
      .join(':') ?? '/';
  const [classic, unified] = [path((names) => names.split(',').includes('cpu')), path((names) => names === '')];
  if (classic !== '/') return true;
  const mount = quietly(unifiedMount);
  if (mount === undefined) return false;
  for (let at = unified; ; at = dirname(at)) {
    if (existsSync(join(mount, at, 'cpu.weight'))) return true; // only the very first cgroup has none, also where it is hidden
    if (at === dirname(at)) return false;
  }
}

/** The daemon's. */
export const ownSession = new OwnSession();

/** Nice values, where there is something to set; `threads`: of all threads that the process has, not of the first alone. */
interface Rank {
  readonly nice?: number | undefined;
  readonly group?: number | undefined;
  readonly threads?: boolean;
}

function lowered({ nice, group, threads = false }: Rank): Rank {
  return {
    threads,
    nice: nice === undefined ? undefined : BEHIND_NICE,
    group: group === undefined ? undefined : BEHIND_NICE,
  };
}

function rank(pid: number, { nice, group, threads = false }: Rank): void {
  if (nice !== undefined) {
    for (const thread of threads ? threadsOf(pid) : [pid]) quietly(() => setPriority(thread, nice));
  }
  if (group !== undefined) quietly(() => writeFileSync(`/proc/${pid}/autogroup`, String(group)));
}

function threadsOf(pid: number): number[] {
  return (quietly(() => readdirSync(`/proc/${pid}/task`)) ?? []).map(Number);
}

function niceOf(pid: number): number | undefined {
  return quietly(() => getPriority(pid));
}

/** Undefined where the kernel makes no groups of sessions. */
function groupNice(pid: number): number | undefined {
  const nice = / nice (-?\d+)$/m.exec(readText(`/proc/${pid}/autogroup`) ?? '')?.[1];
  return nice === undefined ? undefined : Number(nice);
}

function quietly<Result>(act: () => Result): Result | undefined {
  try {
    return act();
  } catch {
    return undefined; // no permission, no such process any more, or a kernel without groups
  }
}
