import { closeSync, existsSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const IMAGE = 'files.img';
/** Two magic numbers before the entries (criu/include/magic.h). */
const MAGIC_BYTES = 8;
const TFD_TIMER_ABSTIME = 1;
/** CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM: what a time namespace carries on. */
const SINCE_BOOT = new Set([1, 7, 9]);

/** CRIU's images/fdinfo.proto and images/timerfd.proto. */
const FILE_TIMERFD = 12;
const TIMER_CLOCK = 4;
const TIMER_FLAGS = 6;

/**
 * Makes timerfds relative that were set to a moment on a clock since boot. CRIU saves how long they still have, but adds only whole
 * seconds of the clock to that when it sets them again (4.2, timerfd_arm): they would end up to a second early. A relative one
 * it sets exactly, and nobody can tell the two apart once they are set.
 * @param folder of images that have arrived
 */
export function keepTimers(folder: string): void {
  const path = join(folder, IMAGE);
  if (!existsSync(path)) return;
  const file = openSync(path, 'r+');
  try {
    const image = Buffer.alloc(fstatSync(file).size);
    readSync(file, image, 0, image.length, 0);
    for (const { at, value } of relativeFlags(image)) writeSync(file, Buffer.of(value), 0, 1, at);
  } finally {
    closeSync(file);
  }
}

/** The bytes of an image of files that must change, for {@link keepTimers}. Entries: their length in 4 bytes, then protobuf. */
export function relativeFlags(image: Buffer): { at: number; value: number }[] {
  const changes: { at: number; value: number }[] = [];
  for (let at = MAGIC_BYTES; at + 4 <= image.length; ) {
    const end = Math.min(at + 4 + image.readUInt32LE(at), image.length);
    const timer = fieldsOf(image, at + 4, end).get(FILE_TIMERFD);
    if (timer !== undefined) {
      const fields = fieldsOf(image, timer.at, timer.end);
      const clock = fields.get(TIMER_CLOCK)?.value ?? 0;
      const flags = fields.get(TIMER_FLAGS);
      if (flags !== undefined && SINCE_BOOT.has(clock) && (flags.value & TFD_TIMER_ABSTIME) !== 0) {
        changes.push({ at: flags.at, value: (image[flags.at] ?? 0) & ~TFD_TIMER_ABSTIME }); // a varint's lowest bits come first
      }
    }
    at = end;
  }
  return changes;
}

interface Field {
  /** Of a number: itself. */
  readonly value: number;
  /** Where its content begins and ends. */
  readonly at: number;
  readonly end: number;
}

/** The fields of a protobuf message (protobuf.dev/programming-guides/encoding); of repeated ones the last. */
function fieldsOf(image: Buffer, start: number, end: number): Map<number, Field> {
  const fields = new Map<number, Field>();
  for (let at = start; at < end; ) {
    const tag = varint(image, at, end);
    const kind = tag.value & 7;
    let field: Field = { value: 0, at: tag.end, end: tag.end };
    if (kind === 0) field = varint(image, tag.end, end);
    else if (kind === 1) field = { ...field, end: tag.end + 8 };
    else if (kind === 5) field = { ...field, end: tag.end + 4 };
    else if (kind === 2) {
      const length = varint(image, tag.end, end);
      field = { value: 0, at: length.end, end: length.end + length.value };
    } else return fields; // groups: nothing of CRIU's
    fields.set(tag.value >>> 3, field);
    at = field.end;
  }
  return fields;
}

/** Exact up to 2^53: more than any number that is looked at here. */
function varint(image: Buffer, start: number, end: number): Field {
  let [value, scale, at] = [0, 1, start];
  for (; at < end; scale *= 128) {
    const byte = image[at++] ?? 0;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) break;
  }
  return { value, at: start, end: at };
}
