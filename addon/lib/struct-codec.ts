// SPDX-License-Identifier: Apache-2.0
import type { Btf } from './btf.js';
import { readInteger, writeInteger } from './integer.js';
import type { Field, FieldInput, FieldType, FieldValue, StructInput, StructValue } from './types.js';

/** Fields that only fill space: zero when they are not given, and not decoded. */
const isPadding = (field: Field): boolean => field.name.startsWith('pad');
const isBytes = (type: FieldType): boolean => type.kind === 'array' && type.elementSize === 1;

function requireCodable(type: FieldType, path: string): void {
  if (type.kind === 'union' || type.kind === 'float') throw new TypeError(`${path} is a ${type.kind}: not supported`);
  if (type.element !== undefined) requireCodable(type.element, path);
  for (const field of type.fields ?? []) requireCodable(field.type, `${path}.${field.name}`);
}

function encodeStruct(fields: readonly Field[], input: FieldInput, target: Buffer, base: number, path: string): void {
  if (typeof input !== 'object' || Array.isArray(input) || input instanceof Uint8Array) {
    throw new TypeError(`${path} must be an object`);
  }
  const values = input as StructInput;
  const names = new Set(fields.map((field) => field.name));
  for (const name of Object.keys(values)) {
    if (!names.has(name)) throw new TypeError(`${path} has no field ${name}`);
  }
  for (const field of fields) {
    const value = values[field.name];
    if (value !== undefined) encode(field.type, value, target, base + field.offset, `${path}.${field.name}`);
    else if (!isPadding(field)) throw new TypeError(`${path}.${field.name} is missing`);
  }
}

function encode(type: FieldType, value: FieldInput, target: Buffer, offset: number, path: string): void {
  if (type.kind === 'struct') {
    encodeStruct(type.fields ?? [], value, target, offset, path);
    return;
  }
  if (type.element !== undefined) {
    encodeArray(type, type.element, value, target, offset, path);
    return;
  }
  if (typeof value !== 'number' && typeof value !== 'bigint' && typeof value !== 'boolean') {
    throw new TypeError(`${path} must be an integer`);
  }
  writeInteger(target, offset, type.size, type.signed ?? false, value, path);
}

function encodeArray(
  type: FieldType,
  element: FieldType,
  value: FieldInput,
  target: Buffer,
  offset: number,
  path: string,
): void {
  const length = type.length ?? 0;
  if (value instanceof Uint8Array && isBytes(type)) {
    if (value.length !== length) throw new RangeError(`${path} has ${length} bytes, got ${value.length}`);
    target.set(value, offset);
    return;
  }
  if (!Array.isArray(value)) throw new TypeError(`${path} must be ${isBytes(type) ? 'a Uint8Array' : 'an array'}`);
  if (value.length !== length) throw new RangeError(`${path} has ${length} elements, got ${value.length}`);
  (value as readonly FieldInput[]).forEach((item, index) => {
    encode(element, item, target, offset + index * element.size, `${path}[${index}]`);
  });
}

function decodeStruct(fields: readonly Field[], source: Buffer, base: number): StructValue {
  const shown = fields.filter((field) => !isPadding(field));
  return Object.fromEntries(shown.map((field) => [field.name, decode(field.type, source, base + field.offset)]));
}

function decode(type: FieldType, source: Buffer, offset: number): FieldValue {
  if (type.kind === 'struct') return decodeStruct(type.fields ?? [], source, offset);
  const { element, length = 0 } = type;
  if (element === undefined) return readInteger(source, offset, type.size, type.signed ?? false);
  if (isBytes(type)) return Buffer.from(source.subarray(offset, offset + type.size));
  return Array.from({ length }, (_, index) => decode(element, source, offset + index * element.size));
}

/**
 * Objects to bytes and back, by the layout in the type information. Integers are the host's (network-order fields:
 * see htons); 64-bit ones decode to bigint, byte arrays to Buffer, structures to objects.
 */
export class StructCodec {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly #fields: readonly Field[];

  /** Throws for an unknown structure, and for one with unions, bit fields or floating point. */
  constructor(btf: Btf, name: string) {
    const { size, fields } = btf.struct(name);
    this.name = name;
    this.size = size;
    this.#fields = fields;
    for (const field of fields) requireCodable(field.type, `${name}.${field.name}`);
  }

  /** Every field must be given, except those whose name starts with `pad`; an unknown or unfit one is an error. */
  encode(values: StructInput): Buffer {
    const target = Buffer.alloc(this.size);
    encodeStruct(this.#fields, values, target, 0, this.name);
    return target;
  }

  /** `bytes` must be exactly as long as the structure. */
  decode(bytes: Uint8Array): StructValue {
    if (bytes.length !== this.size) {
      throw new RangeError(`struct ${this.name} has ${this.size} bytes, got ${bytes.length}`);
    }
    return decodeStruct(this.#fields, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), 0);
  }

  /**
   * Reads one unsigned integer of a structure as a number, without decoding the rest: for those who count over very many. Of a
   * 64-bit one beyond 2^53 the last digits are lost.
   */
  numberReader(name: string): (bytes: Buffer) => number {
    const field = this.#fields.find((each) => each.name === name);
    if (
      field === undefined ||
      field.type.fields !== undefined ||
      field.type.element !== undefined ||
      field.type.signed
    ) {
      throw new TypeError(`struct ${this.name} has no unsigned integer ${name}`);
    }
    const { offset, size } = field;
    if (size === 1) return (bytes) => bytes.readUInt8(offset);
    if (size === 2) return (bytes) => bytes.readUInt16LE(offset);
    if (size === 4) return (bytes) => bytes.readUInt32LE(offset);
    return (bytes) => bytes.readUInt32LE(offset) + bytes.readUInt32LE(offset + 4) * 2 ** 32;
  }
}
