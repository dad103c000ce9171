/*
 * Part 1: nanoseconds per packet of every decision, by the number of flows, beside programs that do less.
 */
import type { BpfProgram } from '../../addon/lib/index.js';
import {
  foreignPort,
  GUEST,
  GUEST_PORT,
  HOME,
  incoming,
  OWN_PORT,
  PARKED_PORT,
  type Random,
  SHARED_PORT,
  tunnelled,
} from './frames.js';
import { Node, ownPorts, STEP_PROGRAMS } from './node.js';
import { Reference } from './reference.js';
import { type Measurement, measure, type Point, type Rounds } from './rounds.js';

export const FLOWS = [1, 1000, 100_000, 1_000_000] as const;
const MOST = FLOWS[3];

/** XDP verdicts of linux/bpf.h. */
const PASS = 2;
const TX = 3;
const REDIRECT = 4;

/** Names of the points: those that depend on the number of flows end in `@<flows>`. */
export const BASE = 'pass';
export const FLOOR = 'floor';
export const CASES = ['encap', 'encapShared', 'hashReference', 'miss', 'deliver', 'park'] as const;

export function pointName(what: (typeof CASES)[number], flows: number): string {
  return `${what}@${flows}`;
}

/** The product's programs and the reference, once for each number of flows. */
export class Scene {
  private constructor(
    readonly nodes: readonly Node[],
    readonly references: readonly Reference[],
    readonly steps: readonly Node[],
  ) {}

  static load(): Scene {
    return new Scene(
      FLOWS.map((flows) => Node.withFlows(flows)),
      FLOWS.map((flows) => Reference.withFlows(flows)),
      FLOWS.map(() => Node.withSteps()),
    );
  }

  close(): void {
    for (const each of [...this.nodes, ...this.references, ...this.steps]) each.close();
  }
}

/** Measures all of it side by side. */
export function measurePackets({ nodes, references, steps }: Scene, rounds: Rounds, random: Random): Measurement {
  const points = FLOWS.flatMap((flows, index) => {
    const [node, reference] = [nodes[index], references[index]];
    if (node === undefined || reference === undefined) throw new RangeError(`nothing is loaded for ${flows} flows`);
    return pointsOf(flows, node, reference, random);
  });
  return measure([...floors(references), ...stepsOf(steps), ...ownPointsOf(nodes), ...points], rounds, random);
}

/** A program and its copies. */
function loaded(programs: readonly BpfProgram[]): Pick<Point, 'program' | 'copies'> {
  return { program: programs[0] as BpfProgram, copies: programs };
}

function floors(references: readonly Reference[]): Point[] {
  const frames = incoming(HOME, () => OWN_PORT);
  const common = { frames, flows: 1, base: BASE };
  return [
    { ...common, name: BASE, ...loaded(references.map((each) => each.program('return_at_once'))), verdict: PASS },
    { ...common, name: FLOOR, ...loaded(references.map((each) => each.program('constant_header'))), verdict: TX },
  ];
}

/**
 * A process with so many connections on its own ports, beside others'. By the same copies whatever the number: those of the nodes
 * that have a process on as many ports.
 */
function ownPointsOf(nodes: readonly Node[]): Point[] {
  const copies = nodes.filter((_, index) => ownPorts(FLOWS[index] ?? 0) === ownPorts(MOST));
  return FLOWS.map((flows) => ({
    name: pointName('encap', flows),
    base: BASE,
    ...loaded(copies.map((node) => node.program('hp_xdp'))),
    frames: incoming(HOME, (flow) => OWN_PORT + (flow % ownPorts(flows))),
    flows,
    verdict: TX,
  }));
}

/** Packets of a million connections, as those of the last point of {@link ownPointsOf}, which is the last step. */
function stepsOf(nodes: readonly Node[]): Point[] {
  const frames = incoming(HOME, (flow) => OWN_PORT + (flow % ownPorts(MOST)));
  const common = { base: BASE, frames, flows: MOST, verdict: TX };
  return STEP_PROGRAMS.map((name) => ({ ...common, name, ...loaded(nodes.map((node) => node.program(name))) }));
}

function pointsOf(flows: number, node: Node, reference: Reference, random: Random): Point[] {
  const common = { flows, base: BASE, program: node.program('hp_xdp') };
  const shared = incoming(HOME, () => SHARED_PORT);
  const hash = reference.program('hash_reference');
  return [
    { ...common, name: pointName('encapShared', flows), frames: shared, verdict: TX },
    { ...common, name: pointName('hashReference', flows), frames: shared, verdict: TX, program: hash },
    { ...common, name: pointName('miss', flows), frames: incoming(HOME, foreignPort(random)), verdict: PASS },
    { ...common, name: pointName('deliver', flows), frames: tunnelled(GUEST, () => GUEST_PORT), verdict: REDIRECT },
    { ...common, name: pointName('park', flows), frames: incoming(HOME, () => PARKED_PORT), verdict: REDIRECT },
  ];
}
