import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, statSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { criuHooksLibrary, criuMemoryLibrary, makeFifo } from '../../addon/lib/index.js';
import { UserError } from '../errors.js';
import { run } from '../system/command.js';
import { favour } from '../system/priority.js';
import { stampProcess } from '../system/procfs.js';
import { openDoor } from './criu-door.js';
import { CriuSession, HOOK_LOG, INVENTORY, VERDICT } from './criu-session.js';

export { INVENTORY } from './criu-session.js';

/** Where the set-up puts a CRIU of its own, when the distribution's does not pass the proof. */
const PRIVATE_CRIU = '/usr/local/lib/homeproxy/criu/sbin/criu';

/**
 * The CRIU to use.
 * @param configured an absolute path, or `auto`: the private one if it is there, else the first on PATH.
 * @throws {UserError} `NO_CRIU`, exit 7.
 */
export function findCriu(configured: string): string {
  const candidates =
    configured === 'auto'
      ? [PRIVATE_CRIU, ...(process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'criu'))]
      : [configured];
  for (const path of candidates) {
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // look at the next one
    }
  }
  throw new UserError({
    code: 'NO_CRIU',
    message: configured === 'auto' ? 'there is no CRIU on this machine' : `there is no CRIU at ${configured}`,
    remedy: 'install it with `config/setup.sh`, or set criu.path in the configuration',
    exitStatus: 7,
  });
}

const versions = new Map<string, string>();

/** For example `4.2.1`. It is asked once, and again when the program was replaced. */
export async function criuVersion(path: string): Promise<string> {
  const { ino, mtimeMs } = statSync(path);
  const key = `${path} ${ino} ${mtimeMs}`;
  const known = versions.get(key);
  if (known !== undefined) return known;
  const { stdout } = await run(path, ['--version']);
  const version = /Version:\s*(\S+)/.exec(stdout)?.[1] ?? stdout.trim();
  versions.set(key, version);
  return version;
}

/** Namespaces and cgroup in which CRIU shall run; in a pod it then sees no foreign namespace. */
export interface Surroundings {
  /** Pid of the pod's init, as this node sees it; absent: the node's own namespaces. */
  readonly podInit?: number;
  /** The pod has a root of its own, in which there is no CRIU. */
  readonly ownRoot?: boolean;
  /** cgroup.procs file of the cgroup whose member CRIU, and so the restored tree, becomes. */
  readonly cgroupProcs?: string;
}

export interface DumpOptions extends Surroundings {
  readonly criu: string;
  /** Root of the tree, as the namespaces in which CRIU runs number it. */
  readonly pid: number;
  readonly images: string;
  /** The root does not lead its session. */
  readonly shellJob?: boolean;
  /** The tree uses System V objects of the node's own IPC namespace: CRIU saves them when it stands outside of that. */
  readonly outsideIpc?: boolean;
  /** It uses shared memory under names that are gone: CRIU makes others beside it, which travel with it. */
  readonly linkRemap?: boolean;
  /** It has listeners that others have too, who go on to accept: CRIU is not to mind that connections wait there. */
  readonly skipInFlight?: boolean;
}

export interface RestoreOptions extends Surroundings {
  /** Most memory that does not come in CRIU's images (`cli/memory`), in bytes; absent: all comes in them. */
  readonly memoryLimit?: number;
  readonly criu: string;
  readonly images: string;
  /** The root did not lead its session: it is restored into a session and a group of CRIU's. */
  readonly shellJob?: boolean;
  /** Some of its listeners are here already, and are not made anew (`addon/src/criu-listeners.c`). */
  readonly listenersHere?: boolean;
}

/*
 * --network-lock skip: our programs hold the packets; CRIU's own locks cost 44 ms (nftables) and more, and abort at about
 * 750 connections. --manage-cgroups=ignore: the tree lives in the cgroup where we start CRIU. Logs are kept at the
 * warnings' level: at -v4 they cost more than the dump.
 */
const COMMON = [
  '--tcp-established',
  '--network-lock',
  'skip',
  '--file-locks',
  '--ext-unix-sk',
  '--manage-cgroups=ignore',
  '-v2',
];

/**
 * Starts a dump; it stops at `pre-dump` before it touches the process, at the gate if there is one in the folder, and at
 * `post-dump` with the tree seized.
 */
export async function startDump(options: DumpOptions): Promise<CriuSession> {
  makeFifo(join(options.images, VERDICT));
  const names = options.linkRemap === true ? ['--link-remap'] : [];
  const queues = options.skipInFlight === true ? ['--skip-in-flight'] : [];
  const args = ['-t', String(options.pid), '--ghost-limit', '16M', ...names, ...queues];
  return start('dump', { ...options, memoryLimit: 0 }, args);
}

/**
 * Starts a restore ahead of its images: CRIU has started, entered the pod and probed the kernel (20 to 50 ms that need not be
 * part of the freeze) when it opens the inventory, the first image that it reads, and that is a FIFO: it waits there until
 * {@link CriuSession.release}. Then it goes on to `post-restore`, before any task runs.
 */
export async function startRestore(options: RestoreOptions): Promise<CriuSession> {
  makeFifo(join(options.images, VERDICT));
  makeFifo(join(options.images, INVENTORY));
  const loaded = options.listenersHere === true ? { memoryLimit: options.memoryLimit ?? 0 } : {};
  return start('restore', { ...options, ...loaded }, ['--restore-detached']);
}

/**
 * Starts CRIU; it is told where to write its log. For a script at its hooks it needs some path, and never runs it
 * (`addon/src/criu-hooks.c`): a run is found again by the folder of its images, which its command line must name.
 * @throws {UserError} `ADDON_INCOMPLETE`
 */
async function start(
  verb: 'dump' | 'restore',
  options: (DumpOptions | RestoreOptions) & { readonly memoryLimit?: number },
  args: readonly string[],
): Promise<CriuSession> {
  const { criu, images, podInit, ownRoot, shellJob, memoryLimit } = options;
  const libraries = [hooksLibrary(), ...(memoryLimit === undefined ? [] : [criuMemoryLibrary()])];
  const door = ownRoot === true && podInit !== undefined ? await openDoor(podInit, criu, images, libraries) : undefined;
  const job = shellJob === true ? ['--shell-job'] : [];
  writeFileSync(join(images, HOOK_LOG), '', { mode: 0o600 });
  const files = ['-D', door?.images ?? images, '-o', `${verb}.log`, '--action-script', images];
  const leader = verb === 'restore' && shellJob === true ? (door?.leader ?? ['setsid', '--wait']) : [];
  const apart = 'outsideIpc' in options && options.outsideIpc === true ? ['unshare', '--ipc', '--'] : [];
  const program = [...leader, ...apart, ...(door?.command ?? ['env', `LD_PRELOAD=${libraries.join(':')}`, criu])];
  const argv = surround([...program, verb, ...files, ...COMMON, ...job, ...args], options);
  const told =
    memoryLimit === undefined
      ? {}
      : { HOMEPROXY_MEMORY: door?.images ?? images, HOMEPROXY_MEMORY_LIMIT: String(memoryLimit) };
  const env = { ...process.env, ...told };
  const child = spawn(argv[0] ?? '', argv.slice(1), { stdio: 'ignore', detached: true, cwd: '/', env });
  favour(child.pid); // it has a session of its own; what it restores gets back its own nice value from the images
  if (verb === 'dump') spareFromOutOfMemory(child.pid);
  const exited = new Promise<number | null>((resolve) => {
    child.once('error', () => resolve(null));
    child.once('exit', (status) => resolve(status));
  });
  return CriuSession.of({ verb, process: stampProcess(child.pid ?? 0), images }, argv.join(' '), exited);
}

/**
 * A CRIU that is killed at its hooks, or while it restores, costs nothing. For about a millisecond of a dump it runs code of its own
 * inside the process, and its death there is the process's: nobody can undo that, so the kernel's choice must not fall on it.
 */
function spareFromOutOfMemory(pid: number | undefined): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, '-1000');
  } catch {
    // without CAP_SYS_RESOURCE, or it has ended: it is as likely as any other then
  }
}

function hooksLibrary(): string {
  const path = criuHooksLibrary();
  if (existsSync(path)) return path;
  throw new UserError({
    code: 'ADDON_INCOMPLETE',
    message: `${path} is not built: CRIU has nobody to ask at its hooks`,
    remedy: 'run `npm run build:addon`, or install the package again',
    exitStatus: 7,
  });
}

/**
 * CRIU inside its surroundings. The shell gets its words as positional parameters: nothing is ever parsed. What is restored as a
 * shell job stays in CRIU's session and group: they are made inside, where they have a number in the pod's pid namespace
 * (a session of number 0 cannot be dumped again), and apart from the group by which a run of CRIU is ended.
 */
function surround(program: readonly string[], { podInit, ownRoot, cgroupProcs }: Surroundings): string[] {
  const folder = ownRoot === true ? '-W/' : '-w/';
  const entered =
    podInit === undefined
      ? [...program]
      : ['nsenter', '-t', String(podInit), '-m', '-n', '-p', folder, '--', ...program];
  if (cgroupProcs === undefined) return entered;
  return ['sh', '-c', 'echo $$ >"$1" && shift && exec "$@"', 'sh', cgroupProcs, ...entered];
}
