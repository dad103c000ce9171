import * as assert from 'uvu/assert';
import { addRange, formatRanges, parseRanges, removeRange } from '../../cli/system/reserved-ports.js';
import { suite } from '../suite.js';

const test = suite('the list of reserved ports');
const block = { first: 65_280, last: 65_535 };
const added = (text: string): string => formatRanges(addRange(parseRanges(text), block));
const removed = (text: string): string => formatRanges(removeRange(parseRanges(text), block));

test('is read and written as the kernel does', () => {
  assert.is(formatRanges(parseRanges('8080,9148-9150\n')), '8080,9148-9150');
  assert.equal(parseRanges('\n'), []);
  assert.is(formatRanges([]), '');
});

test('takes a block beside what is there, in order', () => {
  assert.is(added(''), '65280-65535');
  assert.is(added('8080'), '8080,65280-65535');
  assert.is(added('8080,65024-65279'), '8080,65024-65535');
  assert.is(added('65300-65310'), '65280-65535');
});

test('gives it back and nothing else', () => {
  assert.is(removed('65280-65535'), '');
  assert.is(removed('8080,65024-65535'), '8080,65024-65279');
  assert.is(removed('8080,9000-9010'), '8080,9000-9010');
  assert.is(removed('65000-65300'), '65000-65279');
  for (const text of ['', '8080', '1-5,9', '65024-65279']) assert.is(removed(added(text)), text);
});

test.run();
