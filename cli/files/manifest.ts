/* The list of the files that travel with a process: what each is, and the hash of what is in it. Plain data for wire and journal. */
import { z } from 'zod';
import { carriedPathSchema } from './carried-path.js';

/** More are not carried: each costs a look in the freeze. */
export const MAX_ENTRIES = 65_536;
/** For the list of so many as JSON. */
export const MAX_MANIFEST_BYTES = 32 << 20;
/** What nodes tell each other of a manifest before a move: the largest files. */
export const MAX_SUMMARY_FILES = 3000;

const id = z.number().int().min(0).max(0xffff_ffff);
const owner = { uid: id, gid: id, mode: z.number().int().min(0).max(0o7777) };
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const fileEntry = z.strictObject({
  kind: z.literal('file'),
  path: carriedPathSchema,
  ...owner,
  bytes: z.number().int().nonnegative(),
  /** Milliseconds since the epoch, with fractions. */
  modifiedAt: z.number(),
  sha256,
  /** The process has it open, or in its memory: CRIU will look for it under its path. */
  held: z.boolean(),
  /** The process may write it through a descriptor or a mapping that it has. */
  written: z.boolean(),
});
export type FileEntry = z.infer<typeof fileEntry>;

export const entrySchema = z.discriminatedUnion('kind', [
  fileEntry,
  z.strictObject({ kind: z.literal('folder'), path: carriedPathSchema, ...owner }),
  z.strictObject({ kind: z.literal('fifo'), path: carriedPathSchema, ...owner }),
  z.strictObject({ kind: z.literal('link'), path: carriedPathSchema, target: z.string().min(1).max(4095) }),
]);
export type Entry = z.infer<typeof entrySchema>;

/** What stands before the contents of files on the wire. */
export const parcelSchema = z.strictObject({
  /** Each file's content follows, in this order. Folders come before what is in them. */
  entries: z.array(entrySchema).max(MAX_ENTRIES),
  /** What was there when the process was last looked at, and is there no more. */
  removed: z.array(carriedPathSchema).max(MAX_ENTRIES),
  /** The process stands still: nothing changes any more. */
  final: z.boolean(),
});
export type Parcel = z.infer<typeof parcelSchema>;

/** What a node tells of what would travel, so that another can say what it has. */
export const carriedSummarySchema = z.object({
  files: z.number().int(),
  bytes: z.number().int(),
  /** The largest of them. */
  largest: z.array(fileEntry).max(MAX_SUMMARY_FILES),
});
export type CarriedSummary = z.infer<typeof carriedSummarySchema>;

export function summaryOf(entries: readonly Entry[]): CarriedSummary {
  const files = entries.filter((entry) => entry.kind === 'file');
  const largest = [...files].sort((one, other) => other.bytes - one.bytes).slice(0, MAX_SUMMARY_FILES);
  return { files: files.length, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0), largest };
}

/** Whether two entries are the same thing with the same content. */
export function sameEntry(one: Entry | undefined, other: Entry): boolean {
  if (one === undefined || one.kind !== other.kind) return false;
  if (one.kind === 'link' || other.kind === 'link') {
    return one.kind === 'link' && other.kind === 'link' && one.target === other.target;
  }
  if (one.mode !== other.mode || one.uid !== other.uid || one.gid !== other.gid) return false;
  return one.kind !== 'file' || (other.kind === 'file' && one.sha256 === other.sha256);
}
