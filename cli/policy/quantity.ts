import { z } from 'zod';

const DURATION = /^(\d{1,6})(ms|s|m|h|d)$/;
const MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

const AMOUNT = /^(\d{1,9}(?:\.\d{1,3})?)(%|B|KiB|MiB|GiB|TiB)$/;
const BYTES: Readonly<Record<string, number>> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

const DURATION_RULE = 'must be a time: a whole number and ms, s, m, h or d, for example 30s';
const AMOUNT_RULE = 'must be an amount: a number and %, B, KiB, MiB, GiB or TiB, for example 10% or 512MiB';
const BYTES_RULE = 'must be a number of bytes: a number and B, KiB, MiB, GiB or TiB, for example 512MiB';

/** Of memory or disk: so many bytes, or that part of the whole. */
export type Amount =
  | { readonly unit: 'bytes'; readonly value: number }
  | { readonly unit: 'percent'; readonly value: number };

/** A time in a policy file: `30s`, `10m`; milliseconds when it is read. */
export function duration() {
  return z
    .string(DURATION_RULE)
    .regex(DURATION, DURATION_RULE)
    .transform((text) => {
      const [, count, unit = 'ms'] = DURATION.exec(text) ?? [];
      return Number(count) * (MS[unit] ?? 1);
    });
}

/** An amount in a policy file: `512MiB` or `10%`. */
export function amount() {
  return z.string(AMOUNT_RULE).regex(AMOUNT, AMOUNT_RULE).transform(toAmount);
}

/** Bytes in a policy file: `512MiB`. */
export function byteCount() {
  return z
    .string(BYTES_RULE)
    .regex(AMOUNT, BYTES_RULE)
    .refine((text) => !text.endsWith('%'), 'must be a number of bytes here, not a percentage')
    .transform((text) => toAmount(text).value);
}

function toAmount(text: string): Amount {
  const [, count, unit = 'B'] = AMOUNT.exec(text) ?? [];
  if (unit === '%') return { unit: 'percent', value: Number(count) };
  return { unit: 'bytes', value: Math.round(Number(count) * (BYTES[unit] ?? 1)) };
}

/** `1.5 GiB` */
export function bytesText(bytes: number): string {
  const unit = ['TiB', 'GiB', 'MiB', 'KiB'].find((name) => bytes >= (BYTES[name] ?? 1)) ?? 'B';
  const count = bytes / (BYTES[unit] ?? 1);
  return `${unit === 'B' ? count : Number(count.toFixed(1))} ${unit}`;
}

/** `90s` as `1m 30s`: what is left out is less than a second. */
export function durationText(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`;
  let rest = Math.floor(ms / 1000);
  const parts: string[] = [];
  for (const [unit, seconds] of [
    ['d', 86_400],
    ['h', 3600],
    ['m', 60],
    ['s', 1],
  ] as const) {
    if (rest < seconds) continue;
    parts.push(`${Math.floor(rest / seconds)}${unit}`);
    rest %= seconds;
  }
  return parts.slice(0, 2).join(' ');
}

export function amountText(value: Amount): string {
  return value.unit === 'percent' ? `${value.value}%` : bytesText(value.value);
}
