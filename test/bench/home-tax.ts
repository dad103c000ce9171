/*
 * Part 3: what the programs cost the other traffic of a home node, by the number of bindings.
 */
import { foreignPort, HOME, incoming, outgoing, type Random } from './frames.js';
import { boundPort, Node, UNBOUND_HOME } from './node.js';
import { Reference } from './reference.js';
import { type Measurement, measure, type Point, type Rounds } from './rounds.js';

export const BINDINGS = [0, 1, 1000, 100_000] as const;

const XDP_PASS = 2;
const TC_OK = 0;
/** On to the next filter. */
const TC_NEXT = -1;
const BASE = 'xdp base';
const TC_BASE = 'tc base';

/** Each is what one packet of somebody else costs. */
export const TAXES = ['xdp', 'ingress', 'egress', 'xdpSamePort'] as const;

export function taxName(what: (typeof TAXES)[number], bindings: number): string {
  return `${what}@${bindings}`;
}

export function measureTax(rounds: Rounds, random: Random): Measurement {
  const reference = Reference.withFlows(1);
  const nodes = BINDINGS.map((bindings) => Node.withBindings(bindings));
  try {
    const foreign = incoming(HOME, foreignPort(random));
    const bases: Point[] = [
      {
        name: BASE,
        base: BASE,
        program: reference.program('return_at_once'),
        frames: foreign,
        flows: FLOWS,
        verdict: XDP_PASS,
      },
      {
        name: TC_BASE,
        base: TC_BASE,
        program: reference.program('tc_return_at_once'),
        frames: foreign,
        flows: FLOWS,
        verdict: TC_OK,
      },
    ];
    const points = nodes.flatMap((node, index) => pointsOf(node, BINDINGS[index] ?? 0, random));
    return measure([...bases, ...points], rounds, random);
  } finally {
    for (const each of [reference, ...nodes]) each.close();
  }
}

const FLOWS = 100_000;

function pointsOf(node: Node, bindings: number, random: Random): Point[] {
  const foreign = foreignPort(random);
  const arriving = incoming(HOME, foreign);
  const tc = { base: TC_BASE, flows: FLOWS, verdict: TC_NEXT };
  const xdp = { base: BASE, flows: FLOWS, verdict: XDP_PASS, program: node.program('hp_xdp') };
  // To an address of the node that has no binding, on ports that another address has one on: the filter knows ports only.
  const samePort = incoming(UNBOUND_HOME, () => boundPort(Math.floor(random() * bindings)).port);
  return [
    { ...xdp, name: taxName('xdp', bindings), frames: arriving },
    { ...xdp, name: taxName('xdpSamePort', bindings), frames: samePort },
    { ...tc, name: taxName('ingress', bindings), frames: arriving, program: node.program('hp_ingress') },
    { ...tc, name: taxName('egress', bindings), frames: outgoing(HOME, foreign), program: node.program('hp_egress') },
  ];
}
