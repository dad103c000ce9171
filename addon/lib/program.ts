// SPDX-License-Identifier: Apache-2.0
import { unlinkSync } from 'node:fs';
import { BpfLink } from './link.js';
import { type Descriptor, native, openFd } from './native.js';
import { TCX_ATTACH_TYPES } from './network.js';
import type { ProgramInfo, TcDirection, TestRunOptions, TestRunResult, XdpMode } from './types.js';

/** XDP_FLAGS_* of linux/if_link.h. */
const XDP_FLAGS: Record<XdpMode, number> = { auto: 0, generic: 1 << 1, native: 1 << 2 };
/** BPF_F_BEFORE of linux/bpf.h (6.6); with no other program named, before all. */
const BEFORE_ALL = 1 << 3;
/** How much a program may prepend to a packet (XDP_PACKET_HEADROOM). */
const HEADROOM = 256;

/** A loaded program. */
export class BpfProgram {
  readonly name: string;
  readonly type: string;
  readonly id: number;
  readonly tag: string;
  readonly #descriptor: Descriptor;

  /** @internal Use `openPinned` or `BpfObject.program`. `name` is given where the kernel's was cut off. */
  constructor(descriptor: Descriptor, name?: string) {
    this.#descriptor = descriptor;
    const info = native.programInfo(descriptor.fd);
    this.name = name ?? info.name;
    this.type = info.type;
    this.id = info.id;
    this.tag = info.tag;
  }

  static openPinned(path: string): BpfProgram {
    return new BpfProgram(native.getPinned(path, 'bpf-prog'));
  }

  /** Any loaded program, to be kept or attached again. Throws ENOENT when there is no such id. */
  static openById(id: number): BpfProgram {
    return new BpfProgram(native.programById(id));
  }

  get fd(): number {
    return openFd(this.#descriptor, `BpfProgram ${this.name}`);
  }

  get info(): ProgramInfo {
    return native.programInfo(this.fd);
  }

  /**
   * Runs the program on a packet, without any network (BPF_PROG_TEST_RUN).
   * Throws ENOSPC when what comes out does not fit `dataOutSize`, EINVAL when the kernel takes no such packet.
   */
  testRun(options: TestRunOptions): TestRunResult {
    const { data, ctx, repeat = 1, dataOutSize = data.length + HEADROOM } = options;
    if (!(data instanceof Uint8Array)) throw new TypeError('data must be a Uint8Array');
    if (!Number.isInteger(repeat) || repeat < 1) throw new RangeError('repeat must be a positive integer');
    const dataOut = Buffer.alloc(dataOutSize);
    const ctxOut = ctx === undefined ? null : Buffer.alloc(ctx.length);
    const [retval, size, durationNs, ctxSize] = native.testRun(this.fd, data, dataOut, ctx ?? null, ctxOut, repeat);
    return {
      retval,
      data: dataOut.subarray(0, size),
      durationNs,
      ...(ctxOut === null ? {} : { ctx: ctxOut.subarray(0, ctxSize) }),
    };
  }

  /**
   * Attaches to the interface of this thread's network namespace; lasts as long as the link.
   * Throws EBUSY when another program is there, EOPNOTSUPP when the driver has no native XDP, ENODEV when there is no
   * such interface.
   */
  attachXdp(ifindex: number, options: { readonly mode: XdpMode }): BpfLink {
    return new BpfLink(native.linkCreateXdp(this.fd, ifindex, XDP_FLAGS[options.mode]));
  }

  /**
   * Attaches to one side of an interface by tcx, before the programs that are there: those behind it see what it gives TCX_NEXT
   * for (-1, TC_ACT_UNSPEC), and so do the tc filters. Lasts as long as the link.
   * Throws EINVAL when the kernel has no tcx (before 6.6), EEXIST when this very program is there, ERANGE when 64 others are,
   * ENODEV when there is no such interface.
   */
  attachTcx(ifindex: number, direction: TcDirection): BpfLink {
    return new BpfLink(native.linkCreateTcx(this.fd, ifindex, TCX_ATTACH_TYPES[direction], BEFORE_ALL));
  }

  /** The same without a link: it lasts as long as the interface. */
  attachTcxForGood(ifindex: number, direction: TcDirection): void {
    native.attachTcx(this.fd, ifindex, TCX_ATTACH_TYPES[direction], BEFORE_ALL);
  }

  pin(path: string): void {
    native.pin(this.fd, path);
  }

  unpin(path: string): void {
    unlinkSync(path);
  }

  /** The kernel frees the program when nobody holds it open, pinned or attached. */
  close(): void {
    this.#descriptor.close();
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `BpfProgram ${this.name} (${this.type}, id ${this.id})`;
  }
}

/**
 * Resolves when every program that was running at the call has ended, anywhere, and with it the softirq that it ran in: what
 * it let pass has been received. What it queued for later, on another processor or device, need not have been. Some 10 ms, on another thread.
 */
export async function programsEnded(): Promise<void> {
  await native.programsEnded();
}

/** Any program of the kernel, whoever loaded it; throws ENOENT when there is no such id. */
export function programInfo(id: number): ProgramInfo {
  return native.programInfoById(id);
}
