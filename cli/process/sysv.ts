import { run } from '../system/command.js';
import { listProcesses, readNamespace, readProcess, readText } from '../system/procfs.js';
import type { Verdict } from './description.js';
import { isStranger } from './strangers.js';
import { count, refused, willChange } from './verdicts.js';

/** Identifiers of System V objects of one IPC namespace (sysvipc(7)). Plain data for the journal. */
export interface SysvObjects {
  readonly memory: readonly number[];
  readonly queues: readonly number[];
  readonly semaphores: readonly number[];
}

export const NO_OBJECTS: SysvObjects = { memory: [], queues: [], semaphores: [] };

export interface SysvFindings {
  /** What the tree uses of this node's own IPC namespace; none when it lives in another, which is then its own altogether. */
  readonly own: SysvObjects;
  /** All semaphore sets that were asked for their users, or were known before. */
  readonly semaphoresSeen: readonly number[];
  readonly verdicts: readonly Verdict[];
}

const NOTHING_YET = { own: NO_OBJECTS, semaphoresSeen: [] };

interface Segment {
  readonly id: number;
  readonly bytes: number;
  readonly creator: number;
  readonly attached: number;
}

/** CRIU saves all objects of a namespace: those of others go with the tree as copies that nobody uses, up to this much. */
const MAX_BYTES_OF_OTHERS = 16 << 20;

/**
 * The System V objects that a tree uses, by who has attached memory, and who was the last to use a queue or a semaphore. What it shares
 * with processes that stay is refused.
 * @param pids the root first
 * @param before what was found before: those semaphore sets are not asked again, which takes some milliseconds each
 */
export async function sysvFindings(
  pids: readonly number[],
  before: Pick<SysvFindings, 'own' | 'semaphoresSeen'> = NOTHING_YET,
): Promise<SysvFindings> {
  if (readNamespace(pids[0] ?? 0, 'ipc') !== readNamespace('self', 'ipc')) return { ...NOTHING_YET, verdicts: [] };
  const members = new Set(pids);
  const segments = parseSegments(table('shm'));
  const memory = memoryFindings(segments, attachments(segments.length > 0 ? pids : []), members);
  const queues = usersFindings('queue', queueUsers(table('msg')), members);
  const unknown = table('sem').flatMap(([, id]) => (before.semaphoresSeen.includes(Number(id)) ? [] : [Number(id)]));
  const semaphores = usersFindings('semaphore set', await semaphoreUsers(unknown), members);
  const own = {
    memory: memory.own,
    queues: queues.own,
    semaphores: [...before.own.semaphores, ...semaphores.own],
  };
  const semaphoresSeen = [...before.semaphoresSeen, ...unknown];
  const verdicts = [...memory.verdicts, ...queues.verdicts, ...semaphores.verdicts];
  if (!hasObjects(own) || verdicts.length > 0) return { own, semaphoresSeen, verdicts };
  const others = segments.filter(({ id }) => !own.memory.includes(id)).reduce((sum, { bytes }) => sum + bytes, 0);
  const much = others > MAX_BYTES_OF_OTHERS;
  return { own, semaphoresSeen, verdicts: [much ? muchOfOthers(pids, others) : goesAlong(pids, own)] };
}

export function hasObjects({ memory, queues, semaphores }: SysvObjects): boolean {
  return memory.length + queues.length + semaphores.length > 0;
}

/** Removes objects of this node's IPC namespace, those that are left of them. */
export async function removeObjects({ memory, queues, semaphores }: SysvObjects): Promise<void> {
  const options = [
    ...memory.map((id) => ['-m', String(id)]),
    ...queues.map((id) => ['-q', String(id)]),
    ...semaphores.map((id) => ['-s', String(id)]),
  ];
  for (const option of options) await run('ipcrm', option).catch(() => undefined); // gone with its last user
}

function table(kind: 'shm' | 'msg' | 'sem'): string[][] {
  const lines = (readText(`/proc/sysvipc/${kind}`) ?? '').split('\n').slice(1);
  return lines.map((line) => line.trim().split(/\s+/)).filter((fields) => fields.length > 1);
}

/** Columns: key shmid perms size cpid lpid nattch ... */
function parseSegments(rows: readonly string[][]): Segment[] {
  return rows.map(([, id, , bytes, creator, , attached]) => ({
    id: Number(id),
    bytes: Number(bytes),
    creator: Number(creator),
    attached: Number(attached),
  }));
}

/** How often processes have each segment mapped: a mapping's inode is the segment's identifier (ipc/shm.c, newseg). */
function attachments(pids: readonly number[]): Map<number, number> {
  const found = new Map<number, number>();
  for (const pid of pids) {
    for (const [, inode] of (readText(`/proc/${pid}/maps`) ?? '').matchAll(
      /^\S+ \S+ \S+ \S+ (\d+) +\/SYSV[0-9a-f]{8}/gm,
    )) {
      found.set(Number(inode), (found.get(Number(inode)) ?? 0) + 1);
    }
  }
  return found;
}

function memoryFindings(
  segments: readonly Segment[],
  mapped: ReadonlyMap<number, number>,
  members: ReadonlySet<number>,
): { own: number[]; verdicts: Verdict[] } {
  const own: number[] = [];
  const verdicts: Verdict[] = [];
  for (const { id, creator, attached } of segments) {
    const ours = mapped.get(id) ?? 0;
    if (ours === 0 && !(attached === 0 && members.has(creator))) continue;
    if (attached > ours) {
      const others = listProcesses().filter((pid) => !members.has(pid) && attachmentsOf(pid).has(id));
      const stranger = others.find((pid) => isStranger(pid, members));
      if (stranger !== undefined || others.length === 0) verdicts.push(shared('memory', id, stranger));
    }
    own.push(id);
  }
  return { own, verdicts };
}

function attachmentsOf(pid: number): Map<number, number> {
  try {
    return attachments([pid]);
  } catch {
    return new Map(); // nobody may look into it
  }
}

/** Columns: key msqid perms cbytes qnum lspid lrpid ... */
function queueUsers(rows: readonly string[][]): Map<number, number[]> {
  return new Map(rows.map(([, id, , , , sender, receiver]) => [Number(id), [Number(sender), Number(receiver)]]));
}

/** Who was the last to change each semaphore: the kernel's table does not say, semctl(GETPID) does, and with it ipcs(1). */
async function semaphoreUsers(ids: readonly number[]): Promise<Map<number, number[]>> {
  const users = new Map<number, number[]>();
  for (const id of ids) {
    const { stdout } = await run('ipcs', ['-s', '-i', String(id)]).catch(() => ({ stdout: '' })); // removed meanwhile
    const rows = stdout.split('\n').filter((line) => /^(\d+\s+){4}\d+\s*$/.test(line)); // semnum value ncount zcount pid
    users.set(
      id,
      rows.map((line) => Number(line.trim().split(/\s+/)[4])),
    );
  }
  return users;
}

function usersFindings(
  kind: string,
  objects: ReadonlyMap<number, readonly number[]>,
  members: ReadonlySet<number>,
): { own: number[]; verdicts: Verdict[] } {
  const own: number[] = [];
  const verdicts: Verdict[] = [];
  for (const [id, users] of objects) {
    if (!users.some((pid) => members.has(pid))) continue;
    const stranger = users.find((pid) => pid !== 0 && !members.has(pid) && readProcess(pid) !== undefined);
    if (stranger !== undefined) verdicts.push(shared(kind, id, stranger));
    own.push(id);
  }
  return { own, verdicts };
}

function shared(kind: string, id: number, stranger: number | undefined): Verdict {
  const who = stranger === undefined ? 'another process' : `pid ${stranger} (${readProcess(stranger)?.comm ?? '?'})`;
  return refused(
    'SYSV_SHARED',
    `System V ${kind} ${id}`,
    `${who}, outside the process, uses it too, and it cannot be in two places`,
    'move the process that started both, or end the other one',
  );
}

function muchOfOthers(pids: readonly number[], bytes: number): Verdict {
  return refused(
    'SYSV_OTHERS',
    `pid ${pids[0]}`,
    `its System V objects can be saved only with those of the others on this node, which have ${Math.ceil(bytes / 2 ** 20)} MiB of such memory`,
    'let the program use POSIX or anonymous shared memory; PostgreSQL: shared_memory_type = mmap',
  );
}

function goesAlong(pids: readonly number[], { memory, queues, semaphores }: SysvObjects): Verdict {
  const what = [
    count(memory.length, 'memory segment'),
    count(queues.length, 'message queue'),
    count(semaphores.length, 'semaphore set'),
  ].filter((words) => !words.startsWith('0 '));
  return willChange(
    'SYSV_OBJECTS',
    `pid ${pids[0]}`,
    `its System V objects (${what.join(', ')}) go with it, into an IPC namespace that it keeps when it comes home; adjustments by SEM_UNDO are forgotten`,
  );
}
