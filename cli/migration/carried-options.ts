import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { SOCKET_KINDS, type SocketKind, setSocketsOption } from '../../addon/lib/index.js';
import { FORGOTTEN_OPTIONS, optionText, type SocketOption } from '../process/socket-options.js';
import { readSocketDefaults, type SocketDefaults, type SurveyedOptions, surveyTree } from '../process/socket-survey.js';
import { count } from '../process/verdicts.js';
import { errnoName } from '../system/errno.js';
import { readLink, readNamespacePids, readText, readTree } from '../system/procfs.js';

/** Travels among CRIU's images, and CRIU does not look at it. */
const FILE = 'socket-options.json';

const kindSchema = z.enum(SOCKET_KINDS);
const valuesSchema = z.record(z.string(), z.string().regex(/^([0-9a-f]{2}){1,40}$/));
/** Values are hexadecimal, by the name of the option. */
const carriedSchema = z.object({
  /** What a new socket has where they come from: what nobody set was that. */
  defaults: z.partialRecord(kindSchema, valuesSchema),
  /** Sockets of a process, by its pid at home, that differ from those in the same. */
  sockets: z.array(
    z.object({ pid: z.number().int(), kind: kindSchema, fds: z.array(z.number().int()), options: valuesSchema }),
  ),
});
type Carried = z.infer<typeof carriedSchema>;
type Values = z.infer<typeof valuesSchema>;

/**
 * Asks the sockets of a tree, which stands still, and puts what CRIU forgets of them beside its images.
 * @param defaults of new sockets where they are
 * @returns all of them.
 */
export async function noteSockets(
  {
    localPids: [root = 0],
    images,
  }: {
    readonly localPids: readonly number[];
    readonly images: string;
  },
  defaults = readSocketDefaults(root),
): Promise<SurveyedOptions[]> {
  const sockets = await surveyTree(readTree(root), defaults);
  writeOptions(images, sockets, defaults);
  return sockets;
}

/** Writes what CRIU forgets of sockets. */
export function writeOptions(folder: string, sockets: readonly SurveyedOptions[], defaults: SocketDefaults): void {
  const groups = new Map<string, Carried['sockets'][number]>();
  const homePids = new Map<number, number>();
  for (const { pid, fd, kind, options } of sockets) {
    if (kind === undefined) continue;
    const carried = options.filter(({ option }) => option.interfaceNumber !== true);
    const values = carried.map(({ option, value }) => [option.name, value.toString('hex')] as const);
    const key = `${pid} ${kind} ${values.join(' ')}`;
    const group = groups.get(key);
    if (group !== undefined) {
      group.fds.push(fd);
      continue;
    }
    if (!homePids.has(pid)) homePids.set(pid, homePidOf(pid));
    groups.set(key, { pid: homePids.get(pid) ?? pid, kind, fds: [fd], options: Object.fromEntries(values) });
  }
  const carried: Carried = { defaults: valuesOf(defaults), sockets: [...groups.values()] };
  writeFileSync(join(folder, FILE), JSON.stringify(carried), { mode: 0o600 });
}

/** What is to be set on restored sockets. */
export interface ArrivedOptions {
  readonly sockets: Carried['sockets'];
  readonly defaults: Partial<Record<SocketKind, Values>>;
}

/**
 * Reads which options sockets had that CRIU does not restore; for while it restores the others.
 * @param folder of the images that came; without the file there are none.
 * @param here what new sockets have where they will be
 */
export async function readOptions(folder: string, here: SocketDefaults): Promise<ArrivedOptions> {
  const text = readText(join(folder, FILE));
  const carried = text === undefined ? undefined : carriedSchema.parse(JSON.parse(text));
  if (carried === undefined || carried.sockets.length === 0) return { sockets: [], defaults: {} };
  return { sockets: carried.sockets, defaults: differing(carried.defaults, valuesOf(here)) };
}

/**
 * Gives restored sockets, whose processes do not run yet, the options that they had.
 * @param pids of the restored tree, as this node sees them.
 * @param others inodes of sockets that others have too, and that are as those want them
 * @returns what could not be set, in words.
 */
export function restoreOptions(
  { sockets: carried, defaults: otherDefaults }: ArrivedOptions,
  pids: readonly number[],
  others: ReadonlySet<number> = new Set(),
): string[] {
  if (carried.length === 0) return [];
  const localPids = new Map(pids.map((pid) => [homePidOf(pid), pid]));
  const failures = new Map<string, { words: string; sockets: number }>();
  for (const { pid, kind, fds: all, options } of carried) {
    const localPid = localPids.get(pid);
    if (localPid === undefined) continue;
    const fds = others.size === 0 ? all : all.filter((fd) => !others.has(inodeOf(localPid, fd)));
    for (const [name, value] of Object.entries({ ...otherDefaults[kind], ...options })) {
      for (const { reason, sockets } of setOption(localPid, fds, name, Buffer.from(value, 'hex'))) {
        const words = `${name} (${optionText({ name }, Buffer.from(value, 'hex'))}): ${reason}`;
        failures.set(words, { words, sockets: (failures.get(words)?.sockets ?? 0) + sockets });
      }
    }
  }
  return [...failures.values()].map(({ words, sockets }) => `${words}; ${count(sockets, 'socket')}`);
}

/**
 * What {@link restoreOptions} has set again of what CRIU forgets, in words. For after the freeze.
 * @param failures what that has returned
 */
export function reappliedOptions(folder: string, failures: readonly string[]): string[] {
  const text = readText(join(folder, FILE));
  if (text === undefined) return [];
  const { sockets } = carriedSchema.parse(JSON.parse(text));
  const numbers = new Map<string, number>();
  for (const { fds, options } of sockets) {
    for (const [name, value] of Object.entries(options)) {
      const words = `${name} (${optionText({ name }, Buffer.from(value, 'hex'))})`;
      if (failures.some((failure) => failure.startsWith(`${words}:`))) continue;
      numbers.set(words, (numbers.get(words) ?? 0) + fds.length);
    }
  }
  return [...numbers].map(([words, number]) => `${words}, ${count(number, 'socket')}`);
}

function inodeOf(pid: number, fd: number): number {
  return Number(/^socket:\[(\d+)\]$/.exec(readLink(`/proc/${pid}/fd/${fd}`) ?? '')?.[1] ?? 0);
}

function setOption(
  pid: number,
  fds: readonly number[],
  name: string,
  value: Buffer,
): { reason: string; sockets: number }[] {
  const option = BY_NAME.get(name);
  if (option === undefined) return [{ reason: 'unknown here', sockets: fds.length }];
  const failures = new Map<number, number>();
  for (const { errno } of setSocketsOption(pid, fds, option.level, option.option, value)) {
    failures.set(errno, (failures.get(errno) ?? 0) + 1);
  }
  return [...failures].map(([errno, sockets]) => ({ reason: errnoName(errno), sockets }));
}

const BY_NAME = new Map<string, SocketOption>(FORGOTTEN_OPTIONS.map((option) => [option.name, option]));

/** A process has its home pid in the innermost of its pid namespaces. */
function homePidOf(pid: number): number {
  return readNamespacePids(pid).at(-1) ?? pid;
}

function valuesOf(defaults: SocketDefaults): Record<SocketKind, Values> {
  const named = (kind: SocketKind): Values =>
    Object.fromEntries(
      defaults[kind].flatMap((value, index) => {
        const option = FORGOTTEN_OPTIONS[index];
        if (option === undefined || value === undefined || value.length === 0) return [];
        return option.interfaceNumber === true || option.ownValues !== undefined
          ? []
          : [[option.name, value.toString('hex')] as const];
      }),
    );
  return Object.fromEntries(SOCKET_KINDS.map((kind) => [kind, named(kind)])) as Record<SocketKind, Values>;
}

/** Where a new socket differs here from there, what it was there. */
function differing(there: Carried['defaults'], here: Record<SocketKind, Values>): Partial<Record<SocketKind, Values>> {
  return Object.fromEntries(
    SOCKET_KINDS.map((kind) => {
      const different = Object.entries(there[kind] ?? {}).filter(
        ([name, value]) => here[kind][name] !== undefined && here[kind][name] !== value,
      );
      return [kind, Object.fromEntries(different)];
    }),
  );
}
