import { z } from 'zod';

const MAX_WORDS = 500;
/** No copying takes a day. */
const MAX_MS = 86_400_000;

/** How the memory of a process went with it. */
export const carriedMemorySchema = z.object({
  /** Large mappings while it ran, and CRIU did not touch them; or all of it through CRIU, in the freeze. */
  copied: z.enum(['ahead', 'in-freeze']),
  /** Why in the freeze. */
  reason: z
    .object({
      code: z.enum(['ASKED', 'SMALL', 'TREE', 'SHADOW_STACK', 'UNTRACKED', 'NOT_TAKEN', 'FORKED']),
      words: z
        .string()
        .max(MAX_WORDS)
        .regex(/^\P{Cc}*$/u),
    })
    .optional(),
  /** Bytes of it that came when the process ran already. */
  later: z.number().nonnegative().optional(),
  /** What the rounds said before the freeze: bytes per second, and milliseconds. */
  forecast: z
    .object({
      rounds: z.number().int().nonnegative(),
      written: z.number().nonnegative(),
      sent: z.number().nonnegative(),
      freezeMs: z.number().nonnegative(),
      /** That was more than the rounds worked for. */
      beyond: z.boolean(),
    })
    .optional(),
  /** It was slowed down so that the rounds could end; absent: it was not. */
  throttle: z
    .object({
      /** Of its time that it had in the end. */
      percent: z.number().int().min(0).max(100),
      /** From the first step until it stood still, or was given its time back. */
      ms: z.number().nonnegative().max(MAX_MS),
    })
    .optional(),
});
export type CarriedMemory = z.infer<typeof carriedMemorySchema>;
export type ReasonCode = NonNullable<CarriedMemory['reason']>['code'];

/** How far a round of copying memory is, in bytes and bytes per second; a total of 0: there is none. */
export const copyProgress = z.object({
  round: z.number().int().nonnegative(),
  bytes: z.number().nonnegative(),
  total: z.number().nonnegative(),
  rate: z.number().nonnegative(),
  /** Percent of its time that the process has; absent: it is not slowed down. */
  pace: z.number().min(0).max(100).optional(),
  /** It runs at its destination, and what is copied is the rest. */
  later: z.boolean().optional(),
});
export type CopyProgress = z.infer<typeof copyProgress>;

const WORDS: Readonly<Record<Exclude<ReasonCode, 'UNTRACKED' | 'NOT_TAKEN'>, string>> = {
  ASKED: 'as --mode stop-and-copy says',
  SMALL: 'it has less than 6 MiB of its own',
  TREE: 'it is a tree of several processes',
  SHADOW_STACK: 'it uses a shadow stack',
  FORKED: 'it had made a child by then',
};

/** All of it goes through CRIU. */
export function inFreeze(code: keyof typeof WORDS): CarriedMemory {
  return { copied: 'in-freeze', reason: { code, words: WORDS[code] } };
}

/** Errors of `trackWrites`, by what they mean. */
const UNTRACKED: Readonly<Record<string, string>> = {
  EINVAL: 'its writes cannot be tracked: Linux is older than 6.7',
  ENOTSUP: 'its writes cannot be tracked: it is no 64-bit x86 process',
  EBUSY: 'its writes cannot be tracked: it is stopped',
  EPERM: 'its writes cannot be tracked: it is traced, or a seccomp filter of it is against it',
  EMFILE: 'its writes cannot be tracked: it has no free descriptor',
};

/** The process, or this kernel, does not allow the tracking. */
export function untracked(error: unknown): CarriedMemory {
  const { code, message } = error as NodeJS.ErrnoException;
  const words = UNTRACKED[code ?? ''] ?? `its writes cannot be tracked: ${message}`;
  return { copied: 'in-freeze', reason: { code: 'UNTRACKED', words: oneLine(words) } };
}

/** The destination, or the way there, failed while it was copied. */
export function notTaken(error: unknown): CarriedMemory {
  const words = `the destination did not take it ahead: ${(error as Error).message}`;
  return { copied: 'in-freeze', reason: { code: 'NOT_TAKEN', words: oneLine(words) } };
}

function oneLine(words: string): string {
  return words.replace(/\p{Cc}+/gu, ' ').slice(0, MAX_WORDS);
}

const MIB = 1 << 20;

/** How far the copying is, for people who wait. */
export function copiedInWords({ round, bytes, total, rate, pace, later }: CopyProgress): string {
  const rest = rate === 0 ? '' : `, ${((total - Math.min(bytes, total)) / rate).toFixed(1)} s left`;
  const speed = `${(rate / MIB).toFixed(1)} MiB/s${rest}`;
  const slowed = pace === undefined ? '' : `, slowed down to ${pace} %`;
  const what = later === true ? 'memory that follows' : `memory, round ${round}`;
  return `${what}: ${Math.round(bytes / MIB)} of ${Math.round(total / MIB)} MiB, ${speed}${slowed}`;
}

/** For people. */
export function memoryInWords({ copied, reason, forecast, throttle, later }: CarriedMemory): string {
  const seconds = ((throttle?.ms ?? 0) / 1000).toFixed(1);
  const slowed = throttle === undefined ? '' : `; slowed down to ${throttle.percent} % of its pace, for ${seconds} s`;
  if (copied === 'in-freeze') return `copied in the freeze: ${reason?.words ?? 'no reason is known'}${slowed}`;
  if (later !== undefined) {
    const mib = (later / MIB).toFixed(1);
    return `copied while it ran, ${mib} MiB of it when it ran at its destination already${slowed}`;
  }
  if (forecast === undefined) return `copied while it ran${slowed}`;
  const { rounds, written, sent, freezeMs } = forecast;
  const rate = (bytes: number): string => `${(bytes / (1 << 20)).toFixed(1)} MiB/s`;
  const speeds = `it wrote ${rate(written)}, ${rate(sent)} were sent`;
  return `copied while it ran, in ${rounds} rounds (${speeds}; a freeze of ${freezeMs} ms was expected)${slowed}`;
}
