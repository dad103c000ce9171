import { Counters, Reason } from '../../cli/forwarding/abi.gen.js';
import { HOOKS, OTHER_IFINDEX, type ProgramName, type ReasonName } from '../packet/bench.js';
import {
  checkAnswer,
  checkDelivered,
  checkHomeward,
  checkIntoReverse,
  checkLoopedBack,
  checkOverLo,
  checkRelayed,
  checkReplayed,
  checkReversed,
  checkSent,
  checkSplit,
  checkTunnelled,
  needsSplit,
  overhead,
  Passage,
  toldMtu,
} from './forms.js';
import { type Batch, CHANGE_ROW, type Outcomes, SKB_BYTES, SKB_GSO_SIZE, SKB_MARK, wasRefused } from './harness.js';
import { Heard, whoComesOverLo, whoHears, whoIsAway, whoSpeaks, whoTalks } from './hearing.js';
import { LONGEST_FRAME, SMALLEST_SEGMENT } from './mutate.js';
import { Tag } from './reading.js';
import { POD_PROGRAMS, type Scene } from './scenes.js';

export const REASONS = Object.keys(Reason).filter((name) => name !== 'count') as ReasonName[];
/** Marks of bpf/too_big.h, bpf/tc.h and bpf/reverse.h. */
export const MARK_ANSWER = 0x6870696d;
export const MARK_REPLAYED = 0x6870726c;
export const MARK_REVERSED = 0x68707276;
export const MARK_PIECE = 0x68706670;
export const MARK_HANDED_IN = 0x68706869;
/** CRIU's own, SOCCR_MARK of its soccr/soccr.h. */
export const MARK_CRIU = 0xc114;
/** By which a program knows what another one of ours has judged already: it is not read again. */
const EXEMPT: Partial<Record<ProgramName, readonly number[]>> = {
  hp_ingress: [MARK_REPLAYED],
  hp_egress: [MARK_ANSWER, MARK_REVERSED, MARK_PIECE],
  hp_loopback: [MARK_CRIU],
  hp_inside: [MARK_CRIU],
};

const XDP = ['aborted', 'drop', 'pass', 'tx', 'redirect'];
const TC: Readonly<Record<number, string>> = { [-1]: 'pass', 2: 'drop', 7: 'redirect' };

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
const intoTunnel: Rule = { verdicts: ['redirect'], form: checkIntoReverse, ours: true };

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
  sent: { ...redirected, form: checkSent },
  split: { verdicts: ['redirect'], form: checkSplit, ours: true },
  path_mtu: passed,
  too_big_relayed: { verdicts: ['redirect'], form: checkRelayed, ours: false },
  held: redirected,
  fenced: dropped,
  guarded: dropped,
  too_big: { verdicts: ['redirect'], form: checkAnswer, ours: true },
  too_big_unanswered: dropped,
  no_room: dropped,
  replayed_home: { verdicts: ['redirect'], form: checkReplayed, ours: true },
  looped_back: { verdicts: ['redirect'], form: checkLoopedBack, ours: true },
  looped: dropped,
  congested: dropped,
  no_route: dropped,
  reversed: { verdicts: ['redirect'], form: checkReversed, ours: true },
};

/** Where one program differs: it sees only what is a process's own. Those inside a pod give no other reasons than these. */
const PROGRAM_RULES: Partial<Record<ProgramName, Partial<Record<ReasonName, Rule>>>> = {
  hp_ingress: { replayed_home: { ...passed, ours: false } },
  hp_egress: { too_big: passed, reversed: passed, split: { ...redirected, ours: false } },
  hp_pod: { not_parsed: dropped, malformed: dropped, reversed: intoTunnel },
  hp_replay: { not_parsed: dropped, malformed: dropped, reversed: intoTunnel },
  hp_loopback: { internal: passed },
  hp_inside: {
    not_parsed: passed,
    malformed: passed,
    internal: passed,
    homeward: { verdicts: ['redirect'], form: checkHomeward, ours: true },
  },
  hp_entry: { delivered: passed, looped_back: { verdicts: ['redirect'], form: checkOverLo, ours: true } },
};

/** What tc alone is given to judge: XDP must leave it. */
const NEWS: readonly ReasonName[] = ['path_mtu', 'too_big_relayed'];

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
  'split',
  'too_big_relayed',
  'looped_back',
];

/** Which know what they give reasons of their own for by a mark alone, or know of no bindings. */
const WITHOUT_BINDING: readonly ProgramName[] = ['hp_egress', ...POD_PROGRAMS];

export class Checker {
  /** What the node has learnt of the way to the care-of address from the packets so far. */
  private learnt = Number.POSITIVE_INFINITY;
  /** Packets whose tunnel another program would have made otherwise, as it had not learnt that. */
  readonly narrowed = new Set<number>();

  /** Before the first packet of a batch: the programs remember nothing. */
  begin(): void {
    this.learnt = Number.POSITIVE_INFINITY;
    this.narrowed.clear();
  }

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
    const totals = totalsOf(outcomes);
    for (const [reason, packets] of totals) {
      const all = reasons.get(reason) ?? 0;
      if (packets > all) return `${program} counted ${packets} packets as ${reason} for bindings, ${all} in all`;
    }
    for (const reason of OF_BINDINGS) {
      if (WITHOUT_BINDING.includes(program) && PROGRAM_RULES[program]?.[reason] !== undefined) continue;
      const [own, all] = [totals.get(reason) ?? 0, reasons.get(reason) ?? 0];
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
    if (wasRefused(returned)) return undefined;
    const reason = this.counted(program, batch, outcomes, index);
    if (reason instanceof Error) return reason.message;
    const verdict = (program === 'hp_xdp' ? XDP[returned] : TC[returned]) ?? `unknown verdict ${returned}`;
    const rule = PROGRAM_RULES[program]?.[reason] ?? (POD_PROGRAMS.includes(program) ? undefined : RULES[reason]);
    if (rule === undefined) return `${program} must not count ${reason}, as far as the checks know`;
    const say = (text: string): string => `${program} counted ${reason}: ${text}`;
    if (!rule.verdicts.includes(verdict)) return say(`its verdict must not be ${verdict}`);
    const inPlace = scene.transmitInPlace && scene.binding.nextHopIfindex === 1 && program === 'hp_xdp';
    if (reason === 'tunnelled' && (verdict === 'tx') !== inPlace) return say(`its verdict must not be ${verdict}`);
    const context = batch.context(index);
    const gsoSize = context.readUInt32LE(SKB_GSO_SIZE);
    const from = batch.offsets[index] as number;
    const end = from + (batch.lengths[index] as number);
    const passage = new Passage(scene, program, batch.packets, from, end, program === 'hp_xdp' ? 0 : gsoSize);
    passage.cameOut(outcomes.outputs, outcomes.outputOffsets[index] as number, outcomes.sizes[index] as number);
    const marked = program === 'hp_xdp' ? 0 : context.readUInt32LE(SKB_MARK);
    const heard = hear(passage, program);
    const exempt = EXEMPT[program]?.includes(marked) ?? false;
    if (program === 'hp_loopback' && (reason === 'internal') !== exempt)
      return say('what CRIU says is internal, and nothing else is');
    if (program === 'hp_inside' && exempt && rule.ours) return say('of what CRIU says');
    passage.mtu = Math.min(scene.binding.mtu, this.learnt);
    const unheeded = exempt ? undefined : this.heed(passage, reason, index);
    if (unheeded !== undefined) return say(unheeded);
    const tagged = passage.outer.tag !== Tag.none && reason === 'slow_path'; // tc takes the tag off
    const news = passage.news !== undefined && reason === 'slow_path';
    if (rule.ours && heard === Heard.nobody && !tagged && !news)
      return say('of a packet that no binding has a claim to');
    if (!rule.ours && heard === Heard.bound && !exempt) return say('of a packet that a binding has a claim to');
    const mark = program === 'hp_xdp' ? 0 : outcomes.contextsOut.readUInt32LE(index * SKB_BYTES + SKB_MARK);
    if (reason === 'looped_back' && program !== 'hp_entry' && mark !== 0) return say('its mark must go');
    const broken = verdict === 'drop' ? undefined : rule.form(passage);
    return broken === undefined ? undefined : say(broken);
  }

  /** What a packet says about the way to the care-of address, and what is known of it does to a packet. */
  private heed(passage: Passage, reason: ReasonName, index: number): string | undefined {
    const { program, scene, news, packet, mtu } = passage;
    const told = program === 'hp_ingress' ? toldMtu(passage) : undefined;
    if (program === 'hp_xdp' && news !== undefined && reason !== 'slow_path') return 'news of a path are for tc';
    if (NEWS.includes(reason) !== (told !== undefined)) return 'news of a path are heeded, and nothing else is';
    this.learnt = Math.min(this.learnt, told ?? this.learnt);
    // A test run has no such interface, by which the first pieces would leave.
    const cannotLeave = needsSplit(passage) && scene.binding.nextHopIfindex === OTHER_IFINDEX;
    if (reason === 'no_room' && passage.gsoSize === 0 && !cannotLeave) return 'of a plain packet';
    const length = packet.packetEnd - packet.l3 + overhead(scene);
    if (mtu < scene.binding.mtu && length > mtu) this.narrowed.add(index);
    return undefined;
  }
}

/** What was counted for any binding, by reason. */
function totalsOf({ bindings }: Outcomes): Map<ReasonName, number> {
  const totals = new Map<ReasonName, number>();
  for (const { name, packets } of bindings) totals.set(name, (totals.get(name) ?? 0) + packets);
  return totals;
}

/** Whether a bound process hears the packet, or speaks in it; sets the passage's readings. */
function hear(passage: Passage, program: ProgramName): Heard {
  if (program === 'hp_pod' || program === 'hp_replay') {
    passage.outer.readFrame(passage.input, passage.from, passage.end);
    return Heard.perhaps; // the device says whose it is
  }
  if (program === 'hp_loopback') return whoTalks(passage);
  if (program === 'hp_inside') return whoIsAway(passage);
  if (program === 'hp_entry') return whoComesOverLo(passage);
  if (program !== 'hp_egress') return whoHears(passage);
  const speaks = whoSpeaks(passage);
  if (speaks !== Heard.nobody) return speaks;
  return whoHears(passage) === Heard.nobody ? Heard.nobody : Heard.perhaps; // what this node says to a guest
}
