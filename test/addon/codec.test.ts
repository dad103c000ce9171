// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { Btf, htons, ntohs, StructCodec, type StructInput } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile } from './fixture.js';

const test = suite('codec');
const btf = Btf.fromObject(compile('sample'));
const codec = new StructCodec(btf, 'everything');

const signed = (bits: number) => fc.integer({ min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 });
const unsigned = (bits: number) => fc.integer({ min: 0, max: 2 ** bits - 1 });
const point = fc.record({ x: signed(32), y: signed(32) }, { noNullPrototype: true });
const shape = {
  u8: unsigned(8),
  s8: signed(8),
  u16: unsigned(16),
  port: unsigned(16),
  s16: signed(16),
  u32: unsigned(32),
  s32: signed(32),
  u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  s64: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  mac: fc.uint8Array({ minLength: 6, maxLength: 6 }).map((bytes) => Buffer.from(bytes)),
  point,
  corners: fc.tuple(point, point),
  words: fc.array(unsigned(32), { minLength: 4, maxLength: 4 }),
  colour: unsigned(32),
  inner: unsigned(32),
  flag: unsigned(1),
};
const everything = fc.record(shape, { noNullPrototype: true });
const example: StructInput = fc.sample(everything, { numRuns: 1, seed: 1 })[0] as StructInput;

test('a structure has the layout that the compiler gave it', () => {
  const struct = btf.struct('everything');
  assert.is(struct.name, 'everything');
  const at = (name: string) => struct.fields.find((field) => field.name === name);
  assert.equal(
    ['u8', 's8', 'u16', 'port', 's16', 'u32', 's32', 'u64', 's64', 'mac', 'point'].map((name) => at(name)?.offset),
    [0, 1, 2, 4, 6, 12, 16, 24, 32, 40, 48],
  );
  assert.equal(at('port')?.type, { kind: 'int', name: '__be16', size: 2, signed: false });
  assert.is(at('s16')?.type.signed, true);
  assert.is(at('mac')?.type.kind, 'array');
  assert.is(at('mac')?.type.elementSize, 1);
  assert.is(at('mac')?.type.length, 6);
  assert.is(at('corners')?.type.element?.name, 'point');
  assert.is(at('colour')?.type.kind, 'enum');
  assert.is(at('inner')?.offset, 92, 'a member of an anonymous structure');
  assert.is(codec.size, struct.size);
});

test('encode and decode are inverse for every value', () => {
  fc.assert(
    fc.property(everything, (values) => {
      assert.equal(codec.decode(codec.encode(values as unknown as StructInput)), values);
    }),
  );
});

test('decode and encode are inverse for all bytes but the padding', () => {
  const fields = btf.struct('everything').fields.filter((field) => !field.name.startsWith('pad'));
  fc.assert(
    fc.property(fc.uint8Array({ minLength: codec.size, maxLength: codec.size }), (bytes) => {
      const again = codec.encode(codec.decode(bytes));
      for (const { offset, size } of fields) {
        assert.equal(again.subarray(offset, offset + size), Buffer.from(bytes).subarray(offset, offset + size));
      }
    }),
  );
});

test('padding is zero, need not be given, and is not decoded', () => {
  const bytes = codec.encode(example);
  const padding = btf.struct('everything').fields.filter((field) => field.name.startsWith('pad'));
  assert.equal(
    padding.map((field) => field.name),
    ['pad', 'pad_mac', 'pad_end'],
  );
  for (const { offset, size } of padding) assert.equal(bytes.subarray(offset, offset + size), Buffer.alloc(size));
  assert.is('pad' in codec.decode(bytes), false);
  assert.is(codec.encode({ ...example, pad: 7 }).readUInt16LE(8), 7);
});

test('unknown, missing and unfit fields are errors that name them', () => {
  const { u8: _, ...incomplete } = example;
  assert.throws(() => codec.encode(incomplete), /everything\.u8 is missing/);
  assert.throws(() => codec.encode({ ...example, u9: 1 }), /everything has no field u9/);
  assert.throws(() => codec.encode({ ...example, point: { x: 1 } }), /everything\.point\.y is missing/);
  assert.throws(() => codec.encode({ ...example, u8: 256 }), /everything\.u8: 256 does not fit unsigned 8 bits/);
  assert.throws(() => codec.encode({ ...example, s8: -129 }), /does not fit signed 8 bits/);
  assert.throws(() => codec.encode({ ...example, u64: 2n ** 64n }), /does not fit unsigned 64 bits/);
  assert.throws(() => codec.encode({ ...example, u64: 2 ** 53 }), /no exact integer/);
  assert.throws(() => codec.encode({ ...example, u32: 1.5 }), /no exact integer/);
  assert.throws(() => codec.encode({ ...example, u32: [1] }), /everything\.u32 must be an integer/);
  assert.throws(() => codec.encode({ ...example, mac: Buffer.alloc(5) }), /everything\.mac has 6 bytes, got 5/);
  assert.throws(() => codec.encode({ ...example, words: [1, 2, 3] }), /everything\.words has 4 elements, got 3/);
  assert.throws(() => codec.encode({ ...example, words: 1 }), /everything\.words must be an array/);
  assert.throws(() => codec.encode({ ...example, point: [1, 2] }), /everything\.point must be an object/);
  assert.throws(() => codec.decode(Buffer.alloc(codec.size - 1)), /struct everything has \d+ bytes/);
});

test('a small bigint and a number are the same for every integer field', () => {
  assert.equal(codec.encode({ ...example, u32: 5n, u64: 6 }), codec.encode({ ...example, u32: 5, u64: 6n }));
});

test('what is decoded does not change when the bytes do', () => {
  const bytes = codec.encode({ ...example, mac: Buffer.from([1, 2, 3, 4, 5, 6]) });
  const decoded = codec.decode(bytes);
  bytes.fill(0);
  assert.equal(decoded.mac, Buffer.from([1, 2, 3, 4, 5, 6]));
});

test('structures that have no single encoding are refused', () => {
  assert.throws(() => new StructCodec(btf, 'with_union'), /with_union\.both is a union/);
  assert.throws(() => new StructCodec(btf, 'with_bits'), /with_bits\.low is a bit field/);
  assert.throws(() => new StructCodec(btf, 'nothing'), /no struct nothing/);
});

test('enumerators by name', () => {
  assert.equal(btf.enum('colour'), { RED: 0, GREEN: 1, BLUE: 7 });
  assert.throws(() => btf.enum('nothing'), /no enum nothing/);
});

test("the kernel's own types can be read", () => {
  const kernel = Btf.fromObject('/sys/kernel/btf/vmlinux');
  assert.is(kernel.enum('xdp_action').XDP_TX, 3);
  assert.is(kernel.struct('ethhdr').size, 14);
});

test('a file without types is an error that names it', () => {
  assert.throws(() => Btf.fromObject('/nowhere.o'), /ENOENT.*\/nowhere\.o/);
});

test('htons and ntohs swap, and are inverse', () => {
  assert.is(htons(0x1234), 0x3412);
  assert.is(htons(80), 0x5000);
  fc.assert(fc.property(unsigned(16), (port) => ntohs(htons(port)) === port));
  assert.throws(() => htons(65_536), RangeError);
});

test('reads one unsigned integer of any size without decoding the rest', () => {
  const bytes = codec.encode(example);
  const whole = codec.decode(bytes);
  for (const name of ['u8', 'u16', 'u32', 'u64']) {
    assert.is(codec.numberReader(name)(bytes), Number(whole[name] as bigint), name);
  }
  assert.is(codec.numberReader('u64')(codec.encode({ ...example, u64: 2n ** 53n })), 2 ** 53);
  for (const name of ['s8', 'mac', 'point', 'nothing']) {
    assert.throws(() => codec.numberReader(name), new RegExp(`no unsigned integer ${name}`));
  }
});

test.run();
