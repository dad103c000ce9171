// SPDX-License-Identifier: Apache-2.0
import { type NativeBtf, type NativeType, native } from './native.js';
import type { Field, FieldType, MapInfo, Struct } from './types.js';

export interface Variable {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
  readonly type: FieldType;
}

const KINDS: ReadonlySet<string> = new Set(['int', 'struct', 'union', 'enum', 'pointer', 'float']);

/** The types of a compiled object. */
export class Btf {
  readonly #native: NativeBtf;

  /** @internal Use `fromObject` or `BpfObject.btf`. */
  constructor(types: NativeBtf) {
    this.#native = types;
  }

  /** Of an object file, or of raw BTF such as /sys/kernel/btf/vmlinux. */
  static fromObject(path: string): Btf {
    return new Btf(new native.Btf(path));
  }

  /** Types of a map's key and value as the kernel holds them; undefined for a map without type information. */
  static ofMap({ btfId, keyType, valueType }: MapInfo): { key: FieldType; value: FieldType } | undefined {
    if (btfId === 0 || keyType === 0 || valueType === 0) return undefined;
    const types = new Btf(native.typesById(btfId));
    return { key: types.type(keyType), value: types.type(valueType) };
  }

  /** The type of that number. Throws TypeError for one that has no layout. */
  type(id: number): FieldType {
    return this.#fieldType(id);
  }

  /** Throws RangeError for an unknown name and TypeError for a structure with bit fields. */
  struct(name: string): Struct {
    const id = this.#find(name, 'struct');
    const type = this.#native.type(id);
    return { name, size: type.size, fields: this.#fields(type, 0) };
  }

  /** Enumerators of a named enum by name. (clang before 15 does not record that an enum is signed.) */
  enum(name: string): Record<string, number> {
    const { values = [] } = this.#native.type(this.#find(name, 'enum'));
    return Object.fromEntries(
      values.map((item) => {
        const value = Number(item.value);
        if (!Number.isSafeInteger(value)) throw new RangeError(`${item.name} of enum ${name} is too large`);
        return [item.name, value];
      }),
    );
  }

  /** Variables of a section such as '.rodata'; none when there is no such section. */
  variables(section: string): Variable[] {
    const id = this.#native.find(section, 'section');
    if (id === 0) return [];
    const { variables = [] } = this.#native.type(id);
    return variables.map(({ name, offset, size, type }) => ({ name, offset, size, type: this.#fieldType(type) }));
  }

  #find(name: string, kind: 'struct' | 'enum'): number {
    const id = this.#native.find(name, kind);
    if (id === 0) throw new RangeError(`no ${kind} ${name} in the object's type information`);
    return id;
  }

  /** Members of an anonymous structure count as members of the one around it, as in C. */
  #fields(type: NativeType, base: number): Field[] {
    return (type.members ?? []).flatMap((member) => {
      if (member.bitSize !== 0 || member.bitOffset % 8 !== 0) {
        throw new TypeError(`${type.name}.${member.name} is a bit field`);
      }
      const offset = base + member.bitOffset / 8;
      if (member.name === '') {
        const inner = this.#native.type(member.type);
        if (inner.kind === 'struct') return this.#fields(inner, offset);
      }
      const fieldType = this.#fieldType(member.type);
      return [{ name: member.name, offset, size: fieldType.size, type: fieldType }];
    });
  }

  #fieldType(id: number): FieldType {
    let name: string | undefined;
    let type = this.#native.type(id);
    while (type.type !== undefined && ['typedef', 'qualifier', 'variable'].includes(type.kind)) {
      if (type.kind === 'typedef') name ??= type.name;
      type = this.#native.type(type.type);
    }
    name ??= type.name === '' ? undefined : type.name;
    const named = name === undefined ? {} : { name };
    if (type.kind === 'array') {
      const element = this.#fieldType(type.type ?? 0);
      const length = type.length ?? 0;
      return { kind: 'array', ...named, size: type.size, element, elementSize: element.size, length };
    }
    if (!KINDS.has(type.kind)) throw new TypeError(`type ${name ?? id} is of kind ${type.kind}`);
    const kind = type.kind as Exclude<FieldType['kind'], 'array'>;
    if (kind === 'struct') return { kind, ...named, size: type.size, fields: this.#fields(type, 0) };
    return { kind, ...named, size: type.size, ...(type.signed === undefined ? {} : { signed: type.signed }) };
  }
}
