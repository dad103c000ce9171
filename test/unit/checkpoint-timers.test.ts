import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { keepTimers, keptTimers } from '../../cli/checkpoint/timers.js';
import { suite } from '../suite.js';

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

interface Timer {
  readonly clock: number;
  readonly flags: number;
  readonly ticks?: number;
  /** What is left of it, and its period: seconds and nanoseconds. */
  readonly left?: readonly [number, number];
  readonly every?: readonly [number, number];
}

/** An entry of files.img for a timerfd, as CRIU 4.2 writes it. */
function timer({ clock, flags, ticks = 0, left = [300, 999_999_999], every = [0, 0] }: Timer): Buffer {
  const fown = message([[1, 0]]);
  const fields = [
    [1, 300],
    [2, 2],
    [3, fown],
    [4, clock],
    [5, ticks],
    [6, flags],
    [7, left[0]],
    [8, left[1]],
    [9, every[0]],
    [10, every[1]],
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

/** Holds an image of these entries to what becomes of it. */
function becomes(given: readonly Buffer[], wanted: readonly Buffer[]): void {
  const kept = keptTimers(Buffer.concat([MAGIC, ...given]));
  assert.equal(kept, Buffer.concat([MAGIC, ...wanted]));
  assert.is(keptTimers(kept), kept, 'nothing is left to change');
}

test('those set to a moment since boot become relative; all others stay as they are', () => {
  const given = [
    timer({ clock: CLOCK.monotonic, flags: 1 }),
    other,
    timer({ clock: CLOCK.real, flags: 1 }),
    timer({ clock: CLOCK.monotonic, flags: 0 }),
    timer({ clock: CLOCK.boot, flags: 3 }),
  ];
  const wanted = [
    timer({ clock: CLOCK.monotonic, flags: 0 }),
    other,
    timer({ clock: CLOCK.real, flags: 1 }),
    timer({ clock: CLOCK.monotonic, flags: 0 }),
    timer({ clock: CLOCK.boot, flags: 2 }),
  ];
  becomes(given, wanted);
  const folder = mkdtempSync(join(tmpdir(), 'timers-'));
  try {
    writeFileSync(join(folder, 'files.img'), Buffer.concat([MAGIC, ...given]));
    keepTimers(folder);
    assert.equal(readFileSync(join(folder, 'files.img')), Buffer.concat([MAGIC, ...wanted]));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('periodic ones with unread ticks get a whole period, and keep the ticks: their entries grow', () => {
  const unread = { flags: 0, ticks: 300, left: [0, 0], every: [86_400, 100_000_000] } as const;
  becomes(
    [
      other,
      timer({ ...unread, clock: CLOCK.monotonic }),
      timer({ ...unread, clock: CLOCK.boot, flags: 1 }),
      timer({ ...unread, clock: CLOCK.real }),
      other,
    ],
    [
      other,
      timer({ ...unread, clock: CLOCK.monotonic, left: unread.every }),
      timer({ ...unread, clock: CLOCK.boot, left: unread.every }),
      timer({ ...unread, clock: CLOCK.real, left: unread.every }),
      other,
    ],
  );
  const again = timer({ ...unread, clock: CLOCK.real, flags: 1 }); // CRIU sets it by itself
  const stopped = timer({ ...unread, clock: CLOCK.monotonic, ticks: 0 });
  const once = timer({ ...unread, clock: CLOCK.monotonic, every: [0, 0] });
  becomes([again, stopped, once], [again, stopped, once]);
});

test('those that have come to a moment of the day are not set again', () => {
  const done = { clock: CLOCK.real, flags: 1, left: [0, 0] } as const;
  becomes(
    [timer(done), timer({ ...done, ticks: 1 }), timer({ ...done, flags: 3, every: [1, 0] })],
    [timer({ ...done, flags: 0 }), timer({ ...done, ticks: 1, flags: 0 }), timer({ ...done, flags: 2, every: [1, 0] })],
  );
});

test('an image that is cut short, or none, is left to CRIU', () => {
  const image = Buffer.concat([MAGIC, timer({ clock: CLOCK.monotonic, flags: 1 })]);
  for (let length = 0; length < image.length; length++) {
    const short = image.subarray(0, length);
    assert.is(keptTimers(short), short);
  }
  keepTimers('/nowhere');
});

test.run();
