// SPDX-License-Identifier: Apache-2.0
import type { Btf, Variable } from './btf.js';
import { writeInteger } from './integer.js';
import type { NativeObject } from './native.js';

const SECTION = '.rodata';

function writeConstant(section: Buffer, variable: Variable, value: number | bigint | Uint8Array): void {
  const { name, offset, size, type } = variable;
  if (value instanceof Uint8Array) {
    if (value.length !== size) throw new RangeError(`constant ${name} has ${size} bytes, got ${value.length}`);
    section.set(value, offset);
    return;
  }
  if (type.kind !== 'int' && type.kind !== 'enum') {
    throw new TypeError(`constant ${name} is of kind ${type.kind}: give its ${size} bytes`);
  }
  writeInteger(section, offset, size, type.signed ?? false, value, `constant ${name}`);
}

/** Sets `const volatile` variables of an object that is not loaded yet. */
export function writeConstants(
  object: NativeObject,
  btf: Btf,
  values: Readonly<Record<string, number | bigint | Uint8Array>>,
): void {
  const variables = new Map(btf.variables(SECTION).map((variable) => [variable.name, variable]));
  const section = object.initialValue(SECTION);
  for (const [name, value] of Object.entries(values)) {
    const variable = variables.get(name);
    if (variable === undefined || section === undefined) {
      throw new RangeError(`the object has no constant ${name} (it has ${[...variables.keys()].join(', ') || 'none'})`);
    }
    writeConstant(section, variable, value);
  }
  if (section !== undefined) object.setInitialValue(SECTION, section);
}
