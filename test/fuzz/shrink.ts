import type { Entry } from './harness.js';

/** The first packet of several that breaks an invariant, and which; -1: what they do together breaks it. */
export interface Broken {
  readonly packet: number;
  readonly invariant: string;
}

/** Runs packets one behind the other in the same scene as ever. */
export type Trial = (entries: readonly Entry[]) => Broken | undefined;

/** Runs of the programs that may be spent on one failure. */
const MOST_TRIALS = 3000;
/** What an Ethernet header takes: the kernel runs nothing shorter. */
const SHORTEST_FRAME = 14;

/** The same invariant though its numbers differ. */
const kind = (invariant: string): string => invariant.replaceAll(/\d+/g, '#');

/**
 * Leaves out packets, then bytes of the last one, as long as the same invariant is broken.
 * @param broken what the packets as a whole break
 */
export function shrink(
  entries: readonly Entry[],
  broken: Broken,
  trial: Trial,
): { entries: readonly Entry[]; invariant: string } {
  let trials = 0;
  let { invariant } = broken;
  const holds = (candidate: readonly Entry[]): boolean => {
    if (trials++ >= MOST_TRIALS) return false;
    const found = trial(candidate);
    if (found === undefined || kind(found.invariant) !== kind(broken.invariant)) return false;
    invariant = found.invariant;
    return true;
  };
  const last = entries[broken.packet];
  const alone = last !== undefined && holds([last]);
  const fewest = alone ? [last] : fewer(broken.packet < 0 ? entries : entries.slice(0, broken.packet + 1), holds);
  return { entries: shorter(fewest, holds), invariant };
}

/** Without as many packets as can be spared: halves, quarters, ... single ones. */
function fewer(entries: readonly Entry[], holds: (entries: readonly Entry[]) => boolean): readonly Entry[] {
  let kept = entries;
  for (let size = kept.length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at < kept.length; ) {
      const without = [...kept.slice(0, at), ...kept.slice(at + size)];
      if (without.length > 0 && holds(without)) kept = without;
      else at += size;
    }
  }
  return kept;
}

/** With the last packet cut short, and as many of its bytes zero as can be. */
function shorter(entries: readonly Entry[], holds: (entries: readonly Entry[]) => boolean): readonly Entry[] {
  const before = entries.slice(0, -1);
  let last = entries.at(-1) as Entry;
  const attempt = (frame: Buffer): boolean => {
    const candidate = { ...last, frame };
    if (!holds([...before, candidate])) return false;
    last = candidate;
    return true;
  };
  const cutShort = (): void => {
    for (let cut = last.frame.length >> 1; cut >= 1; cut >>= 1) {
      while (last.frame.length - cut >= SHORTEST_FRAME && attempt(last.frame.subarray(0, -cut))) {
        // the same once more
      }
    }
  };
  cutShort();
  for (let at = 0; at < last.frame.length; at++) {
    if (last.frame[at] === 0) continue;
    const frame = Buffer.from(last.frame);
    frame[at] = 0;
    attempt(frame);
  }
  cutShort(); // its length fields may be smaller now
  return [...before, last];
}
