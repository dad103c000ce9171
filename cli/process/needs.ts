import { z } from 'zod';

/** A file whose content changed more lately than so many milliseconds is being written: two looks at it would differ. */
export const SETTLED_MS = 10_000;

/** A path that a process needs where it goes. */
export const neededFileSchema = z.object({
  path: z
    .string()
    .max(4096)
    .regex(/^[^\0]+$/, 'must be a path'),
  use: z.enum([
    /** It has it in its memory, code above all: the very same content. */
    'mapped',
    /** It has it open: CRIU compares mode and size, we its content where it stands still. */
    'open',
    /** A FIFO or a device that it has open. */
    'special',
    'folder',
    /** It was deleted, or replaced, under it: a copy travels, and is made in that folder for a moment. */
    'ghost',
    /** The unix socket of a service that it sends to. */
    'peer',
    /** A unix socket of its own, which is bound there again. */
    'listener',
  ]),
  bytes: z.number().int().nonnegative().optional(),
  /** Permissions and kind, as in `st_mode`. */
  mode: z.number().int().optional(),
  sha256: z.string().optional(),
  /** Of an open file that is being written, or whose content is told: when that changed last, in milliseconds since 1970. */
  changedAtMs: z.number().optional(),
});
export type NeededFile = z.infer<typeof neededFileSchema>;

/** What a tree needs of the host where it goes: the source says it, the destination compares. */
export const needsSchema = z.object({
  files: z.array(neededFileSchema),
  /** Instruction sets of the processor where the tree runs (flags of /proc/cpuinfo). */
  cpuFeatures: z.array(z.string()),
  /** As in /proc/<pid>/status, hexadecimal: those that a process of the tree has. */
  capabilities: z.string().regex(/^[0-9a-f]{0,16}$/, 'must be hexadecimal'),
  seccomp: z.boolean(),
  ipv6: z.boolean(),
  /** That its sockets were told to use. */
  congestionControls: z.array(z.string()),
  /** Memory of its own, which is copied, in bytes. */
  memoryBytes: z.number().int().min(0),
  /** Of that in huge pages. */
  hugeBytes: z.number().int().min(0),
  /** Numbers of the terminals whose masters it has: each is /dev/pts/<number>, and can be no other. */
  terminals: z.array(z.number().int().nonnegative()).default([]),
  /** Its objects in /dev/shm, by their names there. */
  sharedMemory: z.array(z.object({ names: z.array(z.string()), bytes: z.number().int().nonnegative() })).default([]),
  /** Version of the CRIU that would dump it. */
  criu: z.string(),
});
export type Needs = z.infer<typeof needsSchema>;

/** What the tool understood: what would move. */
export const movingSchema = z.object({
  processes: z.number().int(),
  threads: z.number().int(),
  memoryBytes: z.number().int(),
  listeners: z.number().int(),
  connections: z.number().int(),
  datagramSockets: z.number().int(),
  unixSockets: z.number().int(),
  pipes: z.number().int(),
  openFiles: z.number().int(),
  mappedFiles: z.number().int(),
});
export type Moving = z.infer<typeof movingSchema>;
