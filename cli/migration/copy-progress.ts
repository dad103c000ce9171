import { setTimeout as pause } from 'node:timers/promises';
import type { CopyProgress } from '../memory/carried.js';
import type { MigrationRequest } from './messages.js';

const EVERY_MS = 500;

/**
 * Asks the source how far it is with copying memory, and tells whoever watches, until the copying is over. A source that does not
 * answer, or is of a version that does not know the question, is not asked again.
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
      const progress = await source.progress({ migration });
      over.signal.throwIfAborted();
      if (progress.total > 0) tell(progress);
    }
  } catch {
    // it is over, or nobody knows
  }
}
