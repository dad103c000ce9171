import { reached, type StepOf } from './steps.js';

/** By then the first round goes on, and not all of it is there. */
const UNDERWAY_BYTES = 16 << 20;

/** Passes on memory that is sent, or comes, while its process runs, and says so when some of it has. */
export async function* underway<Name extends 'source' | 'destination'>(
  role: Name,
  step: StepOf<Name>,
  migration: string,
  records: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const record of records) {
    yield record;
    const before = bytes;
    bytes += record.length;
    if (before < UNDERWAY_BYTES && bytes >= UNDERWAY_BYTES) await reached(role, step, migration);
  }
}
