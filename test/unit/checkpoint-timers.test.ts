import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { keepTimers, relativeFlags } from '../../cli/checkpoint/timers.js';

const MAGIC = Buffer.from('1943565418313056', 'hex');
const CLOCK = { real: 0, monotonic: 1, boot: 7 };

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}

function message(fields: readonly (readonly [number, number | Buffer])[]): Buffer {
  return Buffer.concat(
    fields.map(([number, content]) =>
      typeof content === 'number'
        ? Buffer.from([...varint(number << 3), ...varint(content)])
        : Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(content.length)]), content]),
    ),
  );
}

function entry(content: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(content.length);
  return Buffer.concat([length, content]);
}

/** An entry of files.img for a timerfd, as CRIU 4.2 writes it. */
function timer(clock: number, flags: number): Buffer {
  const fown = message([[1, 0]]);
  const fields = [
    [1, 300],
    [2, 2],
    [3, fown],
    [4, clock],
    [5, 0],
    [6, flags],
    [7, 300],
    [8, 999_999_999],
  ] as const;
  return entry(
    message([
      [1, 17],
      [2, 300],
      [12, message(fields)],
    ]),
  );
}

/** An eventfd: other fields that happen to have the same numbers. */
const other = entry(
  message([
    [1, 6],
    [2, 301],
    [
      8,
      message([
        [4, CLOCK.monotonic],
        [6, 1],
      ]),
    ],
  ]),
);

const test = suite('timers in images');

test('those set to a moment since boot become relative, in place; all others stay as they are', () => {
  const given = [
    timer(CLOCK.monotonic, 1),
    other,
    timer(CLOCK.real, 1),
    timer(CLOCK.monotonic, 0),
    timer(CLOCK.boot, 3),
  ];
  const wanted = [
    timer(CLOCK.monotonic, 0),
    other,
    timer(CLOCK.real, 1),
    timer(CLOCK.monotonic, 0),
    timer(CLOCK.boot, 2),
  ];
  const folder = mkdtempSync(join(tmpdir(), 'timers-'));
  try {
    writeFileSync(join(folder, 'files.img'), Buffer.concat([MAGIC, ...given]));
    keepTimers(folder);
    assert.equal(readFileSync(join(folder, 'files.img')), Buffer.concat([MAGIC, ...wanted]));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('an image that is cut short, or none, is left to CRIU', () => {
  const image = Buffer.concat([MAGIC, timer(CLOCK.monotonic, 1)]);
  for (let length = 0; length < image.length; length++) {
    for (const { at } of relativeFlags(image.subarray(0, length))) assert.ok(at < length);
  }
  keepTimers('/nowhere');
});

test.run();
