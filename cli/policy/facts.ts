/* What policies are decided upon: what `homeproxy policy facts` records, nodes tell each other, and the engine reads. */
import { z } from 'zod';

const bytes = z.number().nonnegative();
const averages = z.object({ avg10: z.number(), avg60: z.number() });
const pressure = z.object({ some: averages, full: averages });

/** One node, as it sees itself. What it cannot measure is not there. */
export const hostFacts = z.object({
  cpus: z.int().positive().optional(),
  load1: z.number().nonnegative().optional(),
  memory: z.object({ totalBytes: bytes, availableBytes: bytes }).optional(),
  /** Percent of the time; absent where the kernel does not measure it. */
  pressure: z.object({ cpu: pressure, memory: pressure, io: pressure }).optional(),
  /** File systems by the paths that policies name. */
  disks: z.record(z.string(), z.object({ totalBytes: bytes, freeBytes: bytes })).default({}),
  draining: z.boolean().default(false),
  /** Instruction sets of its processors, as /proc/cpuinfo names them; absent from an older version. */
  cpuFeatures: z.array(z.string().max(64)).max(1000).optional(),
  /** Milliseconds since somebody typed at one of its terminals; null: nobody is at one. Absent from an older version. */
  terminalIdleMs: z.number().nonnegative().nullable().optional(),
  /** Its addresses, each with the length of its network's prefix: `10.77.0.3/24`. Absent from an older version. */
  networks: z.array(z.string().max(64)).max(256).optional(),
});
export type HostFacts = z.output<typeof hostFacts>;

export const hostState = z.object({
  reachable: z.boolean(),
  /** When `facts` were read, on our clock; absent: just now. */
  readAt: z.number().optional(),
  /** Of our configuration: what a host says of itself could be anything. */
  labels: z.record(z.string(), z.string()).optional(),
  /** Of our configuration: networks whose correspondents are near it. */
  near: z.array(z.string()).optional(),
  facts: hostFacts.optional(),
});
export type HostState = z.output<typeof hostState>;

/** A process of this home, here or away. */
export const processFacts = z.object({
  pid: z.int().positive(),
  name: z.string(),
  commandLine: z.string().default(''),
  user: z.string().default(''),
  uid: z.int().nonnegative().optional(),
  cgroup: z.string().default(''),
  labels: z.record(z.string(), z.string()).default({}),
  /** On which it listens, or has UDP sockets. */
  ports: z.array(z.int()).default([]),
  /** Addresses of those that it is connected with, each once; of one that is away: when it was moved last. */
  correspondents: z.array(z.string()).default([]),
  residentBytes: bytes.default(0),
  /** Its parent, that one's parent, and so on. */
  ancestors: z.array(z.int()).default([]),
  /** The node where it runs. */
  location: z.string(),
  /** On its way now, by whomever. */
  moving: z.boolean().default(false),
});
export type ProcessFacts = z.output<typeof processFacts>;

export const queryAnswer = z.union([z.object({ values: z.array(z.number()) }), z.object({ error: z.string() })]);
export type QueryAnswer = z.output<typeof queryAnswer>;

/** All that is known at one moment. */
export const factsSchema = z.object({
  /** Milliseconds since the epoch. */
  at: z.number(),
  /** The node that decides: the home of the processes. */
  home: z.string(),
  /** Every node of the configuration, the home included. */
  hosts: z.record(z.string(), hostState),
  /** By {@link queryKey}. */
  queries: z.record(z.string(), queryAnswer).default({}),
  processes: z.array(processFacts),
});
export type Facts = z.output<typeof factsSchema>;

/** What a host said longer ago than this is not known any more. */
export const MAX_AGE_MS = 60_000;

/** What is known of a node now; undefined when it does not answer or what it said is old. */
export function knownFacts({ at, hosts }: Pick<Facts, 'at' | 'hosts'>, node: string): HostFacts | undefined {
  const state = hosts[node];
  if (state?.reachable !== true) return undefined;
  return at - (state.readAt ?? at) > MAX_AGE_MS ? undefined : state.facts;
}

/** Names a query among the answers. */
export function queryKey({ url, query }: { readonly url: string; readonly query: string }): string {
  return `${url} ${query}`;
}
