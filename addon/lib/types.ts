// SPDX-License-Identifier: Apache-2.0

/** What a value of a map, a variable or a structure field may be set from. */
export type FieldInput = number | bigint | boolean | Uint8Array | StructInput | readonly FieldInput[];
export interface StructInput {
  readonly [field: string]: FieldInput;
}

/** What a decoded field is: 64-bit integers are bigint, byte arrays Buffer, nested structures objects. */
export type FieldValue = number | bigint | Buffer | StructValue | FieldValue[];
export interface StructValue {
  [field: string]: FieldValue;
}

export interface OpenOptions {
  /** Constants of the object, by variable name; an unknown name or a value that does not fit is an error. */
  readonly rodata?: Readonly<Record<string, number | bigint | Uint8Array>>;
  /** Folder in bpffs: a compatible pinned map is reused, a missing one created and pinned; an incompatible one is an error. */
  readonly pinDirectory?: string;
  /** max_entries by map name. */
  readonly mapSizes?: Readonly<Record<string, number>>;
  /** Maps to be used instead of the object's own, by name. Whether they serve its programs is the verifier's business. */
  readonly maps?: Readonly<Record<string, { readonly fd: number }>>;
  /** Programs that `load()` leaves out, by name. */
  readonly skipPrograms?: readonly string[];
}

/** 'any' creates or replaces, 'create' fails with EEXIST, 'exist' with ENOENT. */
export type UpdateFlag = 'any' | 'create' | 'exist';

export interface CreateMapOptions {
  /** The kernel's name in lower case: 'hash', 'array', 'lru_hash', 'percpu_array', 'ringbuf', ... */
  readonly type: string;
  readonly name?: string;
  /** Bytes; 0 for 'ringbuf'. */
  readonly keySize?: number;
  readonly valueSize?: number;
  readonly maxEntries: number;
  /** BPF_F_* of linux/bpf.h. */
  readonly flags?: number;
}

export interface MapInfo {
  readonly id: number;
  readonly name: string;
  readonly type: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  /** The kernel's type information of which the next two are types; 0: it has none. */
  readonly btfId: number;
  readonly keyType: number;
  readonly valueType: number;
}

/** A map as an object file declares it. */
export interface MapDeclaration {
  readonly name: string;
  readonly type: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  /** Undefined where the object has no type for it. */
  readonly key?: FieldType;
  readonly value?: FieldType;
}

export interface ProgramInfo {
  readonly id: number;
  /** At most 15 characters: the kernel keeps no more. */
  readonly name: string;
  /** 'xdp', 'sched_cls', ... */
  readonly type: string;
  /** SHA of the instructions, 16 hex digits. */
  readonly tag: string;
  readonly mapIds: readonly number[];
  /** 0 unless kernel.bpf_stats_enabled. */
  readonly runTimeNs: bigint;
  readonly runCount: bigint;
}

export interface TestRunOptions {
  /** The packet, from its Ethernet header. */
  readonly data: Uint8Array;
  /** struct xdp_md or struct __sk_buff. */
  readonly ctx?: Uint8Array;
  readonly repeat?: number;
  /** Room for the packet that comes out, in bytes; default 256 more than went in. */
  readonly dataOutSize?: number;
}

export interface TestRunResult {
  readonly retval: number;
  readonly data: Buffer;
  /** Mean of one run, in nanoseconds. */
  readonly durationNs: number;
  /** The context afterwards, when one was given. */
  readonly ctx?: Buffer;
}

/** Something of many packets: the i-th of everything belongs to the i-th packet. */
export interface BatchOptions {
  /** The packets, one behind the other. */
  readonly packets: Uint8Array;
  /** Of each, in bytes. */
  readonly lengths: Uint32Array;
  /** One struct xdp_md or struct __sk_buff for each, one behind the other. */
  readonly contexts?: Uint8Array;
  /** Takes the packets that come out, one behind the other. Without it nothing is copied back, which measures best. */
  readonly outputs?: Uint8Array;
  /** Takes the contexts afterwards; as large as `contexts`. */
  readonly contextsOut?: Uint8Array;
  /** Arrays with BPF_F_MMAPABLE whose changes are to be told for each packet. */
  readonly watch?: readonly { readonly fd: number; readonly valueSize: number; readonly maxEntries: number }[];
}

export interface BatchResult {
  /** How many packets were run: fewer than all when `outputs` had no room for what may come out of the next. */
  readonly count: number;
  /** What the program returned, or a negative errno when the kernel took no such packet. */
  readonly verdicts: Int32Array;
  /** Bytes that came out of each. */
  readonly sizes: Uint32Array;
  /** How long each run took, in nanoseconds, by a clock that may advance in steps of 10; 0 of a packet that did not run. */
  readonly durationsNs: Uint32Array;
  /**
   * For each watched map rows of `CHANGE_ROW` words, one for each packet: how many words of 8 bytes it changed, then index of
   * the word in the map and difference (modulo 2^32) of the first four.
   */
  readonly changes: readonly Uint32Array[];
}

/** 'auto': native where the driver has it, else generic; the kernel chooses. */
export type XdpMode = 'native' | 'generic' | 'auto';

export interface LinkInfo {
  readonly id: number;
  readonly programId: number;
  /** 0 when the interface is gone or the link was detached. */
  readonly ifindex: number;
}

export interface XdpState {
  readonly mode: 'native' | 'generic' | 'offload';
  readonly programId: number;
}

export type TcDirection = 'ingress' | 'egress';

export interface TcFilter {
  readonly ifindex: number;
  readonly direction: TcDirection;
  readonly priority: number;
  readonly handle: number;
}

export interface TcAttached {
  /** Whether there was no clsact qdisc before. */
  readonly createdClsact: boolean;
}

/** A program of tcx (Linux 6.6) on one side of an interface. */
export interface TcxProgram {
  readonly programId: number;
  /** 0: attached without a link. */
  readonly linkId: number;
}

export interface FieldType {
  readonly kind: 'int' | 'array' | 'struct' | 'union' | 'enum' | 'pointer' | 'float';
  /** Name of the typedef, structure or enum: '__be16', 'next_hop', ... */
  readonly name?: string;
  readonly size: number;
  readonly signed?: boolean;
  /** Of an array. */
  readonly element?: FieldType;
  readonly elementSize?: number;
  readonly length?: number;
  /** Of a structure. */
  readonly fields?: readonly Field[];
}

export interface Field {
  readonly name: string;
  /** Bytes from the start of the structure. */
  readonly offset: number;
  readonly size: number;
  readonly type: FieldType;
}

export interface Struct {
  readonly name: string;
  readonly size: number;
  readonly fields: readonly Field[];
}

export interface TapOptions {
  /** Keep the interface when its last descriptor is closed (TUNSETPERSIST); default false. */
  readonly persist?: boolean;
}

export interface Tap {
  /** Non-blocking, close-on-exec; the caller closes it (`fs.closeSync`). */
  readonly fd: number;
  readonly ifindex: number;
  readonly name: string;
}

/** A watch that `close()` ends; may be called inside the callback and twice. */
export interface Watch {
  close(): void;
  /** Let the process end though the watch is active. */
  unref(): void;
  ref(): void;
}

/** 'off-no-window-probe' leaves repair mode without telling the peer anything (TCP_REPAIR_OFF_NO_WP). */
export type TcpRepairMode = 'on' | 'off' | 'off-no-window-probe';
export type LockMode = 'exclusive' | 'shared' | 'unlock';

/** A netlink message without its length and port: `body` is the family's structure and what follows it. */
export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly body: Buffer;
}

export interface NetlinkAttribute {
  readonly type: number;
  readonly value: Buffer;
}
