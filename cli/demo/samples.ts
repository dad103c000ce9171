/** Milliseconds since the epoch, with fractions, on the monotonic clock; all processes of a machine agree on it. */
export function epochNow(): number {
  return performance.timeOrigin + performance.now();
}

/** What each reply took: `repliedAt[i]` in epoch milliseconds, `latencyMs[i]` since its request was written. */
export interface Samples {
  readonly repliedAt: Float64Array;
  readonly latencyMs: Float32Array;
}

/** Samples as text, for one line of JSON. */
export interface EncodedSamples {
  readonly repliedAt: string;
  readonly latencyMs: string;
}

/** Collects samples in 12 bytes each, without an object per reply. */
export class SampleRecorder {
  private repliedAt = new Float64Array(16_384);
  private latencyMs = new Float32Array(16_384);
  private count = 0;

  add(repliedAt: number, latencyMs: number): void {
    if (this.count === this.repliedAt.length) this.grow();
    this.repliedAt[this.count] = repliedAt;
    this.latencyMs[this.count] = latencyMs;
    this.count++;
  }

  /** What was collected so far; a view, valid until the next `add`. */
  get samples(): Samples {
    return {
      repliedAt: this.repliedAt.subarray(0, this.count),
      latencyMs: this.latencyMs.subarray(0, this.count),
    };
  }

  private grow(): void {
    const repliedAt = new Float64Array(this.count * 2);
    const latencyMs = new Float32Array(this.count * 2);
    repliedAt.set(this.repliedAt);
    latencyMs.set(this.latencyMs);
    this.repliedAt = repliedAt;
    this.latencyMs = latencyMs;
  }
}

/** Base64 of the arrays as they lie in memory: writer and reader are processes of one machine. */
export function encodeSamples(samples: Samples): EncodedSamples {
  return { repliedAt: base64(samples.repliedAt), latencyMs: base64(samples.latencyMs) };
}

/** The reverse of {@link encodeSamples}. */
export function decodeSamples(encoded: EncodedSamples): Samples {
  const repliedAt = new Float64Array(bytesOf(encoded.repliedAt));
  const latencyMs = new Float32Array(bytesOf(encoded.latencyMs));
  return { repliedAt, latencyMs };
}

function base64(array: Float64Array | Float32Array): string {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');
}

function bytesOf(text: string): ArrayBuffer {
  return Uint8Array.from(Buffer.from(text, 'base64')).buffer;
}
