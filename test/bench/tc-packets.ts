/*
 * Nanoseconds per packet on the way of a departed process through tc, with the fast paths and without.
 */
import {
  foreignPort,
  GUEST,
  GUEST_PORT,
  HOME,
  incoming,
  OWN_PORT,
  outgoing,
  type Random,
  tunnelled,
} from './frames.js';
import { Node } from './node.js';
import { Reference } from './reference.js';
import { type Measurement, measure, type Point, type Rounds } from './rounds.js';

/** TC_ACT_REDIRECT, and "on to the next filter". */
const REDIRECT = 7;
const NEXT = -1;
const BASE = 'tc base';
const FLOWS = 1000;

export const PATHS = ['fast', 'general'] as const;

/** In the order in which a packet of a correspondent and the answer to it meet the programs. */
export const STATIONS = {
  tunnel: { program: 'hp_ingress', verdict: REDIRECT, frames: () => incoming(HOME, () => OWN_PORT) },
  tunnelLeaves: { program: 'hp_egress', verdict: NEXT, frames: () => tunnelled(HOME, () => OWN_PORT) },
  deliver: { program: 'hp_ingress', verdict: REDIRECT, frames: () => tunnelled(GUEST, () => GUEST_PORT) },
  entry: { program: 'hp_entry', verdict: NEXT, frames: () => incoming(GUEST, () => GUEST_PORT) },
  said: { program: 'hp_pod', verdict: REDIRECT, frames: () => outgoing(GUEST, () => GUEST_PORT) },
  saidLeaves: { program: 'hp_egress', verdict: NEXT, frames: () => outgoing(GUEST, () => GUEST_PORT) },
  miss: { program: 'hp_ingress', verdict: NEXT, frames: (random: Random) => incoming(HOME, foreignPort(random)) },
} as const;
export type Station = keyof typeof STATIONS;

export function stationName(station: Station, path: (typeof PATHS)[number]): string {
  return `${station}@${path}`;
}

export function measureTc(rounds: Rounds, random: Random): Measurement {
  const reference = Reference.withFlows(1);
  const nodes = PATHS.map((path) => ({ path, node: Node.withGuest({ fastPath: path === 'fast' }) }));
  try {
    const base: Point = {
      ...{ name: BASE, base: BASE, program: reference.program('tc_return_at_once') },
      ...{ frames: incoming(HOME, () => OWN_PORT), flows: FLOWS, verdict: 0 },
    };
    const points = nodes.flatMap(({ path, node }) =>
      (Object.keys(STATIONS) as Station[]).map((station): Point => {
        const { program, verdict, frames } = STATIONS[station];
        const measured = { program: node.program(program), frames: frames(random), flows: FLOWS, verdict };
        return { ...measured, name: stationName(station, path), base: BASE };
      }),
    );
    return measure([base, ...points], rounds, random);
  } finally {
    for (const each of [reference, ...nodes.map(({ node }) => node)]) each.close();
  }
}
