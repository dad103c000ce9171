import { setTimeout as pause } from 'node:timers/promises';
import { asHomeproxyError } from '../errors.js';

/** Failures after which the other side may not have heard us; everything else is an answer. */
const UNHEARD = new Set(['HOST_UNREACHABLE', 'HOST_NOT_TRUSTED', 'INCOMPATIBLE']);
/** Whether a failure leaves open what the other side did. */
export function isUnheard(code: string): boolean {
  return UNHEARD.has(code);
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;

/**
 * Repeats an idempotent step of a decided migration until the other side has done it, with growing pauses, whatever it answers
 * meanwhile: giving up would leave a process that nobody lets run. A node that is down sends no event when it comes back,
 * so this is the one place that polls.
 * @param finalCode the one answer that ends it
 * @throws that answer, or the last failure once `signal` is aborted
 */
export async function insist<Result>(
  action: () => Promise<Result>,
  signal: AbortSignal,
  finalCode?: string,
): Promise<Result> {
  for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
    try {
      return await action();
    } catch (error) {
      if (asHomeproxyError(error).code === finalCode || signal.aborted) throw error;
      await pause(wait, undefined, { signal }).catch(() => undefined);
    }
  }
}
