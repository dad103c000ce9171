import { closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { loadMappingFlags, mappingFlags } from '../../addon/lib/index.js';
import { projectFile } from '../system/project.js';

const PROGRAM = 'bpf/build/mappings.bpf.o';

interface Flagged {
  readonly range: string;
  /** The kernel's own, which differ between kernels. */
  readonly bits: bigint;
}

/**
 * What the flags of a process's mappings mean (VmFlags, proc_pid_smaps(5)), learnt while it runs. When it stands still they are had
 * without smaps, for which the kernel visits every page: 1 GiB of small ones takes some 7 ms.
 *
 * Nothing is known here of bits. The kernel makes the words of them alone (show_smap_vma_flags, fs/proc/task_mmu.c), so that what
 * smaps says of one mapping is so of all with the same bits. Who has others has to read smaps.
 */
export class MappingFlags {
  private constructor(
    private readonly pid: number,
    private readonly program: number,
    private readonly words: ReadonlyMap<bigint, string>,
  ) {}

  /**
   * While the process runs. Close it.
   * @throws {BpfError} where there are no such iterators, or the process has ended. {Error} of the file system
   */
  static async learn(pid: number): Promise<MappingFlags> {
    const program = await loadMappingFlags(projectFile(PROGRAM));
    try {
      const before = await flagged(program, pid);
      const smaps = await readFile(`/proc/${pid}/smaps`, 'utf8');
      const after = await flagged(program, pid);
      return new MappingFlags(pid, program, wordsOf(before, smaps, after));
    } catch (error) {
      closeSync(program);
      throw error;
    }
  }

  /**
   * When it stands still.
   * @returns a line for each mapping, as addon/src/criu-smaps.c reads them; undefined where one has flags that are not known.
   * @throws {BpfError} the process has ended.
   */
  async describe(): Promise<string | undefined> {
    const lines: string[] = [];
    for (const { range, bits } of await flagged(this.program, this.pid)) {
      const words = this.words.get(bits);
      if (words === undefined) return undefined;
      lines.push(`${range} ${words}\n`);
    }
    return lines.length === 0 ? undefined : lines.join('');
  }

  close(): void {
    closeSync(this.program);
  }
}

/** What smaps says of mappings that had the same flags before and after it was read. */
export function wordsOf(before: readonly Flagged[], smaps: string, after: readonly Flagged[]): Map<bigint, string> {
  const said = new Map<string, string>();
  let range = '';
  for (const [, start, end, flags] of smaps.matchAll(/^(?:([0-9a-f]+)-([0-9a-f]+) |VmFlags: (.*)$)/gm)) {
    if (flags === undefined) range = `${BigInt(`0x${start}`).toString(16)}-${BigInt(`0x${end}`).toString(16)}`;
    else said.set(range, flags.trim());
  }
  const still = new Map(after.map(({ range, bits }) => [range, bits]));
  const words = new Map<bigint, string>();
  for (const { range, bits } of before) {
    const flags = said.get(range);
    if (flags === undefined || still.get(range) !== bits) continue;
    if (flags.split(' ').length === countOf(bits)) words.set(bits, flags); // else they changed for that moment
  }
  return words;
}

function countOf(bits: bigint): number {
  return bits.toString(2).replaceAll('0', '').length;
}

async function flagged(program: number, pid: number): Promise<Flagged[]> {
  const found = await mappingFlags(program, pid);
  const all: Flagged[] = [];
  for (let at = 0; at + 2 < found.length; at += 3) {
    const [start = 0n, end = 0n, bits = 0n] = found.subarray(at, at + 3);
    all.push({ range: `${start.toString(16)}-${end.toString(16)}`, bits });
  }
  return all;
}
