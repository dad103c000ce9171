/** One round of copying memory while its process runs. */
export interface Round {
  readonly bytes: number;
  /** Until the network had taken them. */
  readonly ms: number;
  /** In which they were written: since the look before; undefined for the first round, which is all that there is. */
  readonly sinceMs: number | undefined;
}

/** What the rounds so far say of the freeze. */
export interface Forecast {
  readonly rounds: number;
  /** Bytes per second that the process has written, as pages, when it was last looked at. */
  readonly written: number;
  /** Bytes per second that were sent; 0 when none were. */
  readonly sent: number;
  /** How long it would stand still, in milliseconds. */
  readonly freezeMs: number;
  /** That is more than was wanted. */
  readonly beyond: boolean;
}

/** What stopping, dumping and restoring take besides memory: on a machine that is not busy, with few connections. */
const BASE_MS = 60;
/** Between the last round and the freeze it goes on writing: connections are held back, CRIU comes to its gate. */
const UNTIL_FROZEN_MS = 40;
/** Rounds with less say nothing of the network. */
const TELLING_BYTES = 1 << 20;

/**
 * @param budgetMs what the freeze should not take longer than
 * @param limit most bytes per second that are sent, also in the freeze: known where no round was large enough to tell
 */
export function forecastOf(rounds: readonly Round[], budgetMs: number, limit = Number.POSITIVE_INFINITY): Forecast {
  const telling = rounds.filter(({ bytes }) => bytes >= TELLING_BYTES);
  const bytes = telling.reduce((sum, round) => sum + round.bytes, 0);
  const ms = telling.reduce((sum, round) => sum + round.ms, 0);
  const last = rounds.at(-1);
  const written = last?.sinceMs === undefined ? 0 : last.bytes / last.sinceMs;
  const most = limit / 1000;
  const sent = ms > 0 ? Math.min(bytes / ms, most) : Number.isFinite(most) ? most : 0;
  const rest = written * ((last?.ms ?? 0) + UNTIL_FROZEN_MS);
  const restMs = sent === 0 ? 0 : rest / sent;
  const freezeMs = Math.round(BASE_MS + restMs);
  return {
    rounds: rounds.length,
    written: Math.round(written * 1000),
    sent: Math.round(sent * 1000),
    freezeMs,
    beyond: freezeMs > budgetMs,
  };
}

/** A round whose pages are sent in less time leaves nothing that counts. */
const GOOD_ENOUGH_MS = 10;
/** A round that leaves more than this part of the one before gains too little. */
const WORTH_IT = 0.7;
/** While the forecast is beyond what is wanted, less is worth it, too. */
const WORTH_IT_BEYOND = 0.95;

/** Whether one more round makes the freeze shorter. @param budgetMs as above, and `limit` */
export function oneMore(rounds: readonly Round[], budgetMs: number, limit?: number): boolean {
  const [before, last] = rounds.slice(-2);
  if (last === undefined) return before === undefined || before.ms > GOOD_ENOUGH_MS;
  if (last.ms <= GOOD_ENOUGH_MS) return false;
  const worthIt = forecastOf(rounds, budgetMs, limit).beyond ? WORTH_IT_BEYOND : WORTH_IT;
  return last.bytes <= (before?.bytes ?? 0) * worthIt;
}
