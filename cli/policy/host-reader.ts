import { statfs } from 'node:fs/promises';
import { cpus, networkInterfaces } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { readProcessorFeatures } from '../system/processor.js';
import { readText } from '../system/procfs.js';
import { terminalIdleMs } from '../system/terminals.js';
import type { HostFacts } from './facts.js';

/** A file system that does not answer sooner (a server that is away) is not known. */
const STATFS_MS = 1000;
/** Addresses that are told: a host may have one for each of its containers. */
const MAX_NETWORKS = 64;
/** So many file systems may keep one of Node's four threads each; the others must go on. */
const MOST_STUCK = 2;

type Disk = HostFacts['disks'][string] | undefined;

type Pressure = NonNullable<HostFacts['pressure']>;

/** Reads what this node is like now. */
export class HostReader {
  /** Questions that are not answered yet: who asks for the same meanwhile waits for the same answer. */
  private readonly asked = new Map<string, Promise<Disk>>();
  private readonly stuck = new Set<string>();

  constructor(private readonly isDraining: () => boolean) {}

  /** @param paths in the file systems to look at; those that are not there are left out */
  async read(paths: readonly string[]): Promise<HostFacts> {
    const disks = await Promise.all(paths.map(async (path) => [path, await this.disk(path)] as const));
    const load1 = Number(readText('/proc/loadavg')?.split(' ')[0] ?? Number.NaN);
    const memory = parseMemory(readText('/proc/meminfo') ?? '');
    const pressure = readPressure();
    return {
      cpus: cpus().length,
      ...(Number.isFinite(load1) ? { load1 } : {}),
      ...(memory === undefined ? {} : { memory }),
      ...(pressure === undefined ? {} : { pressure }),
      disks: Object.fromEntries(disks.flatMap(([path, disk]) => (disk === undefined ? [] : [[path, disk]]))),
      draining: this.isDraining(),
      cpuFeatures: readProcessorFeatures(),
      terminalIdleMs: terminalIdleMs(Date.now()),
      networks: readNetworks(),
    };
  }

  private async disk(path: string): Promise<Disk> {
    const asked = this.asked.get(path) ?? this.ask(path);
    if (asked === undefined) return undefined;
    return Promise.race([asked, pause(STATFS_MS, undefined, { ref: false })]);
  }

  private ask(path: string): Promise<Disk> | undefined {
    if (this.stuck.size >= MOST_STUCK) return undefined;
    const timer = setTimeout(() => this.stuck.add(path), STATFS_MS);
    timer.unref();
    const answer = statfs(path)
      .then(({ bsize, blocks, bavail }) => ({ totalBytes: blocks * bsize, freeBytes: bavail * bsize }))
      .catch(() => undefined)
      .finally(() => {
        clearTimeout(timer);
        this.asked.delete(path);
        this.stuck.delete(path);
      });
    this.asked.set(path, answer);
    return answer;
  }
}

/** This node's addresses with their prefixes; not those that mean something on one link only. */
function readNetworks(): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const known = addresses.flatMap(({ internal, cidr, scopeid }) =>
    internal || cidr === null || (scopeid ?? 0) !== 0 ? [] : [cidr],
  );
  return [...new Set(known)].slice(0, MAX_NETWORKS);
}

/** From the text of /proc/meminfo (proc(5)), which counts in KiB. */
export function parseMemory(text: string): HostFacts['memory'] {
  const kibibytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1]);
  const totalBytes = kibibytes('MemTotal') * 1024;
  const availableBytes = kibibytes('MemAvailable') * 1024;
  return Number.isFinite(totalBytes + availableBytes) ? { totalBytes, availableBytes } : undefined;
}

function readPressure(): Pressure | undefined {
  const read = (resource: string): Pressure['cpu'] | undefined => {
    try {
      return parsePressure(readText(`/proc/pressure/${resource}`) ?? '');
    } catch {
      return undefined; // EOPNOTSUPP: the kernel was started with psi=0
    }
  };
  const [cpu, memory, io] = [read('cpu'), read('memory'), read('io')];
  return cpu === undefined || memory === undefined || io === undefined ? undefined : { cpu, memory, io };
}

/** From a file of /proc/pressure (Documentation/accounting/psi.rst); undefined for anything else. */
export function parsePressure(text: string): Pressure['cpu'] | undefined {
  const line = (share: string): Pressure['cpu']['some'] | undefined => {
    const [, avg10, avg60] = new RegExp(`^${share} avg10=([\\d.]+) avg60=([\\d.]+) `, 'm').exec(text) ?? [];
    return avg10 === undefined ? undefined : { avg10: Number(avg10), avg60: Number(avg60) };
  };
  const some = line('some');
  if (some === undefined) return undefined;
  return { some, full: line('full') ?? { avg10: 0, avg60: 0 } }; // before 5.13 there is none for the CPU
}
