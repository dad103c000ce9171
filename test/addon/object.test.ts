// SPDX-License-Identifier: Apache-2.0

import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { BpfError, BpfMap, BpfObject, BpfProgram, programInfo, StructCodec } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, u32, u64 } from './fixture.js';
import { bpffs, folder } from './private-namespaces.js';

const test = suite('object');
const sample = compile('sample');
const packet = Buffer.alloc(64, 1);
const XDP_DROP = 1;
const XDP_PASS = 2;
const XDP_TX = 3;

const caught = (body: () => unknown): BpfError => {
  try {
    body();
  } catch (error) {
    assert.instance(error, BpfError);
    return error as BpfError;
  }
  throw new Error('should have thrown');
};

test('names its maps and programs, without the maps that hold variables', () => {
  const object = BpfObject.open(sample);
  assert.equal([...object.maps].sort(), ['a_name_longer_than_fifteen', 'constants', 'ring', 'sample_hash']);
  assert.equal([...object.programs].sort(), ['decide', 'mark', 'prepend', 'report', 'shoot']);
  object.close();
});

test('loads; a name that the kernel cuts off stays whole', () => {
  const object = BpfObject.open(sample).load();
  const map = object.map('a_name_longer_than_fifteen');
  assert.is(map.name, 'a_name_longer_than_fifteen');
  assert.is(map.info.name, 'a_name_longer_t');
  const program = object.program('decide');
  assert.is(program.name, 'decide');
  assert.is(program.type, 'xdp');
  assert.match(program.tag, /^[0-9a-f]{16}$/);
  const info = programInfo(program.id);
  assert.is(info.tag, program.tag);
  assert.is(info.mapIds.includes(map.id), true);
  object.close();
  assert.is(program.testRun({ data: packet }).retval, XDP_PASS, 'lives on when the object is closed');
  map.close();
  program.close();
});

test('unknown names are errors: map, program, map size, program to skip', () => {
  const object = BpfObject.open(sample).load();
  assert.throws(() => object.map('nothing'), /ENOENT.*nothing/);
  assert.throws(() => object.program('nothing'), /ENOENT.*nothing/);
  object.close();
  assert.throws(() => BpfObject.open(sample, { mapSizes: { nothing: 1 } }), /ENOENT.*nothing/);
  assert.throws(() => BpfObject.open(sample, { skipPrograms: ['nothing'] }), /ENOENT.*nothing/);
  assert.throws(() => programInfo(0x7fffffff), /ENOENT/);
});

test('a missing or broken file is an error that names it', () => {
  assert.match(caught(() => BpfObject.open('/nowhere.o')).message, /ENOENT.*\/nowhere\.o/);
  const broken = join(folder, 'broken.o');
  writeFileSync(broken, 'this is no ELF file');
  assert.match(caught(() => BpfObject.open(broken)).message, /broken\.o/);
});

test('rodata: integers of every width and sign, enums and bytes reach the program', () => {
  const mac = Buffer.from('0a0b0c0d0e0f', 'hex');
  const origin = Buffer.concat([u32(3), Buffer.from(new Int32Array([-4]).buffer)]);
  const object = BpfObject.open(sample, {
    rodata: { verdict: XDP_DROP, large: 0xffffffffffffffffn, negative: -7, paint: 7, mac, origin },
  }).load();
  const program = object.program('decide');
  assert.is(program.testRun({ data: packet }).retval, XDP_DROP);
  const codec = new StructCodec(object.btf, 'everything');
  const map = object.map('constants');
  const shown = codec.decode(map.get(u32(0)) ?? Buffer.alloc(0));
  assert.is(shown.u64, 0xffffffffffffffffn);
  assert.is(shown.s16, -7);
  assert.is(shown.colour, 7);
  assert.equal(shown.mac, mac);
  assert.equal(shown.point, { x: 3, y: -4 });
  for (const each of [map, program, object]) each.close();
});

test('rodata: unknown names, wrong sizes and values out of range are errors', () => {
  const opening = (rodata: Record<string, number | bigint | Uint8Array>) => () => BpfObject.open(sample, { rodata });
  assert.throws(opening({ nothing: 1 }), /no constant nothing \(it has .*verdict/);
  assert.throws(opening({ mac: Buffer.alloc(5) }), /constant mac has 6 bytes, got 5/);
  assert.throws(opening({ mac: 5 }), /constant mac is of kind array/);
  assert.throws(opening({ verdict: 2 ** 32 }), /constant verdict: 4294967296 does not fit unsigned 32 bits/);
  assert.throws(opening({ verdict: -1 }), /does not fit/);
  assert.throws(opening({ verdict: 1.5 }), /no exact integer/);
  assert.throws(opening({ negative: 40_000 }), /does not fit signed 16 bits/);
});

test('mapSizes change a map before it is made', () => {
  const object = BpfObject.open(sample, { mapSizes: { sample_hash: 1000 } }).load();
  const map = object.map('sample_hash');
  assert.is(map.maxEntries, 1000);
  map.close();
  object.close();
});

test('skipPrograms leaves a program out, so that the others load though the verifier would refuse it', () => {
  const object = BpfObject.open(compile('refused'), { skipPrograms: ['careless'] }).load();
  object.program('harmless').close();
  assert.throws(() => object.program('careless'));
  object.close();
});

test('pinDirectory: creates and pins, then reuses with the contents', () => {
  const pinDirectory = join(bpffs, 'reuse', 'deep');
  const first = BpfObject.open(sample, { pinDirectory }).load();
  const written = first.map('sample_hash');
  written.set(u32(1), u64(42));
  assert.equal(readdirSync(pinDirectory).sort(), [...first.maps].sort());
  first.close();
  written.close();
  const second = BpfObject.open(sample, { pinDirectory }).load();
  const read = second.map('sample_hash');
  assert.equal(read.get(u32(1)), u64(42));
  assert.is(read.id, written.id);
  read.close();
  second.close();
});

test('pinDirectory: an incompatible map is an error that says which and why, and changes nothing', () => {
  const pinDirectory = join(bpffs, 'incompatible');
  BpfObject.open(sample, { pinDirectory }).load().close();
  const before = BpfMap.openPinned(join(pinDirectory, 'sample_hash'));
  const changed = BpfObject.open(compile('sample', ['SAMPLE_VALUE=__u32']), { pinDirectory });
  const error = caught(() => changed.load());
  assert.is(error.code, 'EEXIST');
  assert.match(error.message, /incompatible\/sample_hash does not fit: valueSize is 8, must be 4/);
  changed.close();
  const larger = BpfObject.open(sample, { pinDirectory, mapSizes: { sample_hash: 65 } });
  assert.match(caught(() => larger.load()).message, /maxEntries is 64, must be 65/);
  larger.close();
  const after = BpfMap.openPinned(join(pinDirectory, 'sample_hash'));
  assert.is(after.id, before.id);
  before.close();
  after.close();
});

test('pinDirectory: nothing is pinned when a program is refused', () => {
  const pinDirectory = join(bpffs, 'refused');
  const object = BpfObject.open(compile('refused'), { pinDirectory });
  assert.throws(() => object.load());
  assert.is(existsSync(join(pinDirectory, 'refused_map')), false);
  object.close();
});

test("a refused program: the message ends with the verifier's reason, the log has all of it", () => {
  const object = BpfObject.open(compile('refused'));
  const error = caught(() => object.load());
  assert.is(error.code, 'EACCES');
  assert.is(error.syscall, 'bpf_object__load');
  assert.match(error.message, /invalid access to packet/);
  assert.not.match(error.message, /processed/);
  assert.match(error.log ?? '', /careless/);
  assert.match(error.log ?? '', /BEGIN PROG LOAD LOG[\s\S]*processed \d+ insns/);
  object.close();
});

test('testRun: the packet that comes out, the verdict, the time', () => {
  const object = BpfObject.open(sample).load();
  const program = object.program('prepend');
  const result = program.testRun({ data: packet });
  assert.is(result.retval, XDP_TX);
  assert.equal(result.data, Buffer.concat([Buffer.alloc(4, 0xaa), packet]));
  assert.is(result.durationNs >= 0, true);
  assert.throws(() => program.testRun({ data: packet, dataOutSize: 10 }), /ENOSPC/);
  assert.throws(() => program.testRun({ data: Buffer.alloc(1) }), /EINVAL/);
  assert.throws(() => program.testRun({ data: packet, repeat: 0 }), RangeError);
  program.close();
  object.close();
});

test('testRun: repeats, and takes and gives a context', () => {
  const object = BpfObject.open(sample).load();
  const decide = object.program('decide');
  const counts = object.map('a_name_longer_than_fifteen');
  decide.testRun({ data: packet, repeat: 100 });
  const total = counts.getPerCpu(u32(0))?.reduce((sum, value) => sum + value.readUInt32LE(), 0);
  assert.is(total, 100);

  const mark = object.program('mark');
  const ctx = Buffer.alloc(192); // struct __sk_buff; mark is its third word
  ctx.writeUInt32LE(37, 8);
  const result = mark.testRun({ data: packet, ctx });
  assert.is(result.ctx?.readUInt32LE(8), 42);
  for (const each of [decide, counts, mark, object]) each.close();
});

test('a pinned program is opened again, and stays when it is closed', () => {
  const path = join(bpffs, 'prepend');
  const object = BpfObject.open(sample).load();
  const program = object.program('prepend');
  program.pin(path);
  program.close();
  object.close();
  const again = BpfProgram.openPinned(path);
  assert.is(again.id, program.id);
  assert.is(again.testRun({ data: packet }).retval, XDP_TX);
  again.unpin(path);
  again.close();
  assert.throws(() => BpfProgram.openPinned(path), /ENOENT/);
});

test('use before load, twice loaded and after close are errors; close may be repeated', () => {
  const object = BpfObject.open(sample);
  assert.throws(() => object.map('ring'), /not loaded yet/);
  object.load();
  assert.throws(() => object.load(), /already loaded/);
  const program = object.program('mark');
  object.close();
  object.close();
  program.close();
  program.close();
  for (const use of [() => object.maps, () => object.map('ring'), () => object.load(), () => program.fd]) {
    assert.is(caught(use).code, 'EBADF');
  }
});

test.run();
