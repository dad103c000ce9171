import { availableParallelism, freemem } from 'node:os';

/** `pre-copy` is `--mode copy-ahead`, what a migration does unless it is told otherwise. */
export const MODES = ['stop-and-copy', 'pre-copy', 'post-copy'] as const;
export type Mode = (typeof MODES)[number];

/** What somebody without homeproxy would move it with. */
export const TOOLS = ['plain', 'podman'] as const;
export type Tool = (typeof TOOLS)[number];
export const TOOL_NAMES: Readonly<Record<Tool, string>> = { plain: 'plain CRIU', podman: 'Podman' };

/** One process that moves. */
export interface Case {
  readonly memoryMB: number;
  /** It writes so much of its memory per second. */
  readonly writerMBps: number;
  readonly connections: number;
  /** How often each way is measured. */
  readonly runs: number;
  /** So are what others would use: a plain script with CRIU, and Podman. */
  readonly byHand: boolean;
  /** Default: all. */
  readonly modes?: readonly Mode[];
}

/** Its memory once at home, once at the host, and once more in images. */
const COPIES = 3;
/** Podman has the images as files and in an archive, at both ends. */
export const PODMAN_COPIES = 5;

function idle(memoryMB: number, runs: number): Case {
  return { memoryMB, writerMBps: 0, connections: 1, runs, byHand: true };
}

/** For a look: sizes that matter, under two minutes. */
export const QUICK: readonly Case[] = [
  idle(10, 2),
  idle(500, 1),
  { memoryMB: 500, writerMBps: 50, connections: 1, runs: 1, byHand: false, modes: ['pre-copy'] },
];

/** The sizes of NEC's table and two large ones; writers; connections. */
export const FULL: readonly Case[] = [
  ...[10, 50, 100, 200, 300, 400, 500].map((memoryMB) => idle(memoryMB, 3)),
  idle(2048, 2),
  idle(6144, 1),
  ...[100, 500, 2048].map((memoryMB) => ({ memoryMB, writerMBps: 50, connections: 1, runs: 2, byHand: false })),
  { memoryMB: 50, writerMBps: 0, connections: 100, runs: 3, byHand: true },
  { memoryMB: 50, writerMBps: 0, connections: 1000, runs: 2, byHand: true },
  { memoryMB: 50, writerMBps: 0, connections: 10_000, runs: 2, byHand: false },
];

/** Those for which this machine has the memory. */
export function possible(cases: readonly Case[], freeMB = freemem() / (1 << 20), copies = COPIES): Case[] {
  return cases.filter(({ memoryMB }) => memoryMB * copies < freeMB);
}

/** What was measured where. */
export function machineInWords(): string {
  return `${availableParallelism()} processors, ${Math.round(freemem() / 2 ** 30)} GiB free`;
}

export function caseName({ memoryMB, writerMBps, connections }: Pick<Case, 'memoryMB' | 'writerMBps' | 'connections'>) {
  const writer = writerMBps === 0 ? 'idle' : `writes ${writerMBps} MB/s`;
  return `${memoryMB} MB, ${writer}, ${connections.toLocaleString('en')} connection${connections === 1 ? '' : 's'}`;
}
