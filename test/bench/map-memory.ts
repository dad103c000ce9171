/*
 * Part 4: what the maps of a node take, as the kernel accounts it (memlock in fdinfo).
 */
import { readFileSync } from 'node:fs';
import { FLOWS, type Scene } from './per-packet.js';

export interface MapMemory {
  /** Bytes of all maps, by the number of flows on a shared port. */
  readonly bytes: Readonly<Record<string, number>>;
  /** Of the largest node, by map; those that take the most first. */
  readonly byMap: readonly (readonly [name: string, bytes: number])[];
  /** What one more flow takes. */
  readonly bytesPerFlow: number;
}

export function measureMemory({ nodes }: Scene): MapMemory {
  const totals = nodes.map((node) => sum(node.mapBytes()));
  const [fewest, most] = [FLOWS[0], FLOWS[FLOWS.length - 1] ?? FLOWS[0]];
  const more = (totals.at(-1) ?? Number.NaN) - (totals[0] ?? Number.NaN);
  return {
    bytes: Object.fromEntries(FLOWS.map((flows, index) => [flows, totals[index] ?? Number.NaN])),
    byMap: [...(nodes.at(-1)?.mapBytes() ?? [])].sort(([, a], [, b]) => b - a),
    bytesPerFlow: more / (most - fewest),
  };
}

/** Bytes that the kernel holds for an open map. */
export function memlock(fd: number): number {
  const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
  const bytes = /^memlock:\s+(\d+)$/m.exec(text)?.[1];
  if (bytes === undefined) throw new Error(`descriptor ${fd} is not a map's: its fdinfo has no memlock`);
  return Number(bytes);
}

function sum(bytes: ReadonlyMap<string, number>): number {
  return [...bytes.values()].reduce((total, each) => total + each, 0);
}
