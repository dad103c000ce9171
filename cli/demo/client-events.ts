/* What the load processes in the lab's client node write on stdout, one JSON object per line. */
import { z } from 'zod';

const errorDocument = z.object({
  code: z.string(),
  kind: z.enum(['user', 'external', 'bug']),
  message: z.string(),
  exitStatus: z.number(),
  remedy: z.string().optional(),
  command: z.string().optional(),
  log: z.array(z.string()).optional(),
});

/** All connections are open and counting. */
const ready = z.object({ event: z.literal('ready'), connections: z.number(), atMs: z.number() });

/** Once a second. */
const second = z.object({
  event: z.literal('second'),
  atMs: z.number(),
  replies: z.number(),
  resets: z.number(),
  longestMs: z.number(),
});

/** Before `result`: the latencies, as `samples.ts` encodes them. */
const samples = z.object({ event: z.literal('samples'), repliedAt: z.string(), latencyMs: z.string() });

/** The last line of the verifying client. */
const result = z.object({
  event: z.literal('result'),
  connections: z.number(),
  replies: z.number(),
  lost: z.number(),
  repeated: z.number(),
  outOfOrder: z.number(),
  wrong: z.number(),
  resets: z.number(),
  resetReasons: z.array(z.string()),
  unansweredSince: z.array(z.number()),
  startedAt: z.number(),
  endedAt: z.number(),
});

/** The last line of the noise. */
const noise = z.object({
  event: z.literal('noise'),
  bursts: z.number(),
  requests: z.number(),
  failures: z.number(),
  failureLog: z.array(z.string()),
});

const failed = z.object({ event: z.literal('error'), error: errorDocument });

export const clientEvent = z.discriminatedUnion('event', [ready, second, samples, result, noise, failed]);
export type ClientEvent = z.infer<typeof clientEvent>;
export type NoiseResult = Omit<z.infer<typeof noise>, 'event'>;
