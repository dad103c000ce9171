// SPDX-License-Identifier: Apache-2.0

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import { BpfMap, BpfObject } from '../../addon/lib/index.js';
import { suite } from '../suite.js';
import { compile, u32, u64 } from './fixture.js';
import { bpffs } from './private-namespaces.js';

const test = suite('map');
const library = new URL('../../addon/lib/index.js', import.meta.url).href;
const CPUS = countCpus(readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim());

/** '0-3,8' -> 5 */
function countCpus(list: string): number {
  return list
    .split(',')
    .map((range) => range.split('-').map(Number))
    .reduce((sum, [first = 0, last = first]) => sum + last - first + 1, 0);
}

function hash(type = 'hash', maxEntries = 64): BpfMap {
  return BpfMap.create({ type, name: 'numbers', keySize: 4, valueSize: 8, maxEntries });
}

const numbers = (map: BpfMap): number[] => [...map.keys()].map((key) => key.readUInt32LE()).sort((a, b) => a - b);

for (const type of ['hash', 'lru_hash']) {
  test(`${type}: sets, gets, replaces and deletes`, () => {
    const map = hash(type);
    assert.is(map.get(u32(1)), undefined);
    map.set(u32(1), u64(10));
    assert.equal(map.get(u32(1)), u64(10));
    map.set(u32(1), u64(11));
    assert.equal(map.get(u32(1)), u64(11));
    assert.is(map.delete(u32(1)), true);
    assert.is(map.delete(u32(1)), false);
    assert.is(map.get(u32(1)), undefined);
    map.close();
  });
}

test('an array that can be mapped: what is written there the map has, and the other way round, until it is closed', () => {
  const map = BpfMap.create({
    type: 'array',
    name: 'lines',
    keySize: 4,
    valueSize: 64,
    maxEntries: 100,
    flags: 1 << 10,
  });
  const words = new Uint32Array(map.memory());
  assert.is(words.length, 1600);
  words[16 * 99 + 1] = 7;
  assert.is(map.get(u32(99))?.readUInt32LE(4), 7);
  map.set(u32(98), Buffer.alloc(64, 1));
  assert.is(words[16 * 98], 0x01010101);
  assert.is(map.memory(), words.buffer, 'once');
  map.close();
  assert.is(words.length, 0);
  assert.throws(() => map.memory(), /EBADF/);
});

test('others cannot be mapped', () => {
  const map = BpfMap.create({ type: 'array', name: 'plain', keySize: 4, valueSize: 64, maxEntries: 100 });
  assert.throws(() => map.memory(), /EINVAL/);
  map.close();
});

test('says what the kernel knows of it', () => {
  const map = hash();
  assert.is(map.name, 'numbers');
  assert.is(map.type, 'hash');
  assert.equal([map.keySize, map.valueSize, map.maxEntries], [4, 8, 64]);
  assert.is(map.id > 0, true);
  assert.is(map.info.id, map.id);
  map.close();
});

test("'create' refuses an existing key, 'exist' a missing one, a full map the next one", () => {
  const map = hash('hash', 2);
  map.set(u32(1), u64(1), 'create');
  assert.throws(
    () => map.set(u32(1), u64(2), 'create'),
    (error: NodeJS.ErrnoException) => error.code === 'EEXIST' && error.syscall === 'bpf_map_update_elem',
  );
  assert.throws(() => map.set(u32(2), u64(2), 'exist'), /ENOENT/);
  map.set(u32(2), u64(2));
  assert.throws(() => map.set(u32(3), u64(3)), /E2BIG/);
  assert.equal(map.get(u32(1)), u64(1));
  map.close();
});

test('refuses keys and values of another size, before the kernel would read or write beyond them', () => {
  const map = hash();
  assert.throws(() => map.get(Buffer.alloc(3)), /key of map numbers has 3 bytes, must have 4/);
  assert.throws(() => map.set(u32(1), Buffer.alloc(4)), /value of map numbers has 4 bytes, must have 8/);
  assert.throws(() => map.delete(Buffer.alloc(5)), RangeError);
  assert.throws(() => map.setBatch([[u32(1), Buffer.alloc(7)]]), RangeError);
  assert.throws(() => map.deleteBatch([u32(1), Buffer.alloc(1)]), RangeError);
  assert.throws(() => map.get('text' as unknown as Uint8Array), TypeError);
  map.close();
});

test('a lru_hash forgets what was not used, instead of refusing', () => {
  const map = hash('lru_hash', 128);
  for (let i = 0; i < 10_000; i++) map.set(u32(i), u64(i));
  assert.is(numbers(map).length <= 128, true);
  assert.is(numbers(map).length > 0, true);
  map.close();
});

test('iterates over all entries once, over an empty map not at all', () => {
  const map = hash('hash', 5000);
  assert.equal([...map.entries()], []);
  for (let i = 0; i < 3000; i++) map.set(u32(i), u64(i * 2));
  const seen = new Map([...map.entries()].map(([key, value]) => [key.readUInt32LE(), value.readBigUInt64LE()]));
  assert.is(seen.size, 3000);
  for (const [key, value] of seen) assert.is(value, BigInt(key * 2));
  map.close();
});

for (const type of ['hash', 'lpm_trie']) {
  test(`${type}: iteration sees what stays exactly once, though others are deleted meanwhile`, () => {
    const lpm = type === 'lpm_trie';
    const map = BpfMap.create({ type, keySize: 8, valueSize: 4, maxEntries: 4000, flags: lpm ? 1 : 0 });
    const key = (i: number) => Buffer.concat([u32(32), Buffer.from([10, 0, i >> 8, i & 255])]);
    for (let i = 0; i < 3000; i++) map.set(key(i), u32(i));
    const seen = new Map<number, number>();
    for (const [found] of map.entries()) {
      const number = found.readUInt16BE(6);
      seen.set(number, (seen.get(number) ?? 0) + 1);
      // The key it stands on, its neighbours, and one far away; those divisible by 3 stay.
      for (const other of [number, number + 1, number - 1, 2999 - number]) {
        if (other % 3 !== 0 && other >= 0) map.delete(key(other));
      }
    }
    for (let i = 0; i < 3000; i += 3) assert.is(seen.get(i), 1, `key ${i}`);
    assert.is(Math.max(...seen.values()), 1);
    map.close();
  });
}

test('hash: iteration sees what stays exactly once, though another thread inserts and deletes', async () => {
  const map = BpfMap.create({ type: 'hash', keySize: 8, valueSize: 4, maxEntries: 4000 });
  const key = (i: number) => Buffer.concat([u32(32), Buffer.from([10, 0, i >> 8, i & 255])]);
  for (let i = 0; i < 500; i++) map.set(key(i * 2), u32(i));
  const path = `${bpffs}/busy`;
  map.pin(path);
  const worker = new Worker(
    `import(${JSON.stringify(library)}).then(({ BpfMap }) => {
         const map = BpfMap.openPinned(require('node:worker_threads').workerData);
         require('node:worker_threads').parentPort.postMessage('busy');
         const key = Buffer.from([32, 0, 0, 0, 10, 0, 0, 0]);
         const turn = () => {
           for (const change of [() => map.set(key, Buffer.alloc(4)), () => map.delete(key)]) {
             for (let i = 1; i < 1000; i += 2) {
               key.writeUInt16BE(i, 6);
               change();
             }
           }
           setImmediate(turn);
         };
         turn();
       });`,
    { eval: true, workerData: path },
  );
  await once(worker, 'message');
  try {
    for (let round = 0; round < 100; round++) {
      const even = [...map.keys()].map((found) => found.readUInt16BE(6)).filter((i) => i % 2 === 0);
      assert.is(even.length, 500, `round ${round}`);
      assert.is(new Set(even).size, 500);
      if (round % 10 === 0) await setImmediate();
    }
  } finally {
    await worker.terminate();
    map.unpin(path);
    map.close();
  }
});

test('batches: many entries in, out and deleted, keys that are missing in between', () => {
  const map = hash('hash', 10_000);
  map.setBatch(Array.from({ length: 5000 }, (_, i) => [u32(i), u64(i)] as const));
  assert.is(map.getBatch().length, 5000);
  assert.is(map.deleteBatch([u32(1), u32(9999), u32(2), u32(8888), u32(7777), u32(3)]), 3);
  assert.is(map.get(u32(3)), undefined);
  assert.is(map.getBatch().length, 4997);
  assert.throws(() => map.setBatch([[u32(0), u64(0)]], 'create'), /EEXIST/);
  map.setBatch([]);
  assert.is(map.deleteBatch([]), 0);
  map.clear();
  assert.equal(map.getBatch(), []);
  map.close();
});

test('batches of a type without batch operations go one by one', () => {
  // A device map: index -> interface.
  const map = BpfMap.create({ type: 'devmap', keySize: 4, valueSize: 4, maxEntries: 4 });
  map.setBatch([
    [u32(0), u32(1)],
    [u32(2), u32(1)],
  ]);
  assert.equal(map.getBatch(), [
    [u32(0), u32(1)],
    [u32(2), u32(1)],
  ]);
  assert.is(map.deleteBatch([u32(0), u32(1)]) >= 1, true);
  assert.is(map.get(u32(0)), undefined);
  map.close();
});

test('an array has every entry from the start; clear makes them zero', () => {
  const map = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 3 });
  map.set(u32(1), u64(5));
  assert.equal(
    map.getBatch().map(([, value]) => value.readBigUInt64LE()),
    [0n, 5n, 0n],
  );
  assert.is(map.get(u32(3)), undefined);
  assert.throws(() => map.set(u32(3), u64(1)), /E2BIG/);
  map.clear();
  assert.equal(map.get(u32(1)), u64(0));
  map.close();
});

for (const type of ['percpu_array', 'percpu_hash', 'lru_percpu_hash']) {
  // 3 and 12 bytes are not multiples of 8: the kernel's stride is.
  for (const valueSize of [3, 8, 12]) {
    test(`${type} of ${valueSize} bytes: one value for every possible CPU`, () => {
      const map = BpfMap.create({ type, keySize: 4, valueSize, maxEntries: 16 });
      const values = Array.from({ length: CPUS }, (_, cpu) => Buffer.alloc(valueSize, cpu + 1));
      map.setPerCpu(u32(1), values);
      assert.equal(map.getPerCpu(u32(1)), values);
      const entry = [...map.entriesPerCpu()].find(([key]) => key.equals(u32(1)));
      assert.equal(entry?.[1], values);
      assert.throws(() => map.get(u32(1)), /per CPU/);
      assert.throws(() => map.setPerCpu(u32(1), [...values, Buffer.alloc(valueSize)]), RangeError);
      assert.throws(
        () =>
          map.setPerCpu(
            u32(1),
            values.map(() => Buffer.alloc(valueSize + 1)),
          ),
        RangeError,
      );
      map.clear();
      const cleared = map.getPerCpu(u32(1));
      assert.equal(cleared, type === 'percpu_array' ? values.map(() => Buffer.alloc(valueSize)) : undefined);
      map.close();
    });
  }
}

test('a plain map has no per-CPU values', () => {
  const map = hash();
  assert.throws(() => map.getPerCpu(u32(1)), /not per CPU/);
  assert.throws(() => map.setPerCpu(u32(1), []), /not per CPU/);
  map.close();
});

test('a pin keeps the map when it is closed, and opens it again', () => {
  const map = hash();
  const path = `${bpffs}/numbers`;
  map.set(u32(1), u64(1));
  map.pin(path);
  assert.throws(() => map.pin(path), /EEXIST/);
  map.close();
  const again = BpfMap.openPinned(path);
  assert.is(again.id, map.id);
  assert.equal(again.get(u32(1)), u64(1));
  again.unpin(path);
  again.close();
  assert.throws(
    () => BpfMap.openPinned(path),
    (error: NodeJS.ErrnoException) => {
      return error.code === 'ENOENT' && error.errno === -2 && error.message.includes(path);
    },
  );
});

test('openPinned refuses what is no map', () => {
  const object = BpfObject.open(compile('sample')).load();
  const path = `${bpffs}/program`;
  const program = object.program('decide');
  program.pin(path);
  assert.throws(() => BpfMap.openPinned(path), /EINVAL.*is anon_inode:bpf-prog, not bpf-map/);
  program.unpin(path);
  object.close();
});

test('a closed map throws EBADF, and may be closed again', () => {
  const map = hash();
  map.close();
  map.close();
  for (const use of [() => map.get(u32(1)), () => map.set(u32(1), u64(1)), () => [...map.keys()], () => map.fd]) {
    assert.throws(use, (error: NodeJS.ErrnoException) => error.code === 'EBADF');
  }
});

test('an unknown type and an impossible map are errors with their reason', () => {
  assert.throws(() => BpfMap.create({ type: 'hush', maxEntries: 1 }), /EINVAL.*no map type 'hush'/);
  assert.throws(() => BpfMap.create({ type: 'hash', maxEntries: 1 }), /EINVAL/);
});

test.run();
