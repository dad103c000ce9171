/*
 * What coordinator and participants say to each other. The same objects serve a participant on this node (called) and one
 * on another (sent): nothing in the protocol knows the difference.
 */
import { z } from 'zod';
import { MIN_PACE } from '../config/pace.js';
import { MIN_RATE } from '../config/rate.js';
import { carriedSummarySchema } from '../files/manifest.js';
import { portBlockSchema } from '../forwarding/port-block.js';
import { type CopyProgress, carriedMemorySchema } from '../memory/carried.js';
import {
  addressSchema,
  type BoundFlow,
  descriptionSchema,
  flowSchema,
  portSchema,
  verdictSchema,
} from '../process/description.js';
import { movingSchema, needsSchema } from '../process/needs.js';
import { connectionNoteSchema } from './connection-table.js';

export const migrationIdSchema = z.string().regex(/^m-[0-9a-z-]{8,40}$/);
/** Names a bound process among all nodes: `<home node>-<home pid>-<random>`. */
export const twinIdSchema = z.string().regex(/^[a-z0-9-]{3,80}$/);

const nodeSchema = z.object({ name: z.string(), address: addressSchema });
export type NodeName = z.infer<typeof nodeSchema>;

/** Its files travel with it; `paths` besides those that it uses. A process that left so is always moved so. */
const carrySchema = z.object({ paths: z.array(z.string().max(4095)).max(1000) });
export type Carry = z.infer<typeof carrySchema>;

/** Source: look at the process. `pid` is its home pid; `twin` is given when it is away, in one of the source's pods. */
export const inspectRequest = z.object({
  pid: z.number().int().positive(),
  twin: twinIdSchema.optional(),
  carry: carrySchema.optional(),
  resetClosing: z.boolean().optional(),
});
export const inspectResponse = z.object({
  description: descriptionSchema,
  verdicts: z.array(verdictSchema),
  moving: movingSchema,
  needs: needsSchema,
  /** What would travel with it, when it was asked for. */
  carried: carriedSummarySchema.optional(),
});
export type InspectRequest = z.infer<typeof inspectRequest>;
export type InspectResponse = z.infer<typeof inspectResponse>;

/** Source: everything that can be done while the process runs; CRIU then stands ready at its first hook. */
export const prepareSourceRequest = z.object({
  migration: migrationIdSchema,
  twin: twinIdSchema,
  epoch: z.number().int().positive(),
  pid: z.number().int().positive(),
  destination: nodeSchema,
  carry: carrySchema.optional(),
  /** What it has closed and its correspondents have not taken does not keep it. */
  resetClosing: z.boolean().optional(),
  /** Its memory will be copied while it runs, as soon as the destination is ready. */
  ahead: z.boolean().optional(),
});
export type PrepareSourceRequest = z.infer<typeof prepareSourceRequest>;

/** Destination: make room for it: pod, binding that holds, images folder. Nothing runs and nothing is heard yet. */
export const prepareDestinationRequest = z.object({
  migration: migrationIdSchema,
  twin: twinIdSchema,
  epoch: z.number().int().positive(),
  home: nodeSchema,
  source: nodeSchema,
  description: descriptionSchema,
  /** Its home's lease: ports of what it opens while it is away. */
  block: portBlockSchema.optional(),
  /** Coming home: the cgroup that it left, where it shall be again. Ignored elsewhere. */
  cgroup: z.string().optional(),
  /** Its files come with it. */
  carry: z.boolean().optional(),
  /** Some of its memory comes when it runs. */
  later: z.boolean().optional(),
});
/** What it can take; an older version says nothing. */
export const prepareDestinationResponse = z.object({
  verdicts: z.array(verdictSchema),
  /** Memory may come when it runs. */
  later: z.boolean().optional(),
  /** The images of connections may come in one. */
  together: z.boolean().optional(),
});
export type PrepareDestinationRequest = z.infer<typeof prepareDestinationRequest>;
export type PrepareDestinationResponse = z.infer<typeof prepareDestinationResponse>;

/** What a node holds of the asking home's processes. */
export const holdingResponse = z.object({
  residents: z.array(
    z.object({
      twin: twinIdSchema,
      description: descriptionSchema,
      epoch: z.number().int(),
      state: z.enum(['held', 'running']),
      migration: migrationIdSchema,
      block: portBlockSchema.optional(),
      /** Its files are with it. */
      carried: z.boolean().optional(),
    }),
  ),
  departing: z.array(z.object({ migration: migrationIdSchema })),
  arriving: z.array(
    z.object({ migration: migrationIdSchema, outcome: z.enum(['held', 'running', 'lost']), fromHome: z.boolean() }),
  ),
});
export type Holding = z.infer<typeof holdingResponse>;

/** Names a process that lives, or lived, in a pod of the asked node. */
export const residentRequest = z.object({ twin: twinIdSchema });
export type ResidentRequest = z.infer<typeof residentRequest>;
/** The process runs elsewhere under this epoch: an older copy here may neither send nor receive. */
export const fenceRequest = z.object({ twin: twinIdSchema, epoch: z.number().int().positive() });
export type FenceRequest = z.infer<typeof fenceRequest>;
/** Asked of a home node: where its processes are now. */
export const whereaboutsRequest = z.object({ twins: z.array(twinIdSchema) });
export const whereaboutsResponse = z.object({
  known: z.array(z.object({ twin: twinIdSchema, epoch: z.number().int(), location: z.string() })),
});

/** Destination: would it take the process? Nothing is made. */
export const assessRequest = z.object({
  home: nodeSchema,
  description: descriptionSchema,
  needs: needsSchema,
  twin: twinIdSchema.optional(),
  carried: carriedSummarySchema.optional(),
});
export const assessResponse = z.object({ verdicts: z.array(verdictSchema) });
export type AssessRequest = z.infer<typeof assessRequest>;
export type AssessResponse = z.infer<typeof assessResponse>;

export const migrationRequest = z.object({ migration: migrationIdSchema });
export type MigrationRequest = z.infer<typeof migrationRequest>;

/** When a migration came to each step on a node; milliseconds since the epoch, by that node's clock. */
export const stepsResponse = z.object({
  steps: z.array(z.object({ step: z.string(), at: z.number() })),
  /** How its connections stood there: for its home alone. Absent: not noted. */
  connections: connectionNoteSchema.optional(),
});

/** What the process is like now: connections come and go between the inspection and this moment. */
export const drainResponse = z.object({ waitedMs: z.number(), description: descriptionSchema });
/** `together`: the destination takes the images of connections in one; an older home says nothing. */
export const freezeRequest = migrationRequest.extend({ together: z.boolean().optional() });
export type FreezeRequest = z.infer<typeof freezeRequest>;
/** What another node says of that when the process stands still; an older version says nothing. */
export const freezeResponse = z.object({ notKept: z.array(z.string()).default([]) });
export interface FreezeResponse {
  /** Connections that it has accepted since the drain from a listener that stays: nobody held those back. */
  readonly accepted: readonly BoundFlow[];
  /** What is lost as it leaves, in words. */
  readonly notKept: readonly string[];
}
/** Destination: the ports that it had in the end; packets to them are for it once it runs. */
export const restoreRequest = z.object({
  migration: migrationIdSchema,
  ports: z.array(portSchema),
  flows: z.array(flowSchema),
});
export type RestoreRequest = z.infer<typeof restoreRequest>;
/** What its copy there does not have as it was, in words. */
export const restoreResponse = z.object({ notKept: z.array(z.string()) });
export type RestoreResponse = z.infer<typeof restoreResponse>;
/** Memory beyond this is not sent ahead: it is copied as a whole, at both ends. */
export const MAX_AHEAD_BYTES = 128 << 20;
/** Places in the list of offered files: their content must be sent. */
export const offerResponse = z.object({ lacking: z.array(z.number().int().nonnegative()) });
/** How much of what was sent ahead the destination keeps. */
export const aheadResponse = z.object({ bytes: z.number().int().nonnegative() });
/** Bytes that were sent, and how its memory goes, if that is known (otherwise) now. */
export const transferResponse = z.object({ bytes: z.number().int(), memory: carriedMemorySchema.optional() });
/** Source: copy memory while it runs. Absent from a request of an older home: the limits. */
export const copyRequest = migrationRequest.extend({
  limits: z
    .object({
      budgetMs: z.number().positive(),
      maxFreezeMs: z.number().positive(),
      bandwidthLimit: z.number().min(MIN_RATE).optional(),
      /** It may be slowed down, to so many percent of its pace. Absent: it may not. */
      throttle: z.number().int().min(MIN_PACE).max(99).optional(),
      /** What is left in the end is sent when the process runs at its destination. */
      later: z.boolean().optional(),
    })
    .optional(),
});
export type CopyRequest = z.infer<typeof copyRequest>;
export const nothing = z.object({});
export type DrainResponse = z.infer<typeof drainResponse>;
export type TransferResponse = z.infer<typeof transferResponse>;

/** Packets that one node's park queue saw in a migration. */
export const parkCountsSchema = z.object({
  parked: z.number().int(),
  replayed: z.number().int(),
  dropped: z.number().int(),
  /** Bytes of memory that were sent when the process ran at its destination already; absent: none. */
  laterBytes: z.number().int().nonnegative().optional(),
});
export type ParkCounts = z.infer<typeof parkCountsSchema>;

/** The node that the process leaves. */
export interface SourceParticipant {
  readonly node: NodeName;
  inspect(request: InspectRequest): Promise<InspectResponse>;
  prepare(request: PrepareSourceRequest): Promise<void>;
  /** The process has ended: remove what stood for it here. Idempotent. @throws {UserError} `STILL_RUNS` */
  discard(request: ResidentRequest): Promise<void>;
  /** Send the files that travel with it while it runs; what changes afterwards goes with the images. */
  carry(request: MigrationRequest): Promise<TransferResponse>;
  /** Send a copy of its memory while it runs, so that in the freeze only the difference has to travel. */
  sendAhead(request: CopyRequest): Promise<TransferResponse>;
  /** How far that is. */
  progress(request: MigrationRequest): Promise<CopyProgress>;
  /** New connections are held back by now: wait until those on their way in have been accepted. */
  drain(request: MigrationRequest): Promise<DrainResponse>;
  /** Stop it and write its images; ends held at CRIU's `post-dump`. */
  freeze(request: FreezeRequest): Promise<FreezeResponse>;
  /** Send the images to the destination. */
  transfer(request: MigrationRequest): Promise<TransferResponse>;
  /** The destination's copy is the process: destroy this one silently. Idempotent. */
  commit(request: MigrationRequest): Promise<ParkCounts>;
  /** This copy is the process: let it run on. Idempotent. */
  abort(request: MigrationRequest): Promise<void>;
  /** No packet for it can come here any more: forget it. Idempotent. */
  finish(request: MigrationRequest): Promise<void>;
}

/** The node that the process goes to. */
export interface DestinationParticipant {
  readonly node: NodeName;
  fence(request: FenceRequest): Promise<void>;
  /** What is here of the asking node's processes, as host, source or destination. */
  holding(): Promise<Holding>;
  assess(request: AssessRequest): Promise<AssessResponse>;
  prepare(request: PrepareDestinationRequest): Promise<PrepareDestinationResponse>;
  /** Restore from the images that have arrived; ends held at CRIU's `post-restore`. */
  restore(request: RestoreRequest): Promise<RestoreResponse>;
  /** This copy is the process: let it speak, hear and run. Idempotent. */
  commit(request: MigrationRequest): Promise<void>;
  /** The migration is over: remove its images and its record. Idempotent. */
  finish(request: MigrationRequest): Promise<void>;
  /** The source's copy is the process: remove everything that was made here. Idempotent. */
  abort(request: MigrationRequest): Promise<void>;
}
