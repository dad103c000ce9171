import { z } from 'zod';

const PACE = /^([1-9]\d)%$/;
/** A process that had less of its time would as good as stand still. */
export const MIN_PACE = 10;

/** Part of its own pace that a process keeps: `25%`. */
export const PACE_WORDS = 'must be a percentage from 10% to 99%, for example 25%';

/** A pace in a policy or a flag: `25%`; a whole number when it is read. */
export function pace() {
  return z
    .string(PACE_WORDS)
    .regex(PACE, PACE_WORDS)
    .transform((text) => Number.parseInt(text, 10));
}
