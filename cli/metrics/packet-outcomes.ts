import type { ReasonName } from '../forwarding/reasons.js';

/**
 * What became of a packet:
 * - `passed`: to this node's own stack, untouched.
 * - `forwarded`: into a tunnel, a pod, or out of one.
 * - `parked`: held while its process stands still.
 * - `dropped`: gone.
 * - `answered`: too big for the way; its sender was told so and sends it again in smaller pieces.
 * - `handed-on`: the next program decides, and counts it again.
 */
export type PacketOutcome = 'passed' | 'forwarded' | 'parked' | 'dropped' | 'answered' | 'handed-on';

/** By the reason under which the programs count (enum reason in bpf/abi.h). */
export const OUTCOME_OF_REASON: Readonly<Record<ReasonName, PacketOutcome>> = {
  not_ours: 'passed',
  not_parsed: 'passed',
  at_home: 'passed',
  parked: 'parked',
  park_no_queue: 'dropped',
  tunnelled: 'forwarded',
  delivered: 'forwarded',
  sent: 'forwarded',
  fenced: 'dropped',
  guarded: 'dropped',
  held: 'parked',
  tunnel_unknown_node: 'passed',
  tunnel_no_binding: 'passed',
  too_big: 'answered',
  too_big_unanswered: 'dropped',
  slow_path: 'handed-on',
  malformed: 'passed',
  no_room: 'dropped',
  replayed_home: 'forwarded',
  looped: 'dropped',
  congested: 'dropped',
  tagged: 'passed',
  fragment_unknown: 'passed',
  split: 'forwarded',
  path_mtu: 'passed',
  too_big_relayed: 'forwarded',
  no_route: 'dropped',
  reversed: 'forwarded',
  park_lost: 'dropped',
  internal: 'passed',
  homeward: 'forwarded',
  looped_back: 'forwarded',
};
