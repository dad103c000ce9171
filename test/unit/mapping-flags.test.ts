import * as assert from 'uvu/assert';
import { wordsOf } from '../../cli/memory/mapping-flags.js';
import { suite } from '../suite.js';

const test = suite('what flags of mappings mean');

const SMAPS = `00400000-00401000 r--p 00000000 00:00 0
Size:                  4 kB
VmFlags: rd mr 
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
VmFlags: rd wr dc 
`;
const [low, high] = ['400000-401000', '7f0000000000-7f0000001000'];

test('is what smaps says of a mapping that had them before and after', () => {
  const all = [
    { range: low, bits: 0b11n },
    { range: high, bits: 0b111n },
  ];
  assert.equal(
    [...wordsOf(all, SMAPS, all)],
    [
      [0b11n, 'rd mr'],
      [0b111n, 'rd wr dc'],
    ],
  );
});

test('is not learnt from one that changed meanwhile, even for a moment', () => {
  const had = [{ range: high, bits: 0b11n }];
  assert.equal([...wordsOf(had, SMAPS, had)], [], 'a word more than bits');
  assert.equal([...wordsOf([{ range: high, bits: 0b111n }], SMAPS, had)], []);
  assert.equal([...wordsOf([{ range: high, bits: 0b111n }], SMAPS, [])], []);
  assert.equal([...wordsOf([{ range: '1000-2000', bits: 0b1n }], SMAPS, [{ range: '1000-2000', bits: 0b1n }])], []);
});

test.run();
