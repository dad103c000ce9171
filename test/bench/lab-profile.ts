/*
 * Where the processor's time goes on the way of a departed process: what the kernel accounts to each of our programs, beside all
 * that the machine did meanwhile.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { BpfProgram } from '../../addon/lib/index.js';
import { type Kind, machineCpuSeconds, measure, type Target } from './lab-traffic.js';

/** Accounts each run of every program; costs some tens of nanoseconds a run, so that it is off while paths are compared. */
const ACCOUNTING = '/proc/sys/kernel/bpf_stats_enabled';
/** What is profiled: the kinds of which a share of the direct path's is demanded. */
export const PROFILED = ['upload', 'requests'] as const satisfies readonly Kind[];

/** A node whose programs are accounted: its daemon holds them open. */
export interface Accounted {
  readonly node: string;
  readonly daemon: number;
}

export interface ProgramTime {
  readonly node: string;
  readonly program: string;
  readonly runs: number;
  /** Of one run, with the accounting's own. */
  readonly nanoseconds: number;
  /** Of all processor time that the machine spent meanwhile. */
  readonly share: number;
}

export type Profile = Readonly<Record<(typeof PROFILED)[number], readonly ProgramTime[]>>;

/** Measures each kind once more, with the accounting on. */
export async function profile(nodes: readonly Accounted[], target: Target): Promise<Profile> {
  const before = readFileSync(ACCOUNTING, 'utf8');
  writeFileSync(ACCOUNTING, '1');
  try {
    const times: Partial<Record<Kind, ProgramTime[]>> = {};
    for (const kind of PROFILED) times[kind] = await profileKind(kind, nodes, target);
    return times as Profile;
  } finally {
    writeFileSync(ACCOUNTING, before);
  }
}

async function profileKind(kind: Kind, nodes: readonly Accounted[], target: Target): Promise<ProgramTime[]> {
  const programs = nodes.flatMap(({ node, daemon }) => programsOf(daemon).map((program) => ({ node, program })));
  try {
    const totals = () => programs.map(({ program }) => program.info);
    const [before, began] = [totals(), machineCpuSeconds()];
    await measure(kind, target);
    const spent = machineCpuSeconds() - began;
    return totals()
      .map(({ name, runCount, runTimeNs }, index) => {
        const runs = Number(runCount - (before[index]?.runCount ?? 0n));
        const nanoseconds = Number(runTimeNs - (before[index]?.runTimeNs ?? 0n));
        const node = programs[index]?.node ?? '';
        return { node, program: name, runs, nanoseconds: nanoseconds / runs, share: nanoseconds / 1e9 / spent };
      })
      .filter(({ runs }) => runs > 0);
  } finally {
    for (const { program } of programs) program.close();
  }
}

/** The programs that a process holds open (proc_pid_fdinfo(5)). */
function programsOf(pid: number): BpfProgram[] {
  const folder = `/proc/${pid}/fdinfo`;
  const ids = readdirSync(folder).map((fd) => /^prog_id:\s+(\d+)$/m.exec(contentOf(`${folder}/${fd}`))?.[1]);
  return [...new Set(ids)].filter((id) => id !== undefined).map((id) => BpfProgram.openById(Number(id)));
}

/** Of a descriptor that may be closed by now. */
function contentOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return '';
    throw error;
  }
}
