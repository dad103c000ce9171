/* What `homeproxy top` asks of the daemon, again and again: totals, of which it makes rates. */
import { z } from 'zod';
import { defineMethod } from './control-transport.js';

const traffic = z.object({ packets: z.number(), bytes: z.number() });

export const topProcess = z.object({
  /** Names it among all nodes, once and for ever. */
  twin: z.string(),
  pid: z.number().int(),
  home: z.string(),
  comm: z.string(),
  location: z.string(),
  role: z.enum(['departed', 'resident', 'moving']),
  /** Into tunnels, into its pod, and out of it. */
  forwarded: traffic,
  dropped: traffic,
  /** Packets that wait now. */
  parked: z.number().int(),
});
export type TopProcess = z.infer<typeof topProcess>;

export const topMigration = z.object({
  migration: z.string(),
  pid: z.number().int(),
  comm: z.string(),
  from: z.string(),
  to: z.string(),
  /** Absent between its last phase and its end, and while it is put back. */
  phase: z.string().optional(),
  /** How long the phase has gone on, in milliseconds. */
  phaseMs: z.number(),
  /** Since it began, in milliseconds. */
  totalMs: z.number(),
});
export type TopMigration = z.infer<typeof topMigration>;

export const topReport = z.object({
  node: z.string(),
  /** Milliseconds of the daemon's monotonic clock. */
  atMs: z.number(),
  startedAt: z.number(),
  /** Of the whole node, by what became of the packets: passed, forwarded, parked, dropped, answered, handed-on. */
  outcomes: z.record(z.string(), traffic),
  processes: z.array(topProcess),
  migrations: z.array(topMigration),
});
export type TopReport = z.infer<typeof topReport>;

export const topMethod = defineMethod({ name: 'top', users: 'everybody', request: z.object({}), response: topReport });
