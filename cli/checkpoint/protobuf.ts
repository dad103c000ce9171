/* What CRIU's images are made of (protobuf.dev/programming-guides/encoding). */

/** Where a field of a message is. */
export interface Field {
  /** Of a number: itself. */
  readonly value: number;
  /** Where it begins after its tag: at its content, or at the length of that. */
  readonly from: number;
  /** Where its content begins and ends; in a message that is cut short, behind the end of that. */
  readonly at: number;
  readonly end: number;
}

/** The fields of a message by their numbers, in their order. */
export function* eachField(image: Buffer, start: number, end: number): Generator<readonly [number, Field]> {
  for (let at = start; at < end; ) {
    const tag = varint(image, at, end);
    const kind = tag.value & 7;
    let field: Field = { value: 0, from: tag.end, at: tag.end, end: tag.end };
    if (kind === 0) field = varint(image, tag.end, end);
    else if (kind === 1) field = { ...field, end: tag.end + 8 };
    else if (kind === 5) field = { ...field, end: tag.end + 4 };
    else if (kind === 2) {
      const length = varint(image, tag.end, end);
      field = { value: 0, from: tag.end, at: length.end, end: length.end + length.value };
    } else return; // groups: nothing of CRIU's
    yield [tag.value >>> 3, field];
    at = field.end;
  }
}

/** The fields of a message; of repeated ones the last. */
export function fieldsOf(image: Buffer, start: number, end: number): Map<number, Field> {
  return new Map(eachField(image, start, end));
}

/** One field of a message, the first of its number; for when there are thousands of messages: nothing is made of the others. */
export function fieldIn(image: Buffer, start: number, end: number, wanted: number): Field | undefined {
  for (let at = start; at < end; ) {
    let [tag, scale, next] = [0, 1, at];
    for (let byte = 0x80; byte >= 0x80 && next < end; scale *= 128) {
      byte = image[next++] ?? 0;
      tag += (byte & 0x7f) * scale;
    }
    if (tag >>> 3 === wanted) return eachField(image, at, end).next().value?.[1];
    const kind = tag & 7;
    if (kind === 0) while ((image[next++] ?? 0) >= 0x80 && next < end);
    else if (kind === 1) next += 8;
    else if (kind === 5) next += 4;
    else if (kind === 2) next = endOf(image, next, end);
    else return undefined;
    at = next;
  }
  return undefined;
}

function endOf(image: Buffer, start: number, end: number): number {
  const length = varint(image, start, end);
  return length.end + length.value;
}

/** The numbers of a repeated field, packed or not. */
export function numbersIn(image: Buffer, message: Pick<Field, 'at' | 'end'>, wanted: number): number[] {
  const numbers: number[] = [];
  for (const [number, { from, at, end, value }] of eachField(image, message.at, message.end)) {
    if (number !== wanted) continue;
    if (from === at) numbers.push(value);
    else
      for (let next = at; next < end && next < message.end; ) {
        const item = varint(image, next, end);
        numbers.push(item.value);
        next = item.end;
      }
  }
  return numbers;
}

/** Exact up to 2^53: more than any number that is looked at here. */
function varint(image: Buffer, start: number, end: number): Field {
  let [value, scale, at] = [0, 1, start];
  for (; at < end; scale *= 128) {
    const byte = image[at++] ?? 0;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) break;
  }
  return { value, from: start, at: start, end: at };
}

/** Of numbers up to 2^53. */
export function encodedVarint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 128)) bytes.push((value % 128) | 0x80);
  return Buffer.from([...bytes, value]);
}
