// SPDX-License-Identifier: Apache-2.0

import * as assert from 'uvu/assert';
import { BpfMap, BpfObject, CHANGE_ROW, runBatch } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, u32 } from './fixture.js';
import './private-namespaces.js';

const BPF_F_MMAPABLE = 1 << 10;
const XDP_PASS = 2;
const XDP_TX = 3;
const test = suite('batch');
const sample = compile('sample');

test('every packet runs once, in order; what comes out lies one behind the other', () => {
  const object = BpfObject.open(sample).load();
  const prepend = object.program('prepend');
  const packets = [60, 14, 333].map((length, index) => Buffer.alloc(length, index + 1));
  const outputs = Buffer.alloc(4096);
  const result = runBatch(prepend, {
    packets: Buffer.concat(packets),
    lengths: Uint32Array.from(packets, (packet) => packet.length),
    outputs,
  });
  assert.is(result.count, 3);
  assert.equal([...result.verdicts], [XDP_TX, XDP_TX, XDP_TX]);
  assert.equal([...result.sizes], [64, 18, 337]);
  const expected = Buffer.concat(packets.flatMap((packet) => [Buffer.alloc(4, 0xaa), packet]));
  assert.equal(outputs.subarray(0, expected.length), expected);
  for (const each of [prepend, object]) each.close();
});

test('a packet that the kernel does not take is an errno among the verdicts, and the next one runs', () => {
  const object = BpfObject.open(sample).load();
  const decide = object.program('decide');
  const { count, verdicts, sizes } = runBatch(decide, {
    packets: Buffer.alloc(100),
    lengths: Uint32Array.of(3, 60),
    outputs: Buffer.alloc(4096),
  });
  assert.is(count, 2);
  assert.equal([...verdicts], [-22, XDP_PASS]);
  assert.equal([...sizes], [0, 60]);
  for (const each of [decide, object]) each.close();
});

test('stops before a packet whose output might not fit', () => {
  const object = BpfObject.open(sample).load();
  const decide = object.program('decide');
  const batch = { packets: Buffer.alloc(180), lengths: Uint32Array.of(60, 60, 60) };
  assert.is(runBatch(decide, { ...batch, outputs: Buffer.alloc(60 + 60 + 256) }).count, 2);
  assert.is(runBatch(decide, { ...batch, outputs: Buffer.alloc(0) }).count, 0);
  for (const each of [decide, object]) each.close();
});

test('without room for outputs nothing is copied back; verdicts, sizes and durations are told all the same', () => {
  const object = BpfObject.open(sample).load();
  const prepend = object.program('prepend');
  const lengths = new Uint32Array(100).fill(60);
  const result = runBatch(prepend, { packets: Buffer.alloc(6000), lengths });
  assert.is(result.count, 100);
  assert.equal(new Set(result.verdicts), new Set([XDP_TX]));
  assert.equal(new Set(result.sizes), new Set([64]));
  assert.is(
    result.durationsNs.some((ns) => ns > 0),
    true,
  );
  for (const each of [prepend, object]) each.close();
});

test('contexts go in and come out', () => {
  const object = BpfObject.open(sample).load();
  const mark = object.program('mark');
  const contexts = Buffer.alloc(2 * 192);
  contexts.writeUInt32LE(10, 8);
  contexts.writeUInt32LE(20, 192 + 8);
  const contextsOut = Buffer.alloc(contexts.length);
  const batch = { packets: Buffer.alloc(120), lengths: Uint32Array.of(60, 60), outputs: Buffer.alloc(4096) };
  runBatch(mark, { ...batch, contexts, contextsOut });
  assert.equal([contextsOut.readUInt32LE(8), contextsOut.readUInt32LE(192 + 8)], [15, 25]);
  for (const each of [mark, object]) each.close();
});

test("a map of one's own can take the place of the object's, and be watched", () => {
  const counts = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 4, flags: BPF_F_MMAPABLE });
  const object = BpfObject.open(sample, { maps: { a_name_longer_than_fifteen: counts } }).load();
  const [decide, prepend] = [object.program('decide'), object.program('prepend')];
  const batch = { packets: Buffer.alloc(120), lengths: Uint32Array.of(60, 60), outputs: Buffer.alloc(4096) };
  const [changes] = runBatch(decide, { ...batch, watch: [counts] }).changes;
  assert.equal([...(changes ?? [])].slice(0, 3), [1, 0, 1], 'one word changed: the first, by one');
  assert.equal([...(changes ?? [])].slice(CHANGE_ROW, CHANGE_ROW + 3), [1, 0, 1]);
  assert.is(counts.get(u32(0))?.readUInt32LE(), 2);
  const [none] = runBatch(prepend, { ...batch, watch: [counts] }).changes;
  assert.is(
    none?.every((word) => word === 0),
    true,
  );
  for (const each of [decide, prepend, object, counts]) each.close();
});

test('wrong sizes are errors', () => {
  const object = BpfObject.open(sample).load();
  const decide = object.program('decide');
  const outputs = Buffer.alloc(4096);
  const batch = { packets: Buffer.alloc(60), lengths: Uint32Array.of(60), outputs };
  assert.throws(() => runBatch(decide, { ...batch, lengths: Uint32Array.of(61) }), RangeError);
  assert.throws(
    () =>
      runBatch(decide, {
        ...batch,
        packets: Buffer.alloc(120),
        lengths: Uint32Array.of(60, 60),
        contexts: outputs.subarray(0, 5),
      }),
    RangeError,
  );
  assert.throws(() => runBatch(decide, { ...batch, contextsOut: Buffer.alloc(4) }), RangeError);
  const map = object.map('constants');
  assert.throws(() => runBatch(decide, { ...batch, watch: [map] }), /mmap/);
  for (const each of [decide, object, map]) each.close();
});

test.run();
