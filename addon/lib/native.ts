// SPDX-License-Identifier: Apache-2.0
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { BpfError } from './bpf-error.js';
import type { MapInfo, ProgramInfo, Watch } from './types.js';

/** Owns a descriptor; `fd` is -1 once it is closed. */
export interface Descriptor {
  readonly fd: number;
  close(): void;
}

export interface NativeType {
  readonly kind: string;
  readonly name: string;
  readonly size: number;
  readonly signed?: boolean;
  readonly type?: number;
  readonly length?: number;
  readonly members?: readonly { name: string; type: number; bitOffset: number; bitSize: number }[];
  readonly values?: readonly { name: string; value: number | bigint }[];
  readonly variables?: readonly { name: string; type: number; offset: number; size: number }[];
}

export interface NativeBtf {
  find(name: string, kind: 'struct' | 'enum' | 'section'): number;
  type(id: number): NativeType;
}

export type ObjectMap = Omit<MapInfo, 'id' | 'btfId'> & { readonly internal: boolean };

export interface NativeObject {
  maps(): ObjectMap[];
  programs(): string[];
  btf(): NativeBtf | undefined;
  initialValue(section: string): Buffer | undefined;
  setInitialValue(section: string, bytes: Uint8Array): void;
  setMaxEntries(map: string, entries: number): void;
  reuseMap(map: string, fd: number): void;
  skipProgram(program: string): void;
  load(): void;
  mapDescriptor(map: string): Descriptor;
  programDescriptor(program: string): Descriptor;
  close(): void;
}

export interface NativeLine {
  handshake(): Promise<void>;
  write(bytes: Uint8Array): Promise<void>;
  pages(pid: number, ranges: BigUint64Array, fresh: boolean): Promise<[bytes: number, missed: BigUint64Array]>;
  finish(): Promise<void>;
  readAll(limit: number): Promise<Buffer>;
  relay(fd: number, limit: number): Promise<[bytes: number, ended: boolean]>;
  serveLater(pid: number, rate: number, silenceMs: number): Promise<number>;
  later(): [missing: number, sent: number];
  exchange(folder: string): Promise<void>;
  answer(bytes: Uint8Array): Promise<void>;
  setPace(rate: number): void;
  setNice(nice: number | undefined): void;
  passed(): number;
  cut(): void;
}

type Key = Uint8Array | null;

/** The C++ side. It checks nothing: types, sizes and states are this folder's business. */
export interface Native {
  setErrorClass(errorClass: typeof BpfError): void;
  readonly Btf: new (source: string | Uint8Array) => NativeBtf;
  readonly Line: new (fd: number, secret: Uint8Array, server: boolean, patienceMs: number) => NativeLine;
  readonly Object: new (path: string) => NativeObject;
  readonly RingBuffer: new (fd: number, callback: (sample: Buffer) => void) => Watch;
  readonly Watch: new (fd: number, callback: () => void) => Watch;

  mapCreate(type: string, name: string, key: number, value: number, entries: number, flags: number): Descriptor;
  mapInfo(fd: number): MapInfo;
  mapLookup(fd: number, key: Uint8Array, value: Uint8Array): boolean;
  mapUpdate(fd: number, key: Key, value: Uint8Array, flags: number): void;
  mapDelete(fd: number, key: Uint8Array): boolean;
  mapNextKey(fd: number, key: Key, next: Uint8Array): boolean;
  mapLookupBatch(
    fd: number,
    cursor: Key,
    next: Uint8Array,
    keys: Uint8Array,
    values: Uint8Array,
    room: number,
  ): [entries: number, more: boolean];
  mapUpdateBatch(fd: number, keys: Uint8Array, values: Uint8Array, count: number, flags: number): void;
  mapDeleteBatch(fd: number, keys: Uint8Array, count: number): number;
  mapMemory(fd: number, bytes: number): ArrayBuffer;
  unmap(memory: ArrayBuffer): void;
  possibleCpus(): number;

  programInfo(fd: number): ProgramInfo;
  programInfoById(id: number): ProgramInfo;
  programById(id: number): Descriptor;
  typesById(id: number): NativeBtf;
  testRun(
    fd: number,
    data: Uint8Array,
    dataOut: Uint8Array,
    ctx: Uint8Array | null,
    ctxOut: Uint8Array | null,
    repeat: number,
  ): [retval: number, dataSize: number, durationNs: number, ctxSize: number];
  runBatch(
    fd: number,
    packets: Uint8Array,
    lengths: Uint32Array,
    contexts: Uint8Array | null,
    outputs: Uint8Array | null,
    contextsOut: Uint8Array | null,
    verdicts: Int32Array,
    sizes: Uint32Array,
    durationsNs: Uint32Array,
    watched: readonly (readonly [fd: number, bytes: number, rows: Uint32Array])[],
  ): number;
  linkCreateXdp(program: number, ifindex: number, flags: number): Descriptor;
  linkCreateTcx(program: number, ifindex: number, attachType: number, flags: number): Descriptor;
  attachTcx(program: number, ifindex: number, attachType: number, flags: number): void;
  linkUpdate(link: number, program: number): void;
  linkDetach(link: number): void;
  linkInfo(link: number): { id: number; programId: number; ifindex: number };
  pin(fd: number, path: string): void;
  getPinned(path: string, kind: 'bpf-map' | 'bpf-prog' | 'bpf-link'): Descriptor;

  tcHookCreate(ifindex: number, attachPoint: number): boolean;
  tcHookDestroy(ifindex: number, attachPoint: number): boolean;
  tcAttach(
    ifindex: number,
    attachPoint: number,
    priority: number,
    handle: number,
    program: number,
    replace: boolean,
  ): void;
  tcQuery(ifindex: number, attachPoint: number, priority: number, handle: number): number;
  tcDetach(ifindex: number, attachPoint: number, priority: number, handle: number): void;
  xdpQuery(ifindex: number): [mode: number, program: number];
  tcxQuery(ifindex: number, attachType: number): [program: number, link: number][];

  setns(fd: number, nstype: number): void;
  pidfdOpen(pid: number): number;
  pidfdGetfd(pidfd: number, fd: number): number;
  pidfdSendSignal(pidfd: number, signal: number): void;
  getsockname(fd: number): Buffer;
  unreadBytes(fd: number): number;
  urgentMark(fd: number): boolean;
  getsockopt(fd: number, level: number, name: number, room: number, asked: Uint8Array | undefined): Buffer;
  newSocket(domain: number, type: number): number;
  programsEnded(): Promise<void>;
  sameFiles(ours: Int32Array, theirs: Int32Array): Promise<Int32Array>;
  surveySockets(pids: Int32Array, questions: Int32Array, defaults: Uint8Array): Promise<Buffer>;
  surveyStreams(pids: Int32Array, limit: number): Promise<Buffer>;
  setSocketsOption(pid: number, fds: Int32Array, level: number, name: number, value: Uint8Array): number[];
  setsockopt(fd: number, level: number, name: number, value: Uint8Array): void;
  tcpRepair(fd: number, mode: number): void;
  tcpRepairState(fd: number): number;
  closeOnExec(fd: number): void;
  memfdSeals(fd: number): number;
  setPipeSize(fd: number, bytes: number): number;
  flock(fd: number, operation: number): boolean;
  getxattr(path: string, name: string, room: number): Buffer;
  makeFifo(path: string): void;
  interfaceIndex(name: string): number;
  inMountNamespace(fd: number, steps: readonly (readonly [string, readonly string[], readonly number[]])[]): void;
  cloneMount(path: string, readOnly: boolean): number;
  openBeneath(folder: number, path: string, flags: number, mode: number): number;
  trackWrites(pid: number): Promise<number>;
  scanWritten(uffd: number, pid: number, mappings: BigUint64Array): Promise<BigUint64Array>;
  scanLast(pid: number, mappings: BigUint64Array): Promise<readonly [written: BigUint64Array, present: BigUint64Array]>;
  loadMappingFlags(path: string): Promise<number>;
  mappingFlags(program: number, task: number): Promise<BigUint64Array>;
  openTap(name: string, persist: boolean): [fd: number, ifindex: number, name: string];
  setTapPersist(fd: number, persist: boolean): void;
  readFrame(fd: number, buffer: Uint8Array): number;
  writeFrame(fd: number, frame: Uint8Array): number;
  openNetlink(groups: readonly number[], receiveBytes: number): number;
  openSocketDiagnostics(): number;
  sendNetlink(fd: number, messages: Uint8Array): void;
  receiveNetlink(fd: number, buffer: Uint8Array): number;
  readonly constants: Readonly<
    Record<
      | 'CLONE_NEWNET'
      | 'LOCK_SH'
      | 'LOCK_EX'
      | 'LOCK_UN'
      | 'LOCK_NB'
      | 'TCP_REPAIR_ON'
      | 'TCP_REPAIR_OFF'
      | 'TCP_REPAIR_OFF_NO_WP',
      number
    >
  >;
}

function load(): Native {
  const path = fileURLToPath(new URL('../../../addon/build/Release/homeproxy.node', import.meta.url));
  let addon: Native;
  try {
    addon = createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND';
    const what = missing ? 'the native addon is not built' : `the native addon cannot be loaded (${String(cause)})`;
    throw new Error(`${what}; run: npm run build:addon`, { cause });
  }
  if (addon.memfdSeals === undefined || addon.tcxQuery === undefined) {
    throw new Error('the native addon is older than this library; run: npm run build:addon');
  }
  addon.setErrorClass(BpfError);
  return addon;
}

export const native = load();

/** The number of an open descriptor; what was closed throws EBADF. */
export function openFd(descriptor: Descriptor, what: string): number {
  if (descriptor.fd >= 0) return descriptor.fd;
  throw closedError(what);
}

export function closedError(what: string): BpfError {
  return new BpfError({ code: 'EBADF', errno: -constants.errno.EBADF, syscall: what, description: 'is closed' });
}
