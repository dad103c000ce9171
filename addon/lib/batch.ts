// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';
import type { BpfProgram } from './program.js';
import type { BatchOptions, BatchResult } from './types.js';

/** Words of 32 bits that tell a packet's changes of a watched map. */
export const CHANGE_ROW = 9;

/**
 * Runs a program once on each of many packets (BPF_PROG_TEST_RUN), with everything about each run in typed arrays: for tests
 * that need millions of runs. A packet that the kernel does not take is an errno among the verdicts, no exception.
 */
export function runBatch(program: BpfProgram, options: BatchOptions): BatchResult {
  const { packets, lengths, contexts, outputs, contextsOut, watch = [] } = options;
  const count = lengths.length;
  const bytes = lengths.reduce((sum, length) => sum + length, 0);
  if (bytes > packets.length) throw new RangeError(`${packets.length} bytes of packets, but lengths of ${bytes}`);
  if (contexts !== undefined && count > 0 && contexts.length % count !== 0) {
    throw new RangeError(`${contexts.length} bytes of contexts are not ${count} of one size`);
  }
  if (contextsOut !== undefined && contextsOut.length !== contexts?.length) {
    throw new RangeError('contextsOut must be as large as contexts');
  }
  const verdicts = new Int32Array(count);
  const sizes = new Uint32Array(count);
  const durationsNs = new Uint32Array(count);
  const changes = watch.map(() => new Uint32Array(count * CHANGE_ROW));
  const watched = watch.map(
    ({ fd, valueSize, maxEntries }, index) =>
      [fd, Math.ceil(valueSize / 8) * 8 * maxEntries, changes[index] as Uint32Array] as const,
  );
  const ran = native.runBatch(
    program.fd,
    packets,
    lengths,
    contexts ?? null,
    outputs ?? null,
    contextsOut ?? null,
    verdicts,
    sizes,
    durationsNs,
    watched,
  );
  return { count: ran, verdicts, sizes, durationsNs, changes };
}
