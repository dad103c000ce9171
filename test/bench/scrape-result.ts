import { quantile } from './statistics.js';

/** What issue 7 wants to see. */
const LIMIT_MS = 100;

export interface Scrapes {
  /** From the request to the last byte of the page, in milliseconds. */
  readonly wallMs: readonly number[];
  /** Processor time of the daemon from one page to the next, in milliseconds: whatever else it did in between counts too. */
  readonly processorMs: readonly number[];
  /** Size of the page. */
  readonly bytes: number;
  /** Of which the page tells. */
  readonly bindings: number;
  readonly departed: number;
}

export interface ScrapeResult {
  readonly bindings: number;
  readonly scrapes: number;
  readonly medianMs: number;
  readonly maxMs: number;
  readonly processorMedianMs: number;
  readonly pageBytes: number;
  readonly limitMs: number;
  /** Whether every scrape stayed under the limit. */
  readonly reached: boolean;
}

export function resultOf({ wallMs, processorMs, bytes, bindings }: Scrapes): ScrapeResult {
  const maxMs = Math.max(...wallMs);
  return {
    bindings,
    scrapes: wallMs.length,
    medianMs: rounded(quantile(wallMs, 0.5)),
    maxMs: rounded(maxMs),
    processorMedianMs: rounded(quantile(processorMs, 0.5)),
    pageBytes: bytes,
    limitMs: LIMIT_MS,
    reached: maxMs < LIMIT_MS,
  };
}

/** For people. */
export function scrapeLine(result: ScrapeResult): string {
  const { bindings, scrapes, medianMs, maxMs, processorMedianMs, pageBytes, limitMs, reached } = result;
  const count = bindings.toLocaleString('en');
  return `${count} bindings, ${scrapes} scrapes: median ${medianMs} ms, longest ${maxMs} ms (limit ${limitMs} ms: ${
    reached ? 'reached' : 'not reached'
  }); ${processorMedianMs} ms of processor time; a page of ${Math.round(pageBytes / 1024)} KiB`;
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
