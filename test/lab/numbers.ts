/** What a client of `numbers-main` connects to. */
export interface NumbersPort {
  readonly port: number;
  readonly connections: number;
  /** Default: the server sends numbers. `echo`: it sends back what it gets. `totals`: a line of totals to each new connection, then its end. */
  readonly kind?: 'echo' | 'totals';
}

export interface NumbersOptions {
  readonly host: string;
  readonly ports: readonly NumbersPort[];
}

export interface NumbersResult {
  /** Checked on each connection, the fewest. */
  readonly fewest: number;
  readonly faults: readonly string[];
  /** What was told last by those of the kind `totals`. */
  readonly totals: readonly number[];
}

export const NUMBERS_CLIENT = 'test/lab/numbers-main.js';
