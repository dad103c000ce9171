/*
 * The memory of a process on the wire, as addon/src/criu-memory.c describes it, which reads it at the destination. The pages
 * themselves are sent by addon/src/line.cc.
 */
export const PAGE_BYTES = 4096;
export const HEADER_BYTES = 24;

/** Part of an address space, page-aligned. User space ends below 2^53. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

const KINDS = {
  area: 1,
  pages: 2,
  zero: 3,
  mapping: 4,
  keep: 5,
  end: 6,
  life: 7,
  dense: 8,
  later: 9,
  done: 11,
} as const;
export type RecordKind = keyof typeof KINDS;

/** Writes a record's head into a buffer. */
export function writeHeader(into: Buffer, at: number, kind: RecordKind, { start, end }: Range): void {
  into.writeUInt32BE(KINDS[kind], at);
  into.writeUInt32BE(0, at + 4);
  into.writeBigUInt64BE(BigInt(start), at + 8);
  into.writeBigUInt64BE(BigInt(end - start), at + 16);
}

/** Records of one kind that have no content, one for each range. */
export function bareRecords(kind: RecordKind, ranges: readonly Range[]): Buffer {
  const bytes = Buffer.alloc(ranges.length * HEADER_BYTES);
  for (const [index, range] of ranges.entries()) writeHeader(bytes, index * HEADER_BYTES, kind, range);
  return bytes;
}

/** A record that has neither content nor place. */
export function signRecord(kind: 'end' | 'life' | 'done'): Buffer {
  return bareRecords(kind, [{ start: 0, end: 0 }]);
}

/** As the addon takes and gives them: start, end, start, end ... */
export function flatten(ranges: readonly Range[]): BigUint64Array {
  return BigUint64Array.from(ranges.flatMap(({ start, end }) => [BigInt(start), BigInt(end)]));
}

export function unflatten(flat: BigUint64Array): Range[] {
  const ranges: Range[] = [];
  for (let at = 0; at + 1 < flat.length; at += 2) {
    ranges.push({ start: Number(flat[at]), end: Number(flat[at + 1]) });
  }
  return ranges;
}

export function bytesOf(ranges: readonly Range[]): number {
  return ranges.reduce((sum, { start, end }) => sum + end - start, 0);
}

/** What is in both; each list ascending and without overlaps. */
export function intersect(a: readonly Range[], b: readonly Range[]): Range[] {
  const both: Range[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const left = a[i] as Range;
    const right = b[j] as Range;
    const start = Math.max(left.start, right.start);
    const end = Math.min(left.end, right.end);
    if (start < end) both.push({ start, end });
    if (left.end < right.end) i++;
    else j++;
  }
  return both;
}

/** What is in the first and not in the second; each list ascending and without overlaps. */
export function subtract(from: readonly Range[], taken: readonly Range[]): Range[] {
  const left: Range[] = [];
  let next = 0;
  for (const { start, end } of from) {
    let at = start;
    while (next < taken.length && (taken[next] as Range).end <= at) next++;
    for (let each = next; each < taken.length && (taken[each] as Range).start < end; each++) {
      const { start: low, end: high } = taken[each] as Range;
      if (at < low) left.push({ start: at, end: low });
      at = Math.max(at, high);
    }
    if (at < end) left.push({ start: at, end });
  }
  return left;
}

/** What is in any of them, ascending and without overlaps. */
export function union(ranges: readonly Range[]): Range[] {
  const whole: Range[] = [];
  for (const range of [...ranges].sort((a, b) => a.start - b.start)) {
    const last = whole.at(-1);
    if (last === undefined || last.end < range.start) whole.push(range);
    else if (last.end < range.end) whole[whole.length - 1] = { start: last.start, end: range.end };
  }
  return whole;
}
