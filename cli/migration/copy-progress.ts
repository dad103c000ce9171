import { setTimeout as pause } from 'node:timers/promises';
import { asHomeproxyError } from '../errors.js';
import type { CopyProgress } from '../memory/carried.js';
import { isUnheard } from './insist.js';
import type { MigrationRequest } from './messages.js';

const EVERY_MS = 500;

/**
 * Asks the source how far it is with copying memory, and tells whoever watches, until the copying is over. A source that cannot be
 * reached is asked again; one that is of a version which does not know the question, or else has no answer, is not.
 */
export async function followCopying(
  source: { progress(request: MigrationRequest): Promise<CopyProgress> },
  migration: string,
  copying: Promise<unknown>,
  tell: (progress: CopyProgress) => void,
): Promise<void> {
  const over = new AbortController();
  copying.then(
    () => over.abort(),
    () => over.abort(),
  );
  try {
    for (;;) {
      await pause(EVERY_MS, undefined, { signal: over.signal, ref: false });
      const progress = await source.progress({ migration }).catch((error: unknown) => {
        if (!isUnheard(asHomeproxyError(error).code)) throw error;
      });
      over.signal.throwIfAborted();
      if (progress !== undefined && progress.total > 0) tell(progress);
    }
  } catch {
    // it is over, or nobody knows
  }
}
