import { Reason } from './abi.gen.js';

/** Why a packet went where it went: the names of the counters, of events and of metrics. */
export type ReasonName = Exclude<keyof typeof Reason, 'count'>;

export const REASON_NAMES = Object.keys(Reason).filter((name) => name !== 'count') as ReasonName[];
