// SPDX-License-Identifier: Apache-2.0
import { unlinkSync } from 'node:fs';
import { hasCode } from './bpf-error.js';
import { type Descriptor, native, openFd } from './native.js';
import type { CreateMapOptions, MapInfo, UpdateFlag } from './types.js';

const UPDATE_FLAGS: Record<UpdateFlag, number> = { any: 0, create: 1, exist: 2 };
/** Types whose batch cursor is a bucket or an index, so that it survives the deletion of any key. */
const BATCH_READ = new Set(['hash', 'lru_hash', 'percpu_hash', 'lru_percpu_hash', 'array', 'percpu_array']);
const BATCH_ENTRIES = 1024;
const RESTARTS = 16;
/** Kernels that have no batch operation for a type say one of these. */
const NO_BATCH = ['ENOTSUPP', 'EOPNOTSUPP', 'EINVAL'] as const;

function requireSize(what: string, bytes: Uint8Array, size: number): void {
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${what} must be a Uint8Array`);
  if (bytes.length !== size) throw new RangeError(`${what} has ${bytes.length} bytes, must have ${size}`);
}

/** A map of the kernel. Keys and values are bytes; see StructCodec for structures. */
export class BpfMap {
  readonly name: string;
  readonly type: string;
  readonly keySize: number;
  /** Bytes of one value; of a per-CPU map, on one CPU. */
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly id: number;
  readonly flags: number;
  readonly perCpu: boolean;
  readonly #descriptor: Descriptor;
  /** Bytes of a value between two CPUs' values, and of all of them, as the kernel copies them. */
  readonly #stride: number;
  readonly #slotSize: number;
  #memory: ArrayBuffer | undefined;

  /** @internal Use `create`, `openPinned` or `BpfObject.map`. `name` is given where the kernel's was cut off. */
  constructor(descriptor: Descriptor, name?: string) {
    this.#descriptor = descriptor;
    const info = native.mapInfo(descriptor.fd);
    this.name = name ?? info.name;
    this.type = info.type;
    this.keySize = info.keySize;
    this.valueSize = info.valueSize;
    this.maxEntries = info.maxEntries;
    this.id = info.id;
    this.flags = info.flags;
    this.perCpu = info.type.includes('percpu');
    this.#stride = Math.ceil(info.valueSize / 8) * 8;
    this.#slotSize = this.perCpu ? this.#stride * native.possibleCpus() : info.valueSize;
  }

  static create(options: CreateMapOptions): BpfMap {
    const { type, name = '', keySize = 0, valueSize = 0, maxEntries, flags = 0 } = options;
    return new BpfMap(native.mapCreate(type, name, keySize, valueSize, maxEntries, flags));
  }

  /** Throws EINVAL when something else than a map is pinned at `path`. */
  static openPinned(path: string): BpfMap {
    return new BpfMap(native.getPinned(path, 'bpf-map'));
  }

  get fd(): number {
    return openFd(this.#descriptor, `BpfMap ${this.name}`);
  }

  get info(): MapInfo {
    return native.mapInfo(this.fd);
  }

  /** undefined when there is no such entry. */
  get(key: Uint8Array): Buffer | undefined {
    this.#requirePlain();
    return this.#lookup(key);
  }

  /** One value for every possible CPU, or undefined. */
  getPerCpu(key: Uint8Array): Buffer[] | undefined {
    this.#requirePerCpu();
    const slot = this.#lookup(key);
    return slot === undefined ? undefined : this.#split(slot);
  }

  /** Throws EEXIST for 'create', ENOENT for 'exist', E2BIG when the map is full. */
  set(key: Uint8Array, value: Uint8Array, flag: UpdateFlag = 'any'): void {
    this.#requirePlain();
    this.#requireKey(key);
    requireSize(`value of map ${this.name}`, value, this.valueSize);
    native.mapUpdate(this.fd, key, value, UPDATE_FLAGS[flag]);
  }

  /** `values`: one for every possible CPU. */
  setPerCpu(key: Uint8Array, values: readonly Uint8Array[], flag: UpdateFlag = 'any'): void {
    this.#requirePerCpu();
    this.#requireKey(key);
    native.mapUpdate(this.fd, key, this.#join(values), UPDATE_FLAGS[flag]);
  }

  /** false when there was no such entry. */
  delete(key: Uint8Array): boolean {
    this.#requireKey(key);
    return native.mapDelete(this.fd, key);
  }

  /** Keys, though entries come and go meanwhile: what stays is seen exactly once (but see the README for tries). */
  *keys(): Generator<Buffer> {
    for (const [key] of this.#slots()) yield key;
  }

  *entries(): Generator<[Buffer, Buffer]> {
    this.#requirePlain();
    yield* this.#slots();
  }

  *entriesPerCpu(): Generator<[Buffer, Buffer[]]> {
    this.#requirePerCpu();
    for (const [key, slot] of this.#slots()) yield [key, this.#split(slot)];
  }

  /** All entries at once, with few system calls. */
  getBatch(): [Buffer, Buffer][] {
    return [...this.entries()];
  }

  setBatch(entries: readonly (readonly [key: Uint8Array, value: Uint8Array])[], flag: UpdateFlag = 'any'): void {
    this.#requirePlain();
    if (entries.length === 0) return;
    for (const [key, value] of entries) {
      this.#requireKey(key);
      requireSize(`value of map ${this.name}`, value, this.valueSize);
    }
    const keys = Buffer.concat(entries.map(([key]) => key));
    const values = Buffer.concat(entries.map(([, value]) => value));
    try {
      native.mapUpdateBatch(this.fd, keys, values, entries.length, UPDATE_FLAGS[flag]);
    } catch (error) {
      if (!hasCode(error, ...NO_BATCH)) throw error;
      for (const [key, value] of entries) this.set(key, value, flag);
    }
  }

  /** How many of the keys were there. */
  deleteBatch(keys: readonly Uint8Array[]): number {
    for (const key of keys) this.#requireKey(key);
    const bytes = Buffer.concat(keys);
    let deleted = 0;
    for (let next = 0; next < keys.length; next++) {
      try {
        const done = native.mapDeleteBatch(this.fd, bytes.subarray(next * this.keySize), keys.length - next);
        deleted += done;
        next += done; // and over the key that was not there
      } catch (error) {
        if (!hasCode(error, ...NO_BATCH)) throw error;
        return keys.slice(next).reduce((sum, key) => sum + (this.delete(key) ? 1 : 0), deleted);
      }
    }
    return deleted;
  }

  /** Deletes every entry; of an array, whose entries cannot be deleted, every value becomes zero. */
  clear(): void {
    if (!this.type.endsWith('array')) {
      this.deleteBatch([...this.keys()]);
      return;
    }
    const zero = Buffer.alloc(this.#slotSize);
    for (const key of this.keys()) native.mapUpdate(this.fd, key, zero, UPDATE_FLAGS.any);
  }

  /**
   * The values of an array with BPF_F_MMAPABLE, each at a multiple of 8 bytes: what is written there the programs read at once.
   * Detached by `close`. Throws EINVAL for other maps, EPERM for one that is read-only.
   */
  memory(): ArrayBuffer {
    this.#memory ??= native.mapMemory(this.fd, this.#stride * this.maxEntries);
    return this.#memory;
  }

  /** `path` must lie in a bpffs. */
  pin(path: string): void {
    native.pin(this.fd, path);
  }

  unpin(path: string): void {
    unlinkSync(path);
  }

  /** The kernel frees the map when nobody holds it open, pinned or in a program. */
  close(): void {
    if (this.#memory !== undefined) native.unmap(this.#memory);
    this.#memory = undefined;
    this.#descriptor.close();
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `BpfMap ${this.name} (${this.type}, id ${this.id})`;
  }

  #lookup(key: Uint8Array): Buffer | undefined {
    this.#requireKey(key);
    const slot = Buffer.alloc(this.#slotSize);
    return native.mapLookup(this.fd, key, slot) ? slot : undefined;
  }

  #slots(): Generator<[Buffer, Buffer]> {
    return BATCH_READ.has(this.type) ? this.#slotsByBatch() : this.#slotsByKey();
  }

  *#slotsByBatch(): Generator<[Buffer, Buffer]> {
    let cursor: Buffer | null = null;
    let room = Math.min(BATCH_ENTRIES, Math.max(1, this.maxEntries));
    for (let more = true; more; ) {
      const next = Buffer.alloc(Math.max(this.keySize, 4));
      const keys = Buffer.alloc(room * this.keySize);
      const slots = Buffer.alloc(room * this.#slotSize);
      let count: number;
      try {
        [count, more] = native.mapLookupBatch(this.fd, cursor, next, keys, slots, room);
      } catch (error) {
        if (hasCode(error, 'ENOSPC')) {
          room *= 2; // one bucket holds more than that
          continue;
        }
        if (cursor === null && hasCode(error, ...NO_BATCH)) {
          yield* this.#slotsByKey();
          return;
        }
        throw error;
      }
      for (let i = 0; i < count; i++) {
        yield [
          keys.subarray(i * this.keySize, (i + 1) * this.keySize),
          slots.subarray(i * this.#slotSize, (i + 1) * this.#slotSize),
        ];
      }
      cursor = next;
    }
  }

  /**
   * Takes the keys first. The kernel starts again from the front when somebody deleted the key it is to go on from, so
   * keys that were seen are walked over once more; no more than a few rounds, lest a busy writer keep us for ever.
   */
  *#slotsByKey(): Generator<[Buffer, Buffer]> {
    const keys = new Map<string, Buffer>();
    let key: Buffer | null = null;
    for (let steps = 0; steps <= RESTARTS * this.maxEntries; steps++) {
      const next: Buffer = Buffer.alloc(this.keySize);
      if (!native.mapNextKey(this.fd, key, next)) break;
      keys.set(next.toString('latin1'), next);
      key = next;
    }
    for (const each of keys.values()) {
      const slot = this.#lookup(each);
      if (slot !== undefined) yield [each, slot];
    }
  }

  #split(slot: Buffer): Buffer[] {
    return Array.from({ length: slot.length / this.#stride }, (_, cpu) =>
      slot.subarray(cpu * this.#stride, cpu * this.#stride + this.valueSize),
    );
  }

  #join(values: readonly Uint8Array[]): Buffer {
    const slot = Buffer.alloc(this.#slotSize);
    const cpus = this.#slotSize / this.#stride;
    if (values.length !== cpus) throw new RangeError(`map ${this.name} takes ${cpus} values, got ${values.length}`);
    values.forEach((value, cpu) => {
      requireSize(`value of map ${this.name}`, value, this.valueSize);
      slot.set(value, cpu * this.#stride);
    });
    return slot;
  }

  #requireKey(key: Uint8Array): void {
    requireSize(`key of map ${this.name}`, key, this.keySize);
  }

  #requirePlain(): void {
    if (this.perCpu) throw new TypeError(`map ${this.name} is per CPU: use the ...PerCpu methods`);
  }

  #requirePerCpu(): void {
    if (!this.perCpu) throw new TypeError(`map ${this.name} is not per CPU`);
  }
}
