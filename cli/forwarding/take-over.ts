import { type BpfMap, Btf } from '../../addon/lib/index.js';
import type { FieldType, MapDeclaration } from '../../addon/lib/types.js';

/** Why the content of a pinned map cannot go into the one that this build declares. */
export class Unfit extends Error {}

/** `reuse`: the pinned map is what this build declares. `convert`: its content can be copied. `fresh`: nothing to keep. */
export type Fate = 'reuse' | 'convert' | 'fresh';

const HASHES = new Set(['hash', 'percpu_hash']);
const ARRAYS = new Set(['array', 'percpu_array']);

/** What becomes of a pinned map. @throws {Unfit} when it is of another kind altogether. */
export function fateOf(pinned: BpfMap, declared: MapDeclaration): Fate {
  const attributes = ['type', 'keySize', 'valueSize', 'maxEntries', 'flags'] as const;
  const types = Btf.ofMap(pinned.info);
  const sameTypes =
    types === undefined ||
    declared.key === undefined ||
    declared.value === undefined ||
    (describe(types.key) === describe(declared.key) && describe(types.value) === describe(declared.value));
  if (attributes.every((name) => pinned[name] === declared[name]) && sameTypes) return 'reuse';
  const kind = [HASHES, ARRAYS].find((types) => types.has(declared.type));
  if (kind === undefined) return 'fresh'; // a ring, or a cache: what was in it comes again or is of the past
  if (!kind.has(pinned.type) || pinned.perCpu !== declared.type.startsWith('percpu')) {
    throw new Unfit(`it is a ${pinned.type}, and must become a ${declared.type}`);
  }
  return 'convert';
}

/**
 * Copies every entry of `from` into `to`, field by field: fields that are new become 0, values may grow.
 * @throws {Unfit} when something would be lost: a field that is not 0 and has no place, an entry too many.
 */
export function convert(from: BpfMap, to: BpfMap): void {
  const [before, after] = [Btf.ofMap(from.info), Btf.ofMap(to.info)];
  if (before === undefined || after === undefined) throw new Unfit('there is no type information for it');
  const isArray = ARRAYS.has(to.type);
  const slots = from.perCpu ? from.entriesPerCpu() : plainSlots(from);
  for (const [key, values] of slots) {
    if (isArray && values.every(isZero)) continue;
    if (isArray && key.readUInt32LE() >= to.maxEntries) throw new Unfit(`entry ${key.readUInt32LE()} has no place`);
    const newKey = moved(before.key, after.key, key);
    const newValues = values.map((value) => moved(before.value, after.value, value));
    try {
      if (to.perCpu) to.setPerCpu(newKey, newValues);
      else to.set(newKey, newValues[0] ?? Buffer.alloc(0));
    } catch (error) {
      if ((error as { code?: string }).code === 'E2BIG') throw new Unfit(`only ${to.maxEntries} entries have a place`);
      throw error;
    }
  }
}

function* plainSlots(map: BpfMap): Generator<[Buffer, Buffer[]]> {
  for (const [key, value] of map.getBatch()) yield [key, [value]];
}

function moved(from: FieldType, to: FieldType, bytes: Buffer): Buffer {
  const target = Buffer.alloc(to.size);
  move(from, to, bytes, target, '');
  return target;
}

/** @param source starts at the field, as `target` does. */
function move(from: FieldType, to: FieldType, source: Buffer, target: Buffer, path: string): void {
  if (from.kind === 'struct' && to.kind === 'struct') {
    const places = new Map(to.fields?.map((field) => [field.name, field]));
    for (const field of from.fields ?? []) {
      const bytes = source.subarray(field.offset, field.offset + field.size);
      const place = places.get(field.name);
      const name = path === '' ? field.name : `${path}.${field.name}`;
      if (place !== undefined) move(field.type, place.type, bytes, target.subarray(place.offset), name);
      else if (!isZero(bytes)) throw new Unfit(`its field ${name} is in use, and this build does not know it`);
    }
    return;
  }
  const bothArrays = from.kind === 'array' && to.kind === 'array';
  if (bothArrays ? from.elementSize !== to.elementSize : !isNumber(from) || !isNumber(to)) {
    throw new Unfit(`its field ${path} is of another type`);
  }
  // little endian: what a number or an array has more of, comes behind
  if (!isZero(source.subarray(to.size, from.size))) throw new Unfit(`its field ${path} does not fit`);
  source.copy(target, 0, 0, Math.min(from.size, to.size));
}

function isNumber({ kind }: FieldType): boolean {
  return kind === 'int' || kind === 'enum';
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** Names and places of all fields: two types with the same text hold the same bytes. */
function describe(type: FieldType): string {
  if (type.kind === 'array') return `${type.length}*${type.element === undefined ? '' : describe(type.element)}`;
  if (type.kind !== 'struct') return `${isNumber(type) ? 'number' : type.kind}${type.size}`;
  const fields = (type.fields ?? []).filter(({ name }) => !name.startsWith('pad'));
  return `{${fields.map(({ name, offset, type }) => `${name}@${offset}:${describe(type)}`).join(',')}}${type.size}`;
}
