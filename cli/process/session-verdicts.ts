import { readNamespacePids, readProcess, readText, readThreads } from '../system/procfs.js';
import type { ProcessDescription, Verdict } from './description.js';
import { refused, willChange } from './verdicts.js';

/** What a tree has of numbers besides the pids of its processes. All as its own pid namespace has them. */
export interface TreeNumbers {
  /** Session and process group of the root. */
  readonly session: NonNullable<ProcessDescription['session']>;
  /** Threads, and sessions and groups inside the tree whose leader has ended: CRIU makes each of them again under its number. */
  readonly numbers: number[];
}

/** @param pids as this node sees them, the root first */
export function treeNumbers(pids: readonly number[]): TreeNumbers {
  const [root = 0] = pids;
  const session = { id: innermost(root, 'NSsid'), group: innermost(root, 'NSpgid') };
  const processes = new Set(pids.map((pid) => innermost(pid, 'NSpid')));
  const numbers = new Set<number>();
  for (const pid of pids) {
    for (const thread of readThreads(pid)) numbers.add(readNamespacePids(thread).at(-1) ?? thread);
    for (const led of [innermost(pid, 'NSsid'), innermost(pid, 'NSpgid')]) {
      if (led !== session.id && led !== session.group) numbers.add(led);
    }
  }
  return { session, numbers: [...numbers].filter((number) => number > 0 && !processes.has(number)) };
}

/** The last number of such a line: the one that the process knows (proc(5)). A thread has the lines of its process. */
function innermost(pid: number, line: 'NSpid' | 'NSsid' | 'NSpgid'): number {
  const text = readText(`/proc/${pid}/status`) ?? '';
  return Number(new RegExp(`^${line}:.*?(\\d+)$`, 'm').exec(text)?.[1] ?? 0);
}

/** Whether CRIU must be told that the root does not lead its session (`--shell-job`): it then leads a new one itself. */
export function isShellJob({ session, homePid }: Pick<ProcessDescription, 'session' | 'homePid'>): boolean {
  return session !== undefined && session.id !== homePid;
}

/**
 * What stays of the relations between processes: sessions and process groups that begin outside of the tree, and the parent.
 * @param pids the root first
 * @param inPod it lives in a pod of ours: its parent is the pod's init, and what it lost it has lost before.
 */
export function relationVerdicts(pids: readonly number[], inPod: boolean): Verdict[] {
  const [root = 0] = pids;
  const own = readProcess(root);
  if (own === undefined) return [];
  const verdicts: Verdict[] = [];
  if (own.session !== root && !inPod) verdicts.push(sessionStays(root, own));
  const members = new Set(pids);
  for (const pid of pids.slice(1)) {
    const member = readProcess(pid);
    if (member === undefined) continue;
    const { session, group } = member;
    const abroad = (number: number): boolean =>
      number !== own.session && number !== own.group && !members.has(number) && readProcess(number) !== undefined;
    if (abroad(session)) verdicts.push(foreign(pid, 'session', session));
    else if (abroad(group)) verdicts.push(foreign(pid, 'process group', group));
  }
  if (own.parent > 1 && !inPod) verdicts.push(parentStays(root, own.parent));
  return verdicts;
}

/** CRIU lets the tree begin in a session and a group that it makes for it. */
function sessionStays(root: number, { session, group }: { session: number; group: number }): Verdict {
  const leader = readProcess(session)?.comm;
  const whose = leader === undefined ? `whose leader ${session} has ended` : `of pid ${session} (${leader})`;
  const groupToo = group === root || group === session ? '' : `, and to the process group ${group}`;
  return willChange(
    'SESSION',
    `pid ${root}`,
    `it belongs to the session ${whose}${groupToo}: from the move on, at home again too, it has a session${group === root ? '' : ' and a group'} of its own, without a terminal, and no hang-up or signal for the old one reaches it`,
  );
}

function foreign(pid: number, what: 'session' | 'process group', number: number): Verdict {
  return refused(
    'FOREIGN_SESSION',
    `pid ${pid}`,
    `it belongs to the ${what} of pid ${number} (${readProcess(number)?.comm ?? '?'}), which is not in its tree, while the root of the tree does not`,
    'move the process that both come from, or end that child',
  );
}

function parentStays(root: number, parent: number): Verdict {
  return willChange(
    'PARENT_STAYS',
    `pid ${root}`,
    `its parent, pid ${parent} (${readProcess(parent)?.comm ?? '?'}), stays: it sees the process killed (SIGKILL) when it leaves, may start another in its place, and does not get it back as a child`,
    'move the parent with all its children; or make sure that it waits for children that end (the number of a zombie is taken)',
  );
}
