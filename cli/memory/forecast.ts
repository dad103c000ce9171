/** One round of copying memory while its process runs. */
export interface Round {
  readonly bytes: number;
  /** Until the network had taken them. */
  readonly ms: number;
  /** In which they were written: since the look before; undefined for the first round, which is all that there is. */
  readonly sinceMs: number | undefined;
  /** Percent of its time that the process had while they were sent; absent: all of it. */
  readonly pace?: number;
  /** It was sent behind whatever else ran here: how fast it can be sent is not known from it. */
  readonly behind?: boolean;
}

/** What the rounds work for, and within which bounds. */
export interface Aim {
  /** What the freeze should not take longer than, in milliseconds. */
  readonly budgetMs: number;
  /** Most bytes per second that are sent. */
  readonly limit?: number | undefined;
  /** The process may be slowed down, so that it stands still no longer than so many milliseconds. */
  readonly slowing?: { readonly leastPercent: number; readonly withinMs: number } | undefined;
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
  const large = rounds.filter(({ bytes }) => bytes >= TELLING_BYTES);
  const ahead = large.filter(({ behind }) => behind !== true);
  const telling = ahead.length > 0 ? ahead : large;
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

/** At the same pace of the process. */
const MAX_ROUNDS = 12;
/** What is foreseen leaves so much of what is allowed: a machine that is busy needs more than that. */
const MARGIN = 0.75;
/** At this part of the pace at which it writes as much as is sent, each round leaves half as much as the one before. */
const CONVERGING = 0.5;
/** A process that writes the same pages again and again leaves as many of them when it is only a little slower. */
const SMALLEST_STEP = 0.7;
/** What was measured at one pace says little of a very different one. */
const LARGEST_STEP = 0.25;

/**
 * What comes after these rounds: one more, or an end, or a slower process, and then one more.
 * @returns `hurry`: one more that does not go behind others. A number: the percent of its time that the process should have from now on. Where there is no way to what is wanted, it
 * is not slowed down, and where the slowest that is allowed was not enough, the rounds end.
 */
export function nextOf(
  rounds: readonly Round[],
  { budgetMs, limit, slowing }: Aim,
): 'round' | 'hurry' | 'end' | number {
  const pace = rounds.at(-1)?.pace ?? 100;
  const atPace = rounds.filter((round) => (round.pace ?? 100) === pace);
  const wantedMs = (slowing?.withinMs ?? 0) * MARGIN;
  // in the freeze it goes behind nobody: before that is foreseen to be too long, it is seen how fast it is then
  if (rounds.at(-1)?.behind === true && forecastOf(rounds, budgetMs, limit).beyond) return 'hurry';
  // what the first round at a new pace sends was still written at the former one
  if (pace < 100 && atPace.length < 2) return 'round';
  const worksFor = pace < 100 ? Math.max(budgetMs, wantedMs) : budgetMs; // it is slowed down for no more than it has to be
  if (atPace.length < MAX_ROUNDS && oneMore(atPace, worksFor, limit)) return 'round';
  if (slowing === undefined || pace <= slowing.leastPercent || wantedMs <= BASE_MS) return 'end';
  const { written, sent, beyond } = forecastOf(rounds, wantedMs, limit);
  if (!beyond || sent === 0) return 'end';
  const converging = (pace * CONVERGING * sent) / written;
  const step = Math.min(Math.max(converging, pace * LARGEST_STEP), pace * SMALLEST_STEP);
  return Math.max(Math.floor(step), slowing.leastPercent);
}
