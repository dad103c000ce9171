import { z } from 'zod';

const RATE = /^(\d{1,6}(?:\.\d{1,3})?)(K|M|G)$/;
const BYTES: Readonly<Record<string, number>> = { K: 1e3, M: 1e6, G: 1e9 };
/** Where it is a number already, for example between daemons. */
export const MIN_RATE = 100_000;

/** Bytes per second, for people: `50M` is 50,000,000. */
export const RATE_WORDS = 'must be a number and K, M or G bytes per second, at least 100K, for example 50M';

/** Bytes per second in a configuration, a policy or a flag: `50M`. */
export function rate() {
  return z
    .string(RATE_WORDS)
    .regex(RATE, RATE_WORDS)
    .refine((text) => bytesOf(text) >= MIN_RATE, RATE_WORDS)
    .transform(bytesOf);
}

function bytesOf(text: string): number {
  const [, count, unit = 'K'] = RATE.exec(text) ?? [];
  return Math.round(Number(count) * (BYTES[unit] ?? 1));
}
