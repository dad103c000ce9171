import { z } from 'zod';

/** Ports of one word of the filter: blocks are made of whole ones (bpf/abi.h, BLOCK_PORTS). */
export const BLOCK_PORTS = 64;

/** A run of ports, of TCP and of UDP, from which a departed process takes those of new sockets. */
export const portBlockSchema = z.object({
  first: z.number().int().min(1).max(65_535),
  last: z.number().int().min(1).max(65_535),
});
export type PortBlock = z.infer<typeof portBlockSchema>;

export function isInBlock({ first, last }: PortBlock, port: number): boolean {
  return port >= first && port <= last;
}

export function overlap(left: PortBlock, right: PortBlock): boolean {
  return left.first <= right.last && right.first <= left.last;
}

/** The indexes under which `port_blocks` and `port_filter` keep a block. */
export function blockIndexes({ first, last }: PortBlock): number[] {
  const start = Math.floor(first / BLOCK_PORTS);
  return Array.from({ length: Math.ceil((last + 1) / BLOCK_PORTS) - start }, (_, offset) => start + offset);
}
