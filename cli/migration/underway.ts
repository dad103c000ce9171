import { reached, type StepOf } from './steps.js';

/** By then the first round goes on, and not all of it is there. */
const UNDERWAY_BYTES = 16 << 20;

/** Told how much memory was sent, or has come, while its process runs: says so when there is some, and waits for who listens. */
export function underway<Name extends 'source' | 'destination'>(
  role: Name,
  step: StepOf<Name>,
  migration: string,
): (bytes: number) => Promise<void> {
  let said = false;
  return async (bytes) => {
    if (said || bytes < UNDERWAY_BYTES) return;
    said = true;
    await reached(role, step, migration);
  };
}
