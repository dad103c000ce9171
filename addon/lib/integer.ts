// SPDX-License-Identifier: Apache-2.0
import { endianness } from 'node:os';

const LITTLE = endianness() === 'LE';

/** Writes an integer of 1, 2, 4 or 8 bytes in host byte order; one that does not fit is a RangeError. */
export function writeInteger(
  target: Buffer,
  offset: number,
  size: number,
  signed: boolean,
  value: number | bigint | boolean,
  what: string,
): void {
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw new RangeError(`${what}: ${value} is no exact integer`);
  }
  const exact = BigInt(value);
  const fits = (signed ? BigInt.asIntN(size * 8, exact) : BigInt.asUintN(size * 8, exact)) === exact;
  if (!fits) throw new RangeError(`${what}: ${exact} does not fit ${signed ? 'signed' : 'unsigned'} ${size * 8} bits`);
  const bits = BigInt.asUintN(size * 8, exact);
  if (size === 8) {
    if (LITTLE) target.writeBigUInt64LE(bits, offset);
    else target.writeBigUInt64BE(bits, offset);
  } else if (LITTLE) target.writeUIntLE(Number(bits), offset, size);
  else target.writeUIntBE(Number(bits), offset, size);
}

/** Reads an integer in host byte order: 8 bytes as bigint, fewer as number. */
export function readInteger(source: Buffer, offset: number, size: number, signed: boolean): number | bigint {
  if (size === 8) {
    const bits = LITTLE ? source.readBigUInt64LE(offset) : source.readBigUInt64BE(offset);
    return signed ? BigInt.asIntN(64, bits) : bits;
  }
  if (signed) return LITTLE ? source.readIntLE(offset, size) : source.readIntBE(offset, size);
  return LITTLE ? source.readUIntLE(offset, size) : source.readUIntBE(offset, size);
}

/**
 * Host order to network order, 16 bits. StructCodec codes every field as an integer of the host, `__be16` too:
 * `codec.encode({ port: htons(80) })`, `ntohs(codec.decode(bytes).port)`.
 */
export function htons(value: number): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff) throw new RangeError(`${value} does not fit 16 bits`);
  return LITTLE ? ((value & 0xff) << 8) | (value >>> 8) : value;
}

/** Network order to host order, 16 bits. */
export const ntohs = htons;
