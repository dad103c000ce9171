// SPDX-License-Identifier: Apache-2.0
import { existsSync, mkdirSync, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { BpfError } from './bpf-error.js';
import { Btf } from './btf.js';
import { BpfMap } from './map.js';
import { closedError, type NativeObject, native, type ObjectMap } from './native.js';
import { BpfProgram } from './program.js';
import { writeConstants } from './rodata.js';
import type { MapDeclaration, OpenOptions } from './types.js';

/** How a pinned map differs from the one that the object declares; undefined when it can be reused. */
function difference(pinned: BpfMap, declared: ObjectMap): string | undefined {
  const fields = ['type', 'keySize', 'valueSize', 'maxEntries', 'flags'] as const;
  const found = fields.filter((field) => pinned[field] !== declared[field]);
  return found.length === 0
    ? undefined
    : found.map((field) => `${field} is ${pinned[field]}, must be ${declared[field]}`).join(', ');
}

/** A compiled BPF object: opened, configured and loaded. Its maps and programs live on when it is closed. */
export class BpfObject {
  readonly path: string;
  readonly #pinDirectory: string | undefined;
  #native: NativeObject | undefined;
  #loaded = false;
  #btf: Btf | undefined;

  private constructor(path: string, options: OpenOptions) {
    this.path = path;
    this.#pinDirectory = options.pinDirectory;
    this.#native = new native.Object(path);
  }

  /** Reads the object and configures it; nothing reaches the kernel before `load`. */
  static open(path: string, options: OpenOptions = {}): BpfObject {
    const object = new BpfObject(path, options);
    try {
      for (const [map, entries] of Object.entries(options.mapSizes ?? {})) object.#open.setMaxEntries(map, entries);
      for (const [name, map] of Object.entries(options.maps ?? {})) object.#open.reuseMap(name, map.fd);
      for (const program of options.skipPrograms ?? []) object.#open.skipProgram(program);
      const variables = options.rodata ?? {};
      if (Object.keys(variables).length > 0) writeConstants(object.#open, object.btf, variables);
      return object;
    } catch (error) {
      object.close();
      throw error;
    }
  }

  /** Uses a map that exists in place of the object's own of that name. The caller sees to it that it fits, and may close it. */
  reuse(name: string, map: { readonly fd: number }): void {
    this.#open.reuseMap(name, map.fd);
  }

  /**
   * Creates or reuses the maps, loads the programs and pins the new maps; after an error nothing new is pinned.
   * Throws EEXIST for an incompatible pinned map; of a program that the verifier refuses, the error has the log.
   */
  load(): this {
    const object = this.#open;
    if (this.#loaded) throw new Error(`${this.path} is already loaded`);
    const missing = this.#pinDirectory === undefined ? [] : this.#reusePinned(this.#pinDirectory);
    object.load();
    this.#loaded = true;
    this.#pin(missing);
    return this;
  }

  /** Names of the maps, without those that hold the program's variables. */
  get maps(): readonly string[] {
    return this.#declared.map((map) => map.name);
  }

  /** The maps as the object declares them, before they are loaded. */
  get declarations(): readonly MapDeclaration[] {
    return this.#declared.map(({ keyType, valueType, internal: _, ...map }) => ({
      ...map,
      ...(keyType === 0 ? {} : { key: this.btf.type(keyType) }),
      ...(valueType === 0 ? {} : { value: this.btf.type(valueType) }),
    }));
  }

  get programs(): readonly string[] {
    return this.#open.programs();
  }

  get btf(): Btf {
    if (this.#btf === undefined) {
      const types = this.#open.btf();
      if (types === undefined) throw new Error(`${this.path} has no type information: compile it with -g`);
      this.#btf = new Btf(types);
    }
    return this.#btf;
  }

  /** A new BpfMap each time, to be closed by the caller. Throws ENOENT. */
  map(name: string): BpfMap {
    return new BpfMap(this.#ready.mapDescriptor(name), name);
  }

  /** A new BpfProgram each time, to be closed by the caller. Throws ENOENT. */
  program(name: string): BpfProgram {
    return new BpfProgram(this.#ready.programDescriptor(name), name);
  }

  close(): void {
    this.#native?.close();
    this.#native = undefined;
  }

  get #open(): NativeObject {
    if (this.#native === undefined) throw closedError(`BpfObject ${this.path}`);
    return this.#native;
  }

  get #ready(): NativeObject {
    const object = this.#open;
    if (!this.#loaded) throw new Error(`${this.path} is not loaded yet`);
    return object;
  }

  get #declared(): ObjectMap[] {
    return this.#open.maps().filter((map) => !map.internal);
  }

  /** Hands the pinned maps to the object; returns the maps that are to be pinned after loading. */
  #reusePinned(directory: string): { name: string; path: string }[] {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const missing: { name: string; path: string }[] = [];
    for (const declared of this.#declared) {
      const path = join(directory, declared.name);
      if (!existsSync(path)) {
        missing.push({ name: declared.name, path });
        continue;
      }
      const pinned = BpfMap.openPinned(path);
      try {
        const differs = difference(pinned, declared);
        if (differs !== undefined) throw this.#incompatible(path, differs);
        this.#open.reuseMap(declared.name, pinned.fd);
      } finally {
        pinned.close();
      }
    }
    return missing;
  }

  #incompatible(path: string, differs: string): BpfError {
    return new BpfError({
      code: 'EEXIST',
      errno: -constants.errno.EEXIST,
      syscall: 'load',
      description: `the map pinned at ${path} does not fit: ${differs}`,
      subject: this.path,
    });
  }

  #pin(maps: readonly { name: string; path: string }[]): void {
    const done: string[] = [];
    try {
      for (const { name, path } of maps) {
        const map = this.map(name);
        try {
          map.pin(path);
          done.push(path);
        } finally {
          map.close();
        }
      }
    } catch (error) {
      for (const path of done) unlinkSync(path);
      throw error;
    }
  }
}
