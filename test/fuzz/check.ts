import { Counters, Reason } from '../../cli/forwarding/abi.gen.js';
import type { ProgramName, ReasonName } from '../packet/bench.js';
import { checkAnswer, checkDelivered, checkTunnelled, Passage } from './forms.js';
import { type Batch, CHANGE_ROW, HOOKS, type Outcomes, SKB_GSO_SIZE, SKB_MARK } from './harness.js';
import { Heard, whoHears, whoSpeaks } from './hearing.js';
import { LONGEST_FRAME, SMALLEST_SEGMENT } from './mutate.js';
import { Tag } from './reading.js';
import type { Scene } from './scenes.js';

export const REASONS = Object.keys(Reason).filter((name) => name !== 'count') as ReasonName[];
/** Marks of bpf/too_big.h and bpf/tc.h. */
export const MARK_ANSWER = 0x6870696d;
export const MARK_REPLAYED = 0x6870726c;

const XDP = ['aborted', 'drop', 'pass', 'tx', 'redirect'];
const TC: Readonly<Record<number, string>> = { 0: 'pass', 2: 'drop', 7: 'redirect' };

const untouched = (passage: Passage): string | undefined =>
  passage.same() ? undefined : 'a packet that is only passed, or parked as it came, must not be touched';
const anything = (): undefined => undefined;
/** Passed or parked: as it came, or what was in the tunnel. */
const perhapsDecapsulated = (passage: Passage): string | undefined =>
  passage.tunnel === undefined ? untouched(passage) : checkDelivered(passage, undefined);
const intoPod = (passage: Passage): string | undefined => checkDelivered(passage, passage.scene.binding);

interface Rule {
  readonly verdicts: readonly string[];
  readonly form: (passage: Passage) => string | undefined;
  /** The packet must be for (or of) a bound process. */
  readonly ours: boolean;
}

const passed: Rule = { verdicts: ['pass'], form: untouched, ours: false };
const dropped: Rule = { verdicts: ['drop'], form: anything, ours: true };
const redirected: Rule = { verdicts: ['redirect'], form: untouched, ours: true };

/** Of a frame of a test run. */
const MOST_SEGMENTS = Math.ceil(LONGEST_FRAME / SMALLEST_SEGMENT);
const intoTunnel: Rule = { verdicts: ['redirect'], form: checkTunnelled, ours: true };

/** What each reason promises, whichever program gives it. */
const RULES: Partial<Record<ReasonName, Rule>> = {
  not_ours: passed,
  not_parsed: passed,
  malformed: passed,
  tagged: passed,
  fragment_unknown: passed,
  tunnel_unknown_node: passed,
  tunnel_no_binding: passed,
  slow_path: { ...passed, ours: true },
  at_home: { verdicts: ['pass'], form: perhapsDecapsulated, ours: true },
  parked: { verdicts: ['redirect'], form: perhapsDecapsulated, ours: true },
  park_no_queue: dropped,
  tunnelled: { verdicts: ['redirect', 'tx'], form: checkTunnelled, ours: true },
  delivered: { verdicts: ['redirect'], form: intoPod, ours: true },
  sent: redirected,
  held: redirected,
  fenced: dropped,
  guarded: dropped,
  too_big: { verdicts: ['redirect'], form: checkAnswer, ours: true },
  too_big_unanswered: dropped,
  no_room: dropped,
  replayed_home: { verdicts: ['redirect'], form: untouched, ours: true },
  looped: dropped,
  congested: dropped,
  no_route: dropped,
  reversed: { verdicts: ['redirect'], form: perhapsDecapsulated, ours: true },
};

/** Where one program differs: it sees only what is a process's own. */
const PROGRAM_RULES: Partial<Record<ProgramName, Partial<Record<ReasonName, Rule>>>> = {
  hp_ingress: { replayed_home: { ...passed, ours: false } },
  hp_egress: { too_big: passed },
  hp_pod: { not_parsed: dropped, malformed: dropped, reversed: intoTunnel },
  hp_replay: { not_parsed: dropped, malformed: dropped, reversed: intoTunnel },
};

/** Reasons that a batch without super-packets must never give. */
const ONLY_SUPER: readonly ReasonName[] = ['no_room'];

/** Reasons that no packet gets but for a binding, which counts it as well. */
const OF_BINDINGS: readonly ReasonName[] = [
  'parked',
  'held',
  'tunnelled',
  'delivered',
  'sent',
  'reversed',
  'guarded',
  'looped',
];

export class Checker {
  /** @returns the reason that was counted, or what is wrong */
  counted(program: ProgramName, batch: Batch, outcomes: Outcomes, index: number): ReasonName | Error {
    const row = index * CHANGE_ROW;
    const [words, first, packets, second, bytes] = outcomes.changes.subarray(row, row + 5) as unknown as number[];
    const length = batch.lengths[index] as number;
    if (words === 0) return new Error('no counter has counted the packet');
    if (words !== 2 || (first as number) % 2 !== 0 || second !== (first as number) + 1 || packets !== 1) {
      return new Error(`a packet must be counted once under one reason: ${words} words of the counters changed`);
    }
    if (bytes !== length) return new Error(`${bytes} bytes were counted of a frame of ${length}`);
    const counter = (first as number) / 2;
    if (Math.floor(counter / Counters.per_hook) !== HOOKS[program])
      return new Error(`${program} counted under another hook`);
    return REASONS[counter % Counters.per_hook] as ReasonName;
  }

  /** @returns which invariant the packets of a scene break together, by what was counted of them; undefined: none */
  checkTogether(
    scene: Scene,
    program: ProgramName,
    outcomes: Outcomes,
    reasons: ReadonlyMap<ReasonName, number>,
  ): string | undefined {
    for (const [reason, packets] of outcomes.bindingTotals) {
      const all = reasons.get(reason) ?? 0;
      if (packets > all) return `${program} counted ${packets} packets as ${reason} for bindings, ${all} in all`;
    }
    for (const reason of OF_BINDINGS) {
      const [own, all] = [outcomes.bindingTotals.get(reason) ?? 0, reasons.get(reason) ?? 0];
      if (own !== all) return `${program} counted ${all} packets as ${reason}, but ${own} for a binding`;
    }
    const parked = (reasons.get('parked') ?? 0) + (reasons.get('held') ?? 0);
    const most = scene.oddSkbs ? parked * MOST_SEGMENTS : parked;
    if (outcomes.parked < parked || outcomes.parked > most) {
      return `${program} took ${outcomes.parked} places in the queue for ${parked} packets`;
    }
    const replays = program === 'hp_replay' && scene.knownDevice ? [...reasons.values()].reduce((a, b) => a + b, 0) : 0;
    if (outcomes.replayed === replays) return undefined;
    return `${program} gave ${outcomes.replayed} places in the queue back for ${replays} packets`;
  }

  /** @returns which invariant the packet breaks; undefined: none */
  check(scene: Scene, program: ProgramName, batch: Batch, outcomes: Outcomes, index: number): string | undefined {
    const returned = outcomes.verdicts[index] as number;
    if (returned < 0) return undefined; // the kernel did not take it
    const reason = this.counted(program, batch, outcomes, index);
    if (reason instanceof Error) return reason.message;
    const verdict = (program === 'hp_xdp' ? XDP[returned] : TC[returned]) ?? `unknown verdict ${returned}`;
    const rule = PROGRAM_RULES[program]?.[reason] ?? RULES[reason];
    if (rule === undefined) return `reason ${reason} is not known to the checks`;
    const say = (text: string): string => `${program} counted ${reason}: ${text}`;
    if (!rule.verdicts.includes(verdict)) return say(`its verdict must not be ${verdict}`);
    const inPlace = scene.transmitInPlace && scene.binding.nextHopIfindex === 1 && program === 'hp_xdp';
    if (reason === 'tunnelled' && (verdict === 'tx') !== inPlace) return say(`its verdict must not be ${verdict}`);
    const context = batch.context(index);
    const gsoSize = context.readUInt32LE(SKB_GSO_SIZE);
    if (ONLY_SUPER.includes(reason) && (program === 'hp_xdp' || gsoSize === 0)) return say('of a plain packet');
    const from = batch.offsets[index] as number;
    const end = from + (batch.lengths[index] as number);
    const passage = new Passage(scene, program, batch.packets, from, end, program === 'hp_xdp' ? 0 : gsoSize);
    passage.cameOut(outcomes.outputs, outcomes.outputOffsets[index] as number, outcomes.sizes[index] as number);
    const marked = program === 'hp_xdp' ? 0 : context.readUInt32LE(SKB_MARK);
    const heard = hear(passage, program);
    const exempt = marked === MARK_REPLAYED || marked === MARK_ANSWER;
    const tagged = passage.outer.tag !== Tag.none && reason === 'slow_path'; // tc takes the tag off
    if (rule.ours && heard === Heard.nobody && !tagged) return say('of a packet that no binding has a claim to');
    if (!rule.ours && heard === Heard.bound && !exempt) return say('of a packet that a binding has a claim to');
    const broken = verdict === 'drop' ? undefined : rule.form(passage);
    return broken === undefined ? undefined : say(broken);
  }
}

/** Whether a bound process hears the packet, or speaks in it; sets the passage's readings. */
function hear(passage: Passage, program: ProgramName): Heard {
  if (program === 'hp_pod' || program === 'hp_replay') {
    passage.outer.readFrame(passage.input, passage.from, passage.end);
    return Heard.perhaps; // the device says whose it is
  }
  return program === 'hp_egress' ? whoSpeaks(passage) : whoHears(passage);
}
