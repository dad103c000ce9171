/* What is asked about policies and drains: by the commands of this machine, and by other nodes. */
import { z } from 'zod';
import { twinIdSchema } from '../migration/messages.js';
import type { Finding } from '../policy/conditions.js';
import { factsSchema, hostFacts, processFacts } from '../policy/facts.js';
import { MAX_DISK_PATHS } from '../policy/policy-file.js';
import { defineEventMethod, defineMethod } from './method.js';

const truth = z.enum(['yes', 'no', 'unknown']);

const finding: z.ZodType<Finding> = z.lazy(() =>
  z.object({
    path: z.string(),
    text: z.string(),
    truth,
    now: truth,
    value: z.string().optional(),
    heldMs: z.number().optional(),
    forMs: z.number().optional(),
    parts: z.array(finding).optional(),
  }),
) as z.ZodType<Finding>;

const decision = z.object({
  at: z.number(),
  policy: z.string(),
  pid: z.number().int(),
  outcome: z.enum(['move', 'return', 'wait', 'stay', 'moved', 'failed']),
  code: z.string().optional(),
  to: z.string().optional(),
  why: z.string(),
});

export const policyExplanation = z.object({
  process: processFacts,
  policies: z.array(
    z.object({
      policy: z.string(),
      outcome: z.enum(['move', 'return', 'wait', 'stay', 'not-chosen']),
      code: z.string().optional(),
      to: z.string().optional(),
      how: z.string().optional(),
      why: z.string(),
      when: finding.optional(),
      until: finding.optional(),
    }),
  ),
  /** What was decided about it since the daemon started, the last of it; the oldest first. */
  decisions: z.array(decision),
  /** What is wrong with the policy file as it is now: the policies are those of its last good version. */
  problem: z.string().optional(),
});
export type PolicyExplanation = z.output<typeof policyExplanation>;

/** @throws `NO_POLICIES`, `NO_SUCH_PROCESS` */
export const explainMethod = defineMethod({
  name: 'policy-explain',
  request: z.object({ pid: z.number().int().positive() }),
  response: policyExplanation,
});

/** `policies`: the text of a policy file; absent: those of this node. @throws `NO_POLICIES`, `POLICY_INVALID` */
export const factsMethod = defineMethod({
  name: 'policy-facts',
  request: z.object({ policies: z.string().optional() }),
  response: factsSchema,
});

/** Asked of another node: what is it like? */
export const hostFactsMethod = defineMethod({
  name: 'host-facts',
  request: z.object({ paths: z.array(z.string().startsWith('/').max(4096)).max(MAX_DISK_PATHS) }),
  response: hostFacts,
});

const drainItem = z.discriminatedUnion('kind', [
  /** A process of another home, by its twin there. */
  z.object({
    kind: z.literal('guest'),
    twin: twinIdSchema,
    pid: z.number().int(),
    name: z.string(),
    home: z.string(),
  }),
  /** A process of this home that a policy is about, and so may move. */
  z.object({
    kind: z.literal('own'),
    policy: z.string(),
    pid: z.number().int(),
    name: z.string(),
    home: z.string(),
  }),
]);
export type DrainItem = z.output<typeof drainItem>;

/** What is to leave a node that is being drained. */
export const drainList = z.object({
  /** Whether it was marked before. */
  before: z.boolean(),
  items: z.array(drainItem),
  /** Processes that were on their way here already when it was marked: guests in a moment, or not. */
  coming: z.number().int(),
});
export type DrainList = z.output<typeof drainList>;

/** What `homeproxy drain` was told of how they leave. */
export const drainHow = z.object({
  /** What they have closed and their correspondents have not taken may be lost. Absent: no. */
  resetClosing: z.boolean().optional(),
});
export type DrainHow = z.output<typeof drainHow>;

export const drainMoved = z.object({ to: z.string(), freezeMs: z.number() });
export type DrainMoved = z.output<typeof drainMoved>;

/** Asked of another node: mark yourself as one to be emptied, or not, and say who is there. */
export const drainMarkMethod = defineMethod({
  name: 'drain-mark',
  request: z.object({ draining: z.boolean() }),
  response: drainList,
});
/** Asked of a marked node: see to it that this one leaves. Ends when it has. @throws why it stays */
export const drainMoveMethod = defineMethod({
  name: 'drain-move',
  request: drainItem.and(drainHow),
  response: drainMoved,
});
/** Asked of a home by the host that its process is on: take it back, or move it elsewhere. @throws why it stays */
export const evacuateMethod = defineMethod({
  name: 'evacuate',
  request: z.object({ twin: twinIdSchema }).and(drainHow),
  response: drainMoved,
});

export const drainRow = z.object({
  pid: z.number().int(),
  name: z.string(),
  home: z.string(),
  outcome: z.enum(['moved', 'failed', 'not-tried']),
  to: z.string().optional(),
  freezeMs: z.number().optional(),
  error: z.object({ code: z.string(), message: z.string() }).optional(),
});
export type DrainRow = z.output<typeof drainRow>;
export const drainReport = z.object({ host: z.string(), draining: z.literal(true), processes: z.array(drainRow) });
export type DrainReport = z.output<typeof drainReport>;

/** `host` absent: this node. Ends when everybody has left, or has been asked to; an abort begins no more moves. */
export const drainMethod = defineEventMethod({
  name: 'drain',
  request: drainHow.extend({ host: z.string().optional(), parallel: z.number().int().min(1).max(4) }),
  event: z.discriminatedUnion('event', [
    z.object({ event: z.literal('begun'), pid: z.number().int(), name: z.string(), home: z.string() }),
    z.object({ event: z.literal('ended'), row: drainRow }),
  ]),
  response: drainReport,
});

export const undrainMethod = defineMethod({
  name: 'undrain',
  request: z.object({ host: z.string().optional() }),
  response: z.object({ host: z.string(), draining: z.literal(false), before: z.boolean() }),
});
