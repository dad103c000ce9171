/* What the commands ask of the daemon; the answers are the commands' JSON contracts. */
import { z } from 'zod';
import { MIN_PACE } from '../config/pace.js';
import { MIN_RATE } from '../config/rate.js';
import { carriedMemorySchema, copyProgress } from '../memory/carried.js';
import { stepsResponse } from '../migration/messages.js';
import { connectionStateSchema } from '../process/connection-state.js';
import { verdictSchema } from '../process/description.js';
import { movingSchema } from '../process/needs.js';
import { defineEventMethod, defineMethod } from './control-transport.js';

const packetCounts = z.object({ packets: z.number(), bytes: z.number() });

export const processRow = z.object({
  pid: z.number().int(),
  comm: z.string(),
  commandLine: z.string(),
  home: z.string(),
  location: z.string(),
  /** `departed`: ours, away. `resident`: another home's, here. `moving`: on its way now. */
  role: z.enum(['departed', 'resident', 'moving']),
  since: z.number(),
  epoch: z.number().int(),
  /** Number of its binding on this node. */
  binding: z.number().int(),
  ports: z.array(z.string()),
  /** "65280-65535": from which it takes the ports of what it opens while it is away; absent: it has none. */
  portBlock: z.string().optional(),
  /** `carried`: its own files are with it, in a root of its own. Absent: a daemon of an older version. */
  files: z.enum(['shared', 'carried']).optional(),
  /** By reason: tunnelled, delivered, sent, parked, guarded, ... */
  counters: z.record(z.string(), packetCounts),
});
export type ProcessRow = z.infer<typeof processRow>;

export const hostRow = z.object({
  name: z.string(),
  address: z.string(),
  port: z.number().int(),
  self: z.boolean(),
  reachable: z.boolean(),
  roundTripMs: z.number().optional(),
  error: z.object({ code: z.string(), message: z.string() }).optional(),
  /** It takes no process (`homeproxy drain`); absent: it did not say. */
  draining: z.boolean().optional(),
  /** Our processes that run there. */
  departedHere: z.number().int(),
});
export type HostRow = z.infer<typeof hostRow>;

export const statusReport = z.object({
  node: z.string(),
  address: z.string(),
  version: z.string(),
  pid: z.number().int(),
  startedAt: z.number(),
  uplinks: z.array(
    z.object({
      interface: z.string(),
      ifindex: z.number(),
      mode: z.string(),
      reason: z.string(),
      /** How the tc programs are attached; absent: a daemon of an older version. */
      classifier: z.object({ by: z.enum(['tcx', 'filter']), reason: z.string() }).optional(),
    }),
  ),
  bindings: z.number().int(),
  departed: z.number().int(),
  residents: z.number().int(),
  moving: z.array(z.number().int()),
  /** Processes that run here, some of whose memory is elsewhere yet; absent: a daemon of an older version. */
  incomplete: z
    .array(z.object({ pid: z.number().int(), comm: z.string(), from: z.string(), missingBytes: z.number() }))
    .optional(),
  /** Copies that are kept here, frozen, because processes that left lack some of their memory; absent: a daemon of an older version. */
  kept: z
    .array(
      z.object({
        pid: z.number().int(),
        comm: z.string(),
        to: z.string(),
        missingBytes: z.number(),
        trouble: z.string().optional(),
      }),
    )
    .optional(),
  /** Whether Prometheus can read us; absent: a daemon of an older version. */
  metrics: z
    .object({ state: z.enum(['off', 'served', 'failed']), url: z.string().optional(), error: z.string().optional() })
    .optional(),
  counters: z.array(z.object({ hook: z.string(), reason: z.string(), packets: z.number(), bytes: z.number() })),
});
export type StatusReport = z.infer<typeof statusReport>;

const phases = z.record(z.string(), z.number());
export const migrationSummary = z.object({
  migration: z.string(),
  pid: z.number().int(),
  from: z.string(),
  to: z.string(),
  outcome: z.literal('committed'),
  freezeMs: z.number(),
  stallMs: z.number().optional(),
  totalMs: z.number(),
  phases,
  connections: z.number().int(),
  parkedPackets: z.number().int(),
  replayedPackets: z.number().int(),
  droppedPackets: z.number().int(),
  bytesMoved: z.number().int(),
  notKept: z.array(z.string()).readonly().optional(),
  memory: carriedMemorySchema.optional(),
  startedAt: z.number(),
  frozenAt: z.number(),
  resumedAt: z.number(),
});

const nothing = z.object({});
const files = {
  /** Absent: as it left, `shared` at first. */
  files: z.enum(['shared', 'carry']).optional(),
  /** With `carry`: what travels besides. */
  carry: z.array(z.string().max(4095)).max(1000).optional(),
};
const pid = z.number().int().positive();
/** What it has closed and its correspondents have not taken may be lost. */
const resetClosing = z.boolean().optional();

export const statusMethod = defineMethod({
  name: 'status',
  users: 'everybody',
  request: nothing,
  response: statusReport,
});
export const psMethod = defineMethod({
  name: 'ps',
  users: 'everybody',
  request: nothing,
  response: z.object({ processes: z.array(processRow) }),
});
export const hostsMethod = defineMethod({
  name: 'hosts',
  users: 'everybody',
  request: nothing,
  response: z.object({ hosts: z.array(hostRow) }),
});
export const inspectMethod = defineMethod({
  name: 'inspect',
  users: 'owner',
  request: z.object({ pid, ...files }),
  response: z.object({ from: z.string(), moving: movingSchema, verdicts: z.array(verdictSchema) }),
});
/** `to` absent: back home. */
export const migrateMethod = defineEventMethod({
  name: 'migrate',
  users: 'owner',
  request: z.object({
    pid,
    to: z.string().optional(),
    maxFreezeMs: z.number().int().positive().optional(),
    freezeBudgetMs: z.number().int().positive().optional(),
    bandwidthLimit: z.number().min(MIN_RATE).optional(),
    throttle: z.number().int().min(MIN_PACE).max(99).optional(),
    copyAhead: z.boolean().optional(),
    postCopy: z.boolean().optional(),
    resetClosing,
    ...files,
  }),
  event: z.object({ phase: z.string(), atMs: z.number(), copied: copyProgress.optional() }),
  response: migrationSummary,
});
/** Detaches and removes everything that the daemon owns, then ends it. */
export const downMethod = defineMethod({
  name: 'down',
  request: z.object({ force: z.boolean() }),
  response: z.object({ removed: z.array(z.string()) }),
});

const journalRow = z.object({
  migration: z.string(),
  /** Of the coordinator; `taken-part` when this node was source or destination for another home. */
  state: z.enum(['preparing', 'freezing', 'committed', 'reverting', 'reverted', 'done', 'rolled-back', 'taken-part']),
  pid: z.number().int().optional(),
  comm: z.string().optional(),
  from: z.string().optional(),
  to: z.string().optional(),
  epoch: z.number().int().optional(),
  startedAt: z.number().optional(),
  error: z.object({ code: z.string(), message: z.string() }).optional(),
  /** The policy that asked for it; absent: somebody did. */
  policy: z.string().optional(),
  /** Of a migration that this node decided, and that was committed and not cut short by a crash. */
  summary: migrationSummary.optional(),
  /** What happened on this node, and when (milliseconds since the epoch). */
  steps: stepsResponse.shape.steps,
});
export type JournalRow = z.infer<typeof journalRow>;
export const journalReport = z.object({
  node: z.string(),
  migrations: z.array(journalRow),
  /** Migrations whose end this node waits for, as a participant. */
  departing: z.array(z.string()),
  arriving: z.array(z.string()),
});
export type JournalReport = z.infer<typeof journalReport>;
/** The last `last` migrations, or one by its name. */
export const journalMethod = defineMethod({
  name: 'journal',
  request: z.object({ last: z.number().int().positive().max(200).default(20), migration: z.string().optional() }),
  response: journalReport,
});
const connectionNumbers = connectionStateSchema.omit({ local: true, remote: true });
/** One migration, with the steps of every node that took part in it. */
export const migrationReport = z.object({
  node: z.string(),
  row: journalRow,
  /** How its TCP connections stood at both ends; absent: neither has noted any. */
  connections: z
    .object({
      /** Of all that it had; `moved` has the first of them. */
      total: z.number().int(),
      moved: z.array(
        z.object({
          local: z.string(),
          remote: z.string(),
          /** When it had stopped. */
          atSource: connectionNumbers.optional(),
          /** Before it ran. */
          atDestination: connectionNumbers.optional(),
          /** Whether they are the same; absent when one end has not noted it. */
          same: z.boolean().optional(),
        }),
      ),
    })
    .optional(),
  /** What CRIU does not carry of its sockets and was set again at the destination, in words; absent: not noted. */
  reapplied: z.array(z.string()).optional(),
  others: z.array(
    z.object({
      node: z.string(),
      steps: stepsResponse.shape.steps,
      error: z.object({ code: z.string(), message: z.string() }).optional(),
    }),
  ),
});
export type MigrationReport = z.infer<typeof migrationReport>;
/** @throws `UNKNOWN_MIGRATION` */
export const reportMethod = defineMethod({
  name: 'report',
  request: z.object({ migration: z.string() }),
  response: migrationReport,
});
/** Every verdict on a move; nothing is touched. */
export const assessMethod = defineMethod({
  name: 'assess',
  users: 'owner',
  request: z.object({ pid, to: z.string().optional(), resetClosing, ...files }),
  response: z.object({ from: z.string(), moving: movingSchema, verdicts: z.array(verdictSchema) }),
});

const errorText = z.object({ code: z.string(), message: z.string() });
export const recoverReport = z.object({
  processes: z.array(
    z.object({
      pid: z.number().int(),
      comm: z.string(),
      location: z.string(),
      outcome: z.enum(['known', 'rebuilt', 'failed']),
      error: errorText.optional(),
    }),
  ),
  migrations: z.array(z.object({ migration: z.string(), outcome: z.enum(['rolled-forward', 'rolled-back']) })),
  unreachable: z.array(z.object({ node: z.string(), error: errorText })),
});
export type RecoverReport = z.infer<typeof recoverReport>;
/** For a node that was rebuilt: stands in again for its processes on the hosts. */
export const recoverMethod = defineMethod({ name: 'recover', request: nothing, response: recoverReport });
