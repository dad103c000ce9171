import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { encodeRequest, ProtocolFault, type Reply, ReplyParser } from '../../cli/demo/resp.js';
import { suite } from '../suite.js';

const test = suite('demo: Redis replies');

const written = (reply: Reply): string => {
  if (reply.kind === 'integer') return `:${reply.value}\r\n`;
  return `${reply.kind === 'status' ? '+' : '-'}${reply.text}\r\n`;
};

function parseIn(pieces: readonly Buffer[]): Reply[] {
  const parser = new ReplyParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

const MIXED: readonly Reply[] = [
  { kind: 'integer', value: 1 },
  { kind: 'status', text: 'OK' },
  { kind: 'error', text: 'LOADING Redis is loading the dataset in memory' },
  { kind: 'integer', value: -42 },
  { kind: 'integer', value: Number.MAX_SAFE_INTEGER },
];

test('replies are the same wherever the stream is split in two', () => {
  const bytes = Buffer.from(MIXED.map(written).join(''));
  for (let split = 0; split <= bytes.length; split++) {
    assert.equal(parseIn([bytes.subarray(0, split), bytes.subarray(split)]), MIXED, `split at ${split}`);
  }
});

test('replies are the same when every byte comes alone', () => {
  const bytes = Buffer.from(MIXED.map(written).join(''));
  assert.equal(parseIn([...bytes].map((byte) => Buffer.of(byte))), MIXED);
});

test('any replies, cut anywhere, come out as they went in', () => {
  const line = fc.string({ maxLength: 30 }).map((text) => text.replaceAll(/[^ -~]/g, '.'));
  const reply: fc.Arbitrary<Reply> = fc.oneof(
    fc.maxSafeInteger().map((value) => ({ kind: 'integer' as const, value: value + 0 })),
    line.map((text) => ({ kind: 'status' as const, text })),
    line.map((text) => ({ kind: 'error' as const, text })),
  );
  fc.assert(
    fc.property(fc.array(reply), fc.array(fc.nat(400)), (replies, cuts) => {
      const bytes = Buffer.from(replies.map(written).join(''));
      const places = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length];
      const pieces = places.slice(1).map((place, index) => bytes.subarray(places[index], place));
      assert.equal(parseIn(pieces), replies);
    }),
  );
});

test('a chunk may be overwritten after it was taken', () => {
  const parser = new ReplyParser();
  const chunk = Buffer.from(':12');
  assert.equal(parser.push(chunk), []);
  chunk.fill('x');
  assert.equal(parser.push(Buffer.from('3\r\n')), [{ kind: 'integer', value: 123 }]);
});

test('bytes that no Redis sends are refused', () => {
  for (const bytes of [
    '?1\r\n',
    ':1\n',
    '\n',
    ':1x\r\n',
    ':\r\n',
    ': 1\r\n',
    ':1e3\r\n',
    ':99999999999999999999\r\n',
  ]) {
    assert.throws(
      () => new ReplyParser().push(Buffer.from(bytes)),
      (error: unknown) => error instanceof ProtocolFault,
      bytes,
    );
  }
  assert.throws(() => new ReplyParser().push(Buffer.alloc(70_000, 'x')), /longer/);
});

test('a request counts bytes, not characters', () => {
  assert.is(encodeRequest('INCR', 'zähler').toString(), '*2\r\n$4\r\nINCR\r\n$7\r\nzähler\r\n');
});

test.run();
