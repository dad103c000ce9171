/** The law of the fast paths: a packet comes out as it would from the general path, and is counted alike. */
import type { ProgramName, ReasonName } from '../packet/bench.js';
import { REASONS } from './check.js';
import { type Batch, CHANGE_ROW, type Outcomes, SKB_BYTES, SKB_MARK, wasRefused } from './harness.js';
import type { Broken } from './shrink.js';

/** Of these pairs the second is given where no more answers may be sent in this second: it depends on the time (bpf/too_big.h). */
const TIMELY: Partial<Record<ReasonName, string>> = {
  too_big: 'answer',
  too_big_unanswered: 'answer',
  too_big_relayed: 'news',
  path_mtu: 'news',
};
/** A frame that hp_pod has addressed, as the kernel did before: only its addresses and this mark tell it (bpf/way_out.h). */
const MARK_SENT = 0x68707365;
const ADDRESSES = 12;
const XDP_DROP = 1;
const TC_SHOT = 2;
/** Which of the counters changed first, in a row of changes: two words each. */
const reasonOf = ({ changes }: Outcomes, packet: number): ReasonName =>
  REASONS[((changes[packet * CHANGE_ROW + 1] as number) / 2) % 64] as ReasonName;

/** @returns the first packet that differs; -1: what was counted of all together */
export function comparePaths(
  program: ProgramName,
  batch: Batch,
  fast: Outcomes,
  general: Outcomes,
): Broken | undefined {
  for (let packet = 0; packet < batch.count; packet++) {
    const difference = differenceOf(program, fast, general, packet);
    if (difference === undefined) continue;
    return { packet, invariant: `${program} with its fast path gives ${difference} than without` };
  }
  const wrong = differenceForBindings(fast, general);
  if (wrong !== undefined) return { packet: -1, invariant: `${program} with its fast path counts ${wrong}` };
  if (fast.parked === general.parked && fast.replayed === general.replayed) return undefined;
  return { packet: -1, invariant: `${program} with its fast path takes other places in queues than without` };
}

function differenceOf(program: ProgramName, fast: Outcomes, general: Outcomes, packet: number): string | undefined {
  const verdict = fast.verdicts[packet] as number;
  if (wasRefused(verdict) && wasRefused(general.verdicts[packet] as number)) return undefined;
  const [reason, other] = [reasonOf(fast, packet), reasonOf(general, packet)];
  if (reason !== other) {
    return TIMELY[reason] !== undefined && TIMELY[reason] === TIMELY[other]
      ? undefined
      : `${reason} rather than ${other}`;
  }
  if (verdict !== general.verdicts[packet]) return `another verdict`;
  const row = [packet * CHANGE_ROW, (packet + 1) * CHANGE_ROW] as const;
  if (fast.changes.subarray(...row).some((word, index) => word !== general.changes[row[0] + index])) {
    return 'other counts';
  }
  if (verdict === (program === 'hp_xdp' ? XDP_DROP : TC_SHOT)) return undefined; // what is left of it does not matter
  const [skb, otherSkb] = [skbOf(fast, packet), skbOf(general, packet)];
  const from = program === 'hp_pod' && skb.readUInt32LE(SKB_MARK) === MARK_SENT ? ADDRESSES : 0;
  if (from > 0) otherSkb.writeUInt32LE(MARK_SENT, SKB_MARK);
  if (!frameOf(fast, packet).subarray(from).equals(frameOf(general, packet).subarray(from))) return 'another frame';
  return program === 'hp_xdp' || skb.equals(otherSkb) ? undefined : 'another skb';
}

function frameOf({ outputs, outputOffsets, sizes }: Outcomes, packet: number): Buffer {
  const from = outputOffsets[packet] as number;
  return outputs.subarray(from, from + (sizes[packet] as number));
}

function skbOf({ contextsOut }: Outcomes, packet: number): Buffer {
  return Buffer.from(contextsOut.subarray(packet * SKB_BYTES, (packet + 1) * SKB_BYTES));
}

/** What was counted for one binding and not for it without the fast path, but for what depends on the time. */
function differenceForBindings(fast: Outcomes, general: Outcomes): string | undefined {
  const packetsOf = ({ bindings }: Outcomes, id: number, reason: number): number =>
    bindings.find((count) => count.id === id && count.reason === reason)?.packets ?? 0;
  for (const { id, reason, name } of [...fast.bindings, ...general.bindings]) {
    const [own, other] = [packetsOf(fast, id, reason), packetsOf(general, id, reason)];
    if (own !== other && TIMELY[name] === undefined) return `${own} ${name} for binding ${id}, without it ${other}`;
  }
  return undefined;
}
