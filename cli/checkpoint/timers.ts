import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodedVarint, type Field, fieldsOf } from './protobuf.js';

const IMAGE = 'files.img';
/** Two magic numbers before the entries (criu/include/magic.h). */
const MAGIC_BYTES = 8;
const TFD_TIMER_ABSTIME = 1;
/** CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM: what a time namespace carries on. */
const SINCE_BOOT = new Set([1, 7, 9]);

/** CRIU's images/fdinfo.proto and images/timerfd.proto. */
const FILE_TIMERFD = 12;
const TIMER = { clock: 4, ticks: 5, flags: 6, seconds: 7, nanoseconds: 8, everySeconds: 9, everyNanoseconds: 10 };

/**
 * Mends what CRIU (4.2, timerfd_arm) would make of timerfds, before it reads their image; see {@link keptTimers}.
 * @param folder of images that have arrived
 */
export function keepTimers(folder: string): void {
  const path = join(folder, IMAGE);
  if (!existsSync(path)) return;
  const image = readFileSync(path);
  const kept = keptTimers(image);
  if (kept !== image) writeFileSync(path, kept);
}

/**
 * An image of files whose timerfds CRIU sets as they were; the same one when there is nothing to change.
 * - Set to a moment on a clock since boot: CRIU saves how long they still have, but adds only whole seconds of the clock to that
 *   when it sets them again. They would end up to a second early. A relative one it sets exactly, and nobody can tell the
 *   two apart once they are set.
 * - At their end, or never set: nothing is left of them, to which CRIU adds the clock all the same if they were set to a moment.
 *   They would end once more. A relative nothing is not set.
 * - Periodic, with ticks that were not read: the kernel sets such a timer again only when it is read, so CRIU finds nothing left, and
 *   would not set it. It gets a whole period: a reader that is awake was about to read when it was stopped. The ticks are kept.
 */
export function keptTimers(image: Buffer): Buffer {
  const parts: Buffer[] = [];
  let copied = 0;
  for (let at = MAGIC_BYTES; at + 4 <= image.length; ) {
    const end = at + 4 + image.readUInt32LE(at); // its length, then protobuf
    if (end > image.length) break;
    const timer = fieldsOf(image, at + 4, end).get(FILE_TIMERFD);
    const kept = timer === undefined || timer.end > end ? undefined : keptTimer(image, timer);
    if (timer !== undefined && kept !== undefined) {
      const size = encodedVarint(kept.length);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(timer.from - at - 4 + size.length + kept.length + end - timer.end);
      parts.push(image.subarray(copied, at), length, image.subarray(at + 4, timer.from), size, kept);
      copied = timer.end;
    }
    at = end;
  }
  return parts.length === 0 ? image : Buffer.concat([...parts, image.subarray(copied)]);
}

/** A timer's message as it must be; undefined when it is. */
function keptTimer(image: Buffer, timer: Field): Buffer | undefined {
  const fields = fieldsOf(image, timer.at, timer.end);
  const numberIn = (field: number) => fields.get(field)?.value ?? 0;
  const sinceBoot = SINCE_BOOT.has(numberIn(TIMER.clock));
  const absolute = (numberIn(TIMER.flags) & TFD_TIMER_ABSTIME) !== 0;
  const ended = numberIn(TIMER.seconds) === 0 && numberIn(TIMER.nanoseconds) === 0;
  const periodic = numberIn(TIMER.everySeconds) > 0 || numberIn(TIMER.everyNanoseconds) > 0;
  const unread = ended && periodic && numberIn(TIMER.ticks) > 0;
  if (unread && absolute && !sinceBoot) return undefined; // what CRIU adds sets it again, at a whole second of the day
  const changes: [field: number, content: Buffer][] = [];
  if (absolute && (sinceBoot || ended)) {
    changes.push([TIMER.flags, encodedVarint(numberIn(TIMER.flags) & ~TFD_TIMER_ABSTIME)]);
  }
  if (unread) {
    changes.push([TIMER.seconds, encodedVarint(numberIn(TIMER.everySeconds))]);
    changes.push([TIMER.nanoseconds, encodedVarint(numberIn(TIMER.everyNanoseconds))]);
  }
  return changes.length === 0 ? undefined : replaced(image, timer, fields, new Map(changes));
}

function replaced(
  image: Buffer,
  message: Field,
  fields: ReadonlyMap<number, Field>,
  changes: ReadonlyMap<number, Buffer>,
): Buffer {
  const parts: Buffer[] = [];
  let copied = message.at;
  for (const [number, { at, end }] of fields) {
    const content = changes.get(number);
    if (content === undefined) continue;
    parts.push(image.subarray(copied, at), content);
    copied = end;
  }
  return Buffer.concat([...parts, image.subarray(copied, message.end)]);
}
