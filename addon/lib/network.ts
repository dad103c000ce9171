// SPDX-License-Identifier: Apache-2.0
import { native } from './native.js';
import type { BpfProgram } from './program.js';
import type { TcAttached, TcDirection, TcFilter, TcxProgram, XdpState } from './types.js';

/** enum bpf_tc_attach_point */
const ATTACH_POINTS: Record<TcDirection, number> = { ingress: 1, egress: 2 };
const BOTH_DIRECTIONS = 3;
/** BPF_TCX_INGRESS and BPF_TCX_EGRESS of linux/bpf.h (6.6). */
export const TCX_ATTACH_TYPES: Record<TcDirection, number> = { ingress: 46, egress: 47 };
/** IFLA_XDP_ATTACHED */
const XDP_MODES: readonly (XdpState['mode'] | undefined)[] = [undefined, 'native', 'generic', 'offload'];

function requireFilter(filter: TcFilter): void {
  const { ifindex, priority, handle } = filter;
  if (!Number.isInteger(ifindex) || ifindex < 1) throw new RangeError(`no interface has index ${ifindex}`);
  if (!Number.isInteger(priority) || priority < 1 || priority > 0xffff) {
    throw new RangeError(`priority ${priority} is not in 1..65535`);
  }
  if (!Number.isInteger(handle) || handle < 1 || handle > 0xffffffff) {
    throw new RangeError(`handle ${handle} is not in 1..4294967295`);
  }
}

/** The program on an interface's XDP hook, whoever attached it. Throws ENODEV. */
export function xdpQuery(ifindex: number): XdpState | undefined {
  const [attached, programId] = native.xdpQuery(ifindex);
  const mode = XDP_MODES[attached];
  return mode === undefined ? undefined : { mode, programId };
}

/**
 * The tcx programs on one side of an interface, whoever attached them, in the order in which they run: before all tc filters.
 * Throws EINVAL when the kernel has no tcx, ENODEV when there is no such interface.
 */
export function tcxQuery(ifindex: number, direction: TcDirection): TcxProgram[] {
  return native.tcxQuery(ifindex, TCX_ATTACH_TYPES[direction]).map(([programId, linkId]) => ({ programId, linkId }));
}

/**
 * Attaches a program in direct-action mode, on a clsact qdisc that is created when missing (and taken away again when
 * the program is refused). Throws EEXIST when the place is taken and `replace` is not set.
 */
export function tcAttach(filter: TcFilter & { readonly program: BpfProgram; readonly replace?: boolean }): TcAttached {
  requireFilter(filter);
  const { ifindex, direction, priority, handle, program, replace = false } = filter;
  const programFd = program.fd;
  const createdClsact = native.tcHookCreate(ifindex, ATTACH_POINTS[direction]);
  try {
    native.tcAttach(ifindex, ATTACH_POINTS[direction], priority, handle, programFd, replace);
  } catch (error) {
    if (createdClsact) native.tcHookDestroy(ifindex, BOTH_DIRECTIONS);
    throw error;
  }
  return { createdClsact };
}

/** The program at that place, or undefined. */
export function tcQuery(filter: TcFilter): { programId: number } | undefined {
  requireFilter(filter);
  const { ifindex, direction, priority, handle } = filter;
  const programId = native.tcQuery(ifindex, ATTACH_POINTS[direction], priority, handle);
  return programId === 0 ? undefined : { programId };
}

/** false when nothing was there. */
export function tcDetach(filter: TcFilter): boolean {
  if (tcQuery(filter) === undefined) return false;
  const { ifindex, direction, priority, handle } = filter;
  native.tcDetach(ifindex, ATTACH_POINTS[direction], priority, handle);
  return true;
}

/** Removes the clsact qdisc and with it every filter of both directions, whoever attached them. */
export function tcRemoveClsact(ifindex: number): boolean {
  return native.tcHookDestroy(ifindex, BOTH_DIRECTIONS);
}
