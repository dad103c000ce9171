import { closeSync, constants, openSync } from 'node:fs';
import { memfdSeals, sameFiles } from '../../addon/lib/index.js';
import { readProcess } from '../system/procfs.js';
import type { Verdict } from './description.js';
import type { TreeDescriptor } from './descriptor-verdicts.js';
import { statOf } from './memory-map.js';
import { openFileOf } from './open-file.js';
import { opensForWriting, opensToAppend } from './open-mode.js';
import { identityOf } from './shared-memory.js';
import type { Holder } from './sockets.js';
import { refused, willChange } from './verdicts.js';

/** Descriptors without a name whose state a fork shares: what one of both does, the other sees. */
const REFUSED: Readonly<Record<string, readonly [one: string, more: string]>> = {
  'anon_inode:[eventfd]': ['an eventfd', 'eventfds'],
  'anon_inode:[eventpoll]': ['an epoll instance', 'epoll instances'],
  'anon_inode:[timerfd]': ['a timerfd', 'timerfds'],
  'anon_inode:inotify': ['an inotify instance', 'inotify instances'],
  'anon_inode:[fanotify]': ['a fanotify group', 'fanotify groups'],
};
/** Whoever reads one is told of his own signals (signalfd(2)): shared is the set alone. */
const SIGNALFD = 'anon_inode:[signalfd]';
const MEMFD = '/memfd:';
const F_SEAL_WRITE = 8; // include/uapi/linux/fcntl.h
const REMEDY = 'move the process that both come from, or let one of them close it';

/** Whether somebody outside may share what a link of this kind stands for; sockets, pipes and terminals are judged apart. */
export function mayBeShared(target: string): boolean {
  if (target in REFUSED || target === SIGNALFD || target.startsWith(MEMFD)) return true;
  return target.startsWith('/') && !/^\/(proc|sys|dev)(\/|$)/.test(target);
}

/** A descriptor of the tree, and one outside of it that is the same open file description; or another of the same memfd. */
type Shared = readonly [ours: TreeDescriptor, theirs: Holder];

/**
 * Open file descriptions that a tree has in common with a process that stays: inherited, or passed through a unix socket. After a
 * move each of them has its own.
 * @param alike whose descriptors outside the tree have the same link as one of the tree, by that link
 * @param apart files that are judged apart, by {@link identityOf}
 */
export async function sharedDescriptorVerdicts(
  descriptors: readonly TreeDescriptor[],
  alike: ReadonlyMap<string, readonly Holder[]>,
  apart: ReadonlySet<string>,
): Promise<Verdict[]> {
  if (alike.size === 0) return [];
  const found: Shared[] = [];
  for (const [target, theirs] of alike) {
    const ours = descriptors.filter((descriptor) => descriptor.target === target);
    found.push(...(target.startsWith(MEMFD) ? sameMemory(ours, theirs) : await sameFiles(ours, theirs)));
  }
  const byKind = new Map<string, Shared[]>();
  for (const shared of found) {
    const [{ target }] = shared;
    const kind = target.startsWith(MEMFD) ? MEMFD : target;
    byKind.set(kind, [...(byKind.get(kind) ?? []), shared]);
  }
  return [...byKind].flatMap(([target, shared]) => {
    if (target in REFUSED || target === MEMFD) return refusal(REFUSED[target] ?? ['a memfd', 'memfds'], shared);
    if (target === SIGNALFD) return onlyFirst(shared, signals);
    return onlyFirst(shared, (one) => file(one, apart));
  });
}

/** Of a memfd the content counts, by whichever description it is reached; one that is sealed nobody can write any more. */
function sameMemory(ours: readonly TreeDescriptor[], theirs: readonly Holder[]): Shared[] {
  const inode = ({ pid, fd }: Holder): number | undefined => statOf(`/proc/${pid}/fd/${fd}`)?.ino;
  const outside = new Map(theirs.map((holder) => [inode(holder), holder]));
  return ours.flatMap((descriptor): Shared[] => {
    const own = inode(descriptor);
    const holder = outside.get(own);
    return own === undefined || holder === undefined || isSealed(descriptor) ? [] : [[descriptor, holder]];
  });
}

function isSealed({ pid, fd }: Holder): boolean {
  let own: number;
  try {
    own = openSync(`/proc/${pid}/fd/${fd}`, constants.O_RDONLY);
  } catch {
    return false; // closed meanwhile
  }
  try {
    return (memfdSeals(own) & F_SEAL_WRITE) !== 0;
  } finally {
    closeSync(own);
  }
}

function refusal([one, more]: readonly [string, string], shared: readonly Shared[]): Verdict[] {
  return onlyFirst(shared, (first) => {
    const distinct = new Set(shared.map(([{ pid, fd }]) => `${pid} ${fd}`)).size;
    const what = distinct === 1 ? one : `${distinct} ${more}`;
    const reason = `it shares ${what} with ${nameOf(first)}, which stays: each would go on with its own`;
    return refused('SHARED_DESCRIPTOR', subjectOf(first), reason, REMEDY);
  });
}

function signals(shared: Shared): Verdict {
  return willChange(
    'SHARED_DESCRIPTOR',
    subjectOf(shared),
    `it shares a signalfd with ${nameOf(shared)}, which stays: each has its own set of signals then`,
  );
}

/** A file that both have open at once has one offset for both (open(2)). */
function file(shared: Shared, apart: ReadonlySet<string>): Verdict | undefined {
  const [{ pid, fd }] = shared;
  const open = openFileOf(pid, fd);
  if (open === undefined || !open.stats.isFile() || apart.has(identityOf(open.stats))) return undefined;
  const writes = opensForWriting(pid, fd);
  const common = `it has ${open.target} open in common with ${nameOf(shared)}, which stays: `;
  const [reason, remedy] = !writes
    ? ['they share their place in it; each reads on by itself then']
    : opensToAppend(pid, fd)
      ? ['each appends to the file of its own node then']
      : [
          'they share their place in it; each has its own then, and may write over what the other wrote',
          'let each of them open the file, to append (`>>`)',
        ];
  return willChange('SHARED_DESCRIPTOR', subjectOf(shared), common + reason, remedy);
}

function onlyFirst(shared: readonly Shared[], verdict: (first: Shared) => Verdict | undefined): Verdict[] {
  const [first] = shared;
  const said = first === undefined ? undefined : verdict(first);
  return said === undefined ? [] : [said];
}

function subjectOf([{ pid, fd }]: Shared): string {
  return `fd ${fd} of pid ${pid}`;
}

function nameOf([, { pid }]: Shared): string {
  return `pid ${pid} (${readProcess(pid)?.comm ?? '?'})`;
}
