import { UserError } from '../errors.js';
import type { Link } from '../system/ip.js';

export type AttachChoice = 'auto' | 'xdp' | 'xdp-generic' | 'tc';
export type AttachMode = 'xdp-native' | 'xdp-generic' | 'tc';

export interface HookChoice {
  readonly mode: AttachMode;
  /** Why, for people. */
  readonly reason: string;
}

/** Drivers under which native XDP runs and yet is worse than tc. */
const BETTER_BY_TC: Readonly<Record<string, string>> = {
  // veth_xdp_rcv_skb loses the partial checksum that a local sender left to offload; nothing tells us whether it does
  veth: 'native XDP on veth loses partial checksums of local senders',
};
/** What a driver means when it refuses a native program. */
const REFUSALS: Readonly<Record<string, string>> = {
  EOPNOTSUPP: 'its driver has no native XDP',
  EINVAL: 'its driver refuses native XDP as the interface is set (MTU, LRO, queues)',
  ERANGE: 'its driver refuses native XDP as the interface is set (MTU)',
  ENOMEM: 'its driver has not the queues that native XDP needs',
  ENOSPC: 'its driver has not the queues that native XDP needs',
};

/** Where the programs of an uplink go. With `auto` native XDP is tried: only the driver knows whether it takes it. */
export function chooseHook(link: Link, choice: AttachChoice): HookChoice {
  if (choice === 'xdp') return { mode: 'xdp-native', reason: 'as configured' };
  if (choice === 'xdp-generic') return { mode: 'xdp-generic', reason: 'as configured' };
  if (choice === 'tc') return { mode: 'tc', reason: 'as configured' };
  const kind = link.linkinfo?.info_kind ?? '';
  const better = BETTER_BY_TC[kind];
  if (better !== undefined) return { mode: 'tc', reason: `auto: ${better}` };
  return { mode: 'xdp-native', reason: 'auto: the driver took a native XDP program' };
}

/** What `auto` does when a driver refuses; undefined for an error that says something else. */
export function fallBack(error: unknown): HookChoice | undefined {
  const code = (error as { code?: string }).code ?? '';
  const refusal = error instanceof UserError ? undefined : REFUSALS[code];
  return refusal === undefined ? undefined : { mode: 'tc', reason: `auto: ${refusal} (${code})` };
}
