// SPDX-License-Identifier: Apache-2.0
import type { BpfMap } from './map.js';
import { native } from './native.js';
import type { Watch } from './types.js';

/**
 * Calls `callback` with a copy of every sample, on this thread. A sample is consumed even when the callback throws;
 * what it throws is an uncaught exception. The map may be closed meanwhile.
 */
export class RingBuffer implements Watch {
  readonly #native: Watch;

  constructor(map: BpfMap, callback: (sample: Buffer) => void) {
    if (map.type !== 'ringbuf') throw new TypeError(`map ${map.name} is of type ${map.type}, not ringbuf`);
    if (typeof callback !== 'function') throw new TypeError('callback must be a function');
    this.#native = new native.RingBuffer(map.fd, callback);
  }

  /** No sample is delivered afterwards, not even one that waits. */
  close(): void {
    this.#native.close();
  }

  ref(): void {
    this.#native.ref();
  }

  unref(): void {
    this.#native.unref();
  }
}
