import { isIP } from 'node:net';
import { z } from 'zod';

const MAX_PID = 4_194_304; // PID_MAX_LIMIT, proc(5)
const pid = z.number().int().min(1).max(MAX_PID);
/** IPv4 or IPv6, in any of its forms. */
export const addressSchema = z.string().refine((text) => isIP(text) !== 0, 'must be an IP address');

/** What an inspection says about one property of a process: typed, so that `--json` users can act on it. */
export const verdictSchema = z.object({
  outcome: z.enum(['ok', 'will-change', 'refused']),
  code: z.string(),
  /** What was looked at: `pid 812`, `fd 3 of pid 812`, `port tcp 6379`. */
  subject: z.string(),
  reason: z.string(),
  remedy: z.string().optional(),
});
export type Verdict = z.infer<typeof verdictSchema>;

/** A local port that belongs to the tree, in the home's address space. */
export const portSchema = z.object({
  protocol: z.enum(['tcp', 'udp']),
  address: addressSchema,
  port: z.number().int().min(1).max(65535),
  /** No process outside the tree has a socket on it: one entry in the datapath stands for all its connections. */
  exclusive: z.boolean(),
});
export type BoundPort = z.infer<typeof portSchema>;

const endSchema = z.object({ address: addressSchema, port: z.number().int().min(0).max(65_535) });

export const flowSchema = z.object({
  protocol: z.enum(['tcp', 'udp']),
  local: endSchema,
  remote: endSchema,
});
export type BoundFlow = z.infer<typeof flowSchema>;

/** A TCP listener of the tree. */
export const listenerSchema = z.object({
  transport: z.enum(['tcp', 'tcp6']),
  /** As the kernel's tables have it, a wildcard too. */
  address: addressSchema,
  port: z.number().int().min(1).max(65_535),
  /** Its name in the home's kernel, when processes have it that stay there: there is where it goes on to be. */
  cookie: z
    .string()
    .regex(/^[0-9a-f]{16}$/)
    .optional(),
});
export type Listener = z.infer<typeof listenerSchema>;

/** A process tree as the migration sees it: plain data, the same on every node. */
export const descriptionSchema = z.object({
  /** Pid at home, by which everybody names it. */
  homePid: pid,
  comm: z.string(),
  commandLine: z.string(),
  /** Pids at home, the root first. */
  pids: z.array(pid).min(1),
  /** What else it has of numbers that must be free for it: threads, and sessions and groups without a leader. */
  numbers: z.array(z.number().int().min(0).max(MAX_PID)).default([]),
  /** Session and process group of the root, by their numbers where it is. */
  session: z.object({ id: z.number().int(), group: z.number().int() }).optional(),
  executables: z.array(z.string()),
  /** Ids of all users that a process of it is, or may become. A record of an older version has none: root's alone to move. */
  users: z.array(z.number().int().min(0)).default([]),
  residentBytes: z.number().int().min(0),
  /** What is no file's and in nobody else's memory of that (RssAnon, proc(5)). Absent from the record of an older version. */
  anonymousBytes: z.number().int().min(0).optional(),
  /** All addresses of its home, by which correspondents may reach it, the node's own first. */
  homeAddresses: z.array(addressSchema).min(1),
  ports: z.array(portSchema),
  /** Exact flows on ports that are shared with processes that stay. */
  flows: z.array(flowSchema),
  connections: z.number().int(),
  /** Addresses at the far ends of its connections and connected sockets, each once; not all of very many. */
  correspondents: z.array(addressSchema).default([]),
  listeners: z.number().int(),
  /** Absent from the record of an older version, whose processes shared none. */
  listening: z.array(listenerSchema).default([]),
});
export type ProcessDescription = z.infer<typeof descriptionSchema>;
