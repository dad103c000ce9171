import { type FileHandle, open } from 'node:fs/promises';
import { readText } from '../system/procfs.js';

export const PAGE_BYTES = 4096;

/** An entry of /proc/<pid>/pagemap (Documentation/admin-guide/mm/pagemap.rst): bit 63 present, bit 61 of a file or shared. */
const ENTRY_BYTES = 8;
const PRESENT = 0x80;
const OF_FILE = 0x20;

/** Reservations of address space; to look through one of a terabyte would take longer than to send what is in it. */
const MAX_AREA_BYTES = 1 << 30;
/** As many pages as one read takes at most. */
const MAX_RUN_BYTES = 1 << 20;

interface Area {
  readonly from: number;
  readonly to: number;
}

/** Pages that follow each other in the address space. */
interface Run {
  readonly from: number;
  readonly bytes: number;
}

/**
 * A copy of the private memory of a running process, page by page in the order in which CRIU dumps it (ascending, what is present and
 * not a file's). It is a guess at what the dump will hold, no more: the process goes on writing.
 * @returns whole pages; empty when they are more than `maxBytes`, or when the process has ended.
 */
export async function readPrivateMemory(pid: number, maxBytes: number): Promise<Buffer> {
  const areas = parsePrivateAreas(readText(`/proc/${pid}/maps`) ?? '');
  let pagemap: FileHandle | undefined;
  let memory: FileHandle | undefined;
  try {
    pagemap = await open(`/proc/${pid}/pagemap`);
    memory = await open(`/proc/${pid}/mem`);
    const runs: Run[] = [];
    let bytes = 0;
    for (const area of areas) {
      for (const run of await presentRuns(pagemap, area)) {
        runs.push(run);
        bytes += run.bytes;
      }
      if (bytes > maxBytes) return Buffer.alloc(0);
    }
    return await readRuns(memory, runs, bytes);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EIO') return Buffer.alloc(0); // it, or a mapping of it, went meanwhile
    throw error;
  } finally {
    await Promise.all([pagemap?.close(), memory?.close()]);
  }
}

/** The private mappings in the text of /proc/<pid>/maps (proc_pid_maps(5)), without the kernel's own. */
export function parsePrivateAreas(maps: string): Area[] {
  const areas: Area[] = [];
  for (const line of maps.split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) ..(.)(.) \S+ \S+ \S+ *(.*)$/.exec(line);
    if (match === null || match[4] !== 'p' || /^\[v(dso|var|syscall)/.test(match[5] ?? '')) continue;
    const area = { from: Number.parseInt(match[1] ?? '', 16), to: Number.parseInt(match[2] ?? '', 16) };
    if (area.to - area.from <= MAX_AREA_BYTES) areas.push(area);
  }
  return areas;
}

/** The first page of each mapping with code, as it is at this moment; none when the process has ended. */
export async function readCodePages(pid: number): Promise<Buffer[]> {
  const begins = (readText(`/proc/${pid}/maps`) ?? '').matchAll(/^([0-9a-f]+)-\S+ ..x. /gm);
  let memory: FileHandle | undefined;
  const pages: Buffer[] = [];
  try {
    memory = await open(`/proc/${pid}/mem`);
    for (const [, begin = ''] of begins) {
      const from = Number.parseInt(begin, 16);
      if (!Number.isSafeInteger(from)) continue; // vsyscall, which is the kernel's
      const page = Buffer.alloc(PAGE_BYTES);
      if ((await memory.read(page, 0, PAGE_BYTES, from)).bytesRead === PAGE_BYTES) pages.push(page);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ESRCH' && code !== 'EIO') throw error;
  } finally {
    await memory?.close();
  }
  return pages;
}

async function presentRuns(pagemap: FileHandle, { from, to }: Area): Promise<Run[]> {
  const entries = Buffer.allocUnsafe(((to - from) / PAGE_BYTES) * ENTRY_BYTES);
  const { bytesRead } = await pagemap.read(entries, 0, entries.length, (from / PAGE_BYTES) * ENTRY_BYTES);
  const runs: Run[] = [];
  for (let offset = 0; offset < bytesRead; offset += ENTRY_BYTES) {
    const flags = entries[offset + ENTRY_BYTES - 1] ?? 0;
    if ((flags & PRESENT) === 0 || (flags & OF_FILE) !== 0) continue;
    const address = from + (offset / ENTRY_BYTES) * PAGE_BYTES;
    const last = runs.at(-1);
    if (last !== undefined && last.from + last.bytes === address && last.bytes < MAX_RUN_BYTES) {
      runs[runs.length - 1] = { from: last.from, bytes: last.bytes + PAGE_BYTES };
    } else runs.push({ from: address, bytes: PAGE_BYTES });
  }
  return runs;
}

async function readRuns(memory: FileHandle, runs: readonly Run[], bytes: number): Promise<Buffer> {
  const pages = Buffer.alloc(bytes);
  let filled = 0;
  for (const run of runs) {
    const { bytesRead } = await memory.read(pages, filled, run.bytes, run.from);
    filled += bytesRead - (bytesRead % PAGE_BYTES);
  }
  return pages.subarray(0, filled);
}
