import { pick, randomFrom } from '../fault/chance.js';
import type { ProgramName, ReasonName } from '../packet/bench.js';
import { Checker, MARK_ANSWER, MARK_CRIU, MARK_HANDED_IN, MARK_PIECE, MARK_REPLAYED, MARK_REVERSED } from './check.js';
import { corpus } from './corpus.js';
import { Batch, type Entry, Harness, type Outcomes, wasRefused } from './harness.js';
import { Mutation, SMALLEST_SEGMENT, sortSeeds } from './mutate.js';
import { ownNodeCorpus } from './own-node.js';
import { comparePaths } from './paths.js';
import { counterpart, makeScene, type Scene } from './scenes.js';
import { type Broken, shrink } from './shrink.js';

export interface CampaignOptions {
  readonly packets: number;
  readonly seed: number;
  /** Runs this one scene only. */
  readonly scene?: number;
  /** Ends after so many seconds, though fewer packets were run. */
  readonly seconds?: number;
  readonly onProgress?: (packets: number) => void;
}

export interface Failure {
  readonly seed: number;
  readonly scene: number;
  /** Which packet of the scene; -1: what they did together. */
  readonly packet: number;
  readonly invariant: string;
  readonly description: Scene;
  /** Packets that show it one behind the other in that scene: the last one breaks the invariant. */
  readonly packets: readonly { readonly hex: string; readonly mark: number; readonly gsoSize: number }[];
}

export interface CampaignReport {
  readonly seed: number;
  readonly packets: number;
  /** Which the kernel did not take: shorter than an Ethernet header, for example. */
  readonly refused: number;
  readonly scenes: number;
  readonly seconds: number;
  /** How many packets the fast path of each program tunnelled. */
  readonly fast: Readonly<Record<string, number>>;
  /** How often each program gave each reason. */
  readonly reasons: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly failure?: Failure;
}

/** Packets of one scene. */
export const SCENE_PACKETS = 1024;
/** After these reasons a packet is gone: what the program left of it does not matter. */
const GONE: readonly ReasonName[] = ['fenced', 'looped', 'congested', 'park_no_queue'];

const MARKS = [MARK_ANSWER, MARK_REVERSED, MARK_PIECE, MARK_HANDED_IN, MARK_CRIU];

/** The packets of a scene: the same for the same seed and number. */
export class Scenes {
  private readonly seeds = [...corpus(), ...ownNodeCorpus()];
  readonly batch = new Batch(SCENE_PACKETS);

  constructor(private readonly seed: number) {}

  make(number: number): Scene {
    const random = randomFrom(Math.imul(this.seed + 1, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b));
    const scene = makeScene(number, random);
    const mutation = new Mutation(this.batch.packets, random, sortSeeds(this.seeds, scene));
    this.batch.clear();
    while (this.batch.count < SCENE_PACKETS) {
      const length = mutation.make(this.batch.end);
      const dice = scene.oddSkbs ? Math.floor(random() * 10) : 9;
      if (dice === 0) this.batch.take(length, pick(MARKS, random));
      else if (dice <= 2) this.batch.take(length, MARK_REPLAYED);
      else if (dice <= 5) this.batch.take(length, 0, SMALLEST_SEGMENT + Math.floor(random() * 1400));
      else this.batch.take(length);
    }
    return scene;
  }
}

/** Runs mutated packets until one breaks an invariant, or as many as were asked for. */
export function runCampaign(options: CampaignOptions): CampaignReport {
  const harness = new Harness(SCENE_PACKETS);
  const scenes = new Scenes(options.seed);
  const tally = new Tally();
  const started = performance.now();
  const elapsed = (): number => (performance.now() - started) / 1000;
  const first = options.scene ?? 0;
  let number = first;
  let failure: Failure | undefined;
  try {
    for (; tally.packets < options.packets && failure === undefined; number++) {
      if (options.seconds !== undefined && elapsed() > options.seconds) break;
      if (options.scene !== undefined && number > options.scene) break;
      const scene = scenes.make(number);
      const broken = runScene(harness, scene, scenes.batch, tally);
      if (broken !== undefined) failure = describe(harness, scene, scenes.batch, broken, options.seed, number);
      options.onProgress?.(tally.packets);
    }
  } finally {
    harness.close();
  }
  return {
    seed: options.seed,
    packets: tally.packets,
    refused: tally.refused,
    scenes: number - first,
    seconds: elapsed(),
    fast: tally.fast,
    reasons: tally.reasons,
    ...(failure === undefined ? {} : { failure }),
  };
}

class Tally {
  packets = 0;
  refused = 0;
  readonly fast: Record<string, number> = {};
  readonly reasons: Record<string, Record<string, number>> = {};

  add(program: ProgramName, reasons: ReadonlyMap<ReasonName, number>, refused: number, fast: number): void {
    this.fast[program] = (this.fast[program] ?? 0) + fast;
    const row = this.reasons[program] ?? {};
    this.reasons[program] = row;
    for (const [reason, packets] of reasons) {
      row[reason] = (row[reason] ?? 0) + packets;
      this.packets += packets;
    }
    this.refused += refused;
  }
}

const checker = new Checker();

/** Runs one scene. @returns the first packet that breaks an invariant */
export function runScene(harness: Harness, scene: Scene, batch: Batch, tally?: Tally): Broken | undefined {
  const outcomes = harness.run(scene, batch);
  const broken =
    checkAll(scene, scene.program, batch, outcomes, tally) ??
    comparePaths(scene.program, batch, outcomes, harness.run(scene, batch, scene.program, 'general'));
  const other = counterpart(scene.program);
  // In a queue that drains, what is parked depends on what the other program has parked already.
  if (broken !== undefined || other === undefined || scene.binding.draining) return broken;
  const reasons = reasonsOf(scene.program, batch, outcomes);
  const sizes = outcomes.sizes.slice();
  const outputs = Buffer.from(
    outcomes.outputs.subarray(
      0,
      sizes.reduce((sum, size) => sum + size, 0),
    ),
  );
  const plain = batch.withoutContexts();
  const again = harness.run(scene, plain, other);
  const wrong = checkAll(scene, other, plain, again, tally);
  return wrong ?? compare(reasons, sizes, outputs, reasonsOf(other, plain, again), again);
}

function checkAll(
  scene: Scene,
  program: ProgramName,
  batch: Batch,
  outcomes: Outcomes,
  tally?: Tally,
): Broken | undefined {
  const reasons = new Map<ReasonName, number>();
  let refused = 0;
  checker.begin();
  for (let packet = 0; packet < batch.count; packet++) {
    const invariant = checker.check(scene, program, batch, outcomes, packet);
    if (invariant !== undefined) return { packet, invariant };
    if (wasRefused(outcomes.verdicts[packet] as number)) {
      refused++;
      continue;
    }
    const reason = checker.counted(program, batch, outcomes, packet) as ReasonName;
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  }
  tally?.add(program, reasons, refused, outcomes.fast);
  const invariant = checker.checkTogether(scene, program, outcomes, reasons);
  return invariant === undefined ? undefined : { packet: -1, invariant };
}

function reasonsOf(program: ProgramName, batch: Batch, outcomes: Outcomes): (ReasonName | undefined)[] {
  return Array.from({ length: batch.count }, (_, packet) => {
    if (wasRefused(outcomes.verdicts[packet] as number)) return undefined;
    const reason = checker.counted(program, batch, outcomes, packet);
    return reason instanceof Error ? undefined : reason;
  });
}

/** XDP and tc must agree, but where XDP leaves a packet to tc. */
function compare(
  reasons: readonly (ReasonName | undefined)[],
  sizes: Uint32Array,
  outputs: Buffer,
  others: readonly (ReasonName | undefined)[],
  outcomes: Outcomes,
): Broken | undefined {
  let at = 0;
  for (let packet = 0; packet < reasons.length; packet++) {
    const size = sizes[packet] as number;
    const from = at;
    at += size;
    const [xdp, tc] = [reasons[packet], others[packet]];
    if (xdp === undefined || tc === undefined || xdp === 'slow_path') continue;
    if (xdp === 'tunnelled' && checker.narrowed.has(packet)) continue; // tc has heard of a narrower way
    if (xdp !== tc) return { packet, invariant: `hp_xdp counts ${xdp} where hp_ingress counts ${tc}` };
    if (GONE.includes(xdp)) continue;
    const other = outcomes.outputOffsets[packet] as number;
    const otherSize = outcomes.sizes[packet] as number;
    if (size !== otherSize || outputs.compare(outcomes.outputs, other, other + otherSize, from, from + size) !== 0) {
      return { packet, invariant: `hp_xdp and hp_ingress both count ${xdp}, but make different packets` };
    }
  }
  return undefined;
}

function describe(harness: Harness, scene: Scene, batch: Batch, broken: Broken, seed: number, number: number): Failure {
  const trial = (entries: readonly Entry[]): Broken | undefined => runScene(harness, scene, Batch.of(entries));
  const { entries, invariant } = shrink(batch.entries(), broken, trial);
  const packets = entries.map(({ frame, mark, gsoSize }) => ({ hex: frame.toString('hex'), mark, gsoSize }));
  return { seed, scene: number, packet: broken.packet, invariant, description: scene, packets };
}
