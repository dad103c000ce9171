/* What `homeproxy trace` asks of the daemon. */
import { z } from 'zod';
import { defineEventMethod } from './control-transport.js';

const endpoint = z.object({ address: z.string(), port: z.number().int() });

export const packetEvent = z.object({
  /** Milliseconds since the epoch. */
  time: z.number(),
  hook: z.string(),
  /** `pass`, `drop`, `redirect` (tunnel, pod, park queue), `answer` (dropped, and its sender told so by ICMP). */
  verdict: z.string(),
  reason: z.string(),
  /** Number of the binding and the process that it belongs to; absent for packets of nobody. */
  binding: z.number().int().optional(),
  pid: z.number().int().optional(),
  comm: z.string().optional(),
  ifindex: z.number().int(),
  interface: z.string().optional(),
  /** Of the frame, in bytes. */
  length: z.number().int(),
  /** Number of the IP protocol. */
  protocol: z.number().int(),
  /** Absent when the headers could not be read. Of a tunnelled packet, the inner one's. */
  flow: z.object({ family: z.union([z.literal(4), z.literal(6)]), source: endpoint, destination: endpoint }).optional(),
  /** Like events that a CPU left out before this one, so that they do not flood us. */
  suppressed: z.number().int(),
});
export type PacketEventRow = z.infer<typeof packetEvent>;

export const traceReport = z.object({
  /** Events that were sent to this client. */
  events: z.number().int(),
  /** Events that were not, because it did not read as fast as they came. */
  missed: z.number().int(),
});
export type TraceReport = z.infer<typeof traceReport>;

/** Packets as the datapath decides on them, until the client ends it or `count` were sent. */
export const traceMethod = defineEventMethod({
  name: 'trace',
  request: z.object({
    /** Drops alone; else a sample of everything beside them. */
    drops: z.boolean(),
    /** One in so many packets that were not dropped. */
    oneIn: z.number().int().min(1),
    /** Empty: all. */
    reasons: z.array(z.string()),
    /** Of a process, as `ps` names it. */
    pid: z.number().int().positive().optional(),
    binding: z.number().int().positive().optional(),
    count: z.number().int().positive().optional(),
    /** So many of the drops that came before. */
    recent: z.number().int().min(0),
  }),
  event: packetEvent,
  response: traceReport,
});
