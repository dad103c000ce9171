import type { Samples } from './samples.js';

/** A stretch of time, in epoch milliseconds. */
export interface Window {
  readonly from: number;
  readonly to: number;
}

/** A slice of the timeline. */
export interface Bin extends Window {
  /** Replies that came in it. */
  readonly replies: number;
  /** The longest latency of the requests that were under way at some time in it; 0 when there were none. */
  readonly maxMs: number;
  /** The median latency of the replies that came in it; undefined when none came. */
  readonly medianMs: number | undefined;
}

/**
 * The longest time that a correspondent waited for a reply, of all requests that were under way in the window. Requests in
 * `unansweredSince` still waited at `endedAt`.
 */
export function stallWithin(
  samples: Samples,
  window: Window,
  unansweredSince: readonly number[] = [],
  endedAt = window.to,
): number {
  let longest = 0;
  for (let index = 0; index < samples.repliedAt.length; index++) {
    const repliedAt = samples.repliedAt[index] ?? 0;
    const latency = samples.latencyMs[index] ?? 0;
    if (repliedAt >= window.from && repliedAt - latency <= window.to && latency > longest) longest = latency;
  }
  for (const sentAt of unansweredSince) if (sentAt <= window.to) longest = Math.max(longest, endedAt - sentAt);
  return longest;
}

/** Cuts the window into `count` bins of the same length. */
export function binned(samples: Samples, window: Window, count: number): Bin[] {
  const width = (window.to - window.from) / count;
  const last = count - 1;
  const indexOf = (time: number): number => Math.min(last, Math.max(0, Math.floor((time - window.from) / width)));
  const longest = new Float64Array(count);
  const latencies: number[][] = Array.from({ length: count }, () => []);
  for (let index = 0; index < samples.repliedAt.length; index++) {
    const repliedAt = samples.repliedAt[index] ?? 0;
    const latency = samples.latencyMs[index] ?? 0;
    if (repliedAt < window.from || repliedAt - latency > window.to) continue;
    for (let bin = indexOf(repliedAt - latency); bin <= indexOf(repliedAt); bin++) {
      longest[bin] = Math.max(longest[bin] ?? 0, latency);
    }
    if (repliedAt <= window.to) latencies[indexOf(repliedAt)]?.push(latency);
  }
  return latencies.map((own, index) => ({
    from: window.from + index * width,
    to: window.from + (index + 1) * width,
    replies: own.length,
    maxMs: longest[index] ?? 0,
    medianMs: own.length === 0 ? undefined : median(own),
  }));
}

/** The value below which `share` (0 to 1) of all latencies lie; 0 when there are none. */
export function quantile(latencies: Float32Array | readonly number[], share: number): number {
  if (latencies.length === 0) return 0;
  const sorted = Float64Array.from(latencies).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

function median(latencies: readonly number[]): number {
  return quantile(latencies, 0.5);
}

/** A logarithmic scale from one power of ten to another. */
export interface LogScale {
  readonly low: number;
  readonly high: number;
  /** Powers of ten from low to high. */
  readonly decades: readonly number[];
  /** Place on the scale: 0 at low, 1 at high, held within. */
  at(value: number): number;
}

/** The smallest scale of whole decades that holds all positive values; 0.1 to 100 at least. */
export function logScale(values: readonly number[]): LogScale {
  const positive = values.filter((value) => value > 0);
  const lowest = Math.floor(Math.log10(Math.min(0.1, ...positive)));
  const highest = Math.ceil(Math.log10(Math.max(100, ...positive)));
  const low = Math.max(lowest, -2);
  const decades = Array.from({ length: highest - low + 1 }, (_, index) => 10 ** (low + index));
  return {
    low: 10 ** low,
    high: 10 ** highest,
    decades,
    at: (value) => (value <= 0 ? 0 : Math.min(1, Math.max(0, (Math.log10(value) - low) / (highest - low)))),
  };
}

/** Milliseconds for people: two or three digits, with a unit. */
export function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 10) return `${ms.toFixed(0)} ms`;
  if (ms >= 1) return `${ms.toFixed(1)} ms`;
  return `${ms.toFixed(2)} ms`;
}
