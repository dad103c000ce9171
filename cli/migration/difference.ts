import { PAGE_BYTES } from '../checkpoint/private-memory.js';

/** A stretch of a dump's pages: the same as a stretch of what was sent ahead, or new. */
export type Stretch =
  | { readonly kind: 'same'; readonly offset: number; readonly bytes: number }
  | { readonly kind: 'new'; readonly content: Buffer };

/** Every so many bytes one word of a page goes into its key; the first and the last do. */
const PROBE_BYTES = 132;

/** What was sent ahead, and where its pages are: made before the freeze, so that the comparison in it need not search. */
export class Ahead {
  private readonly places = new Map<number, number>();

  /** @param pages whole pages. */
  constructor(readonly pages: Buffer) {
    for (let offset = pages.length - PAGE_BYTES; offset >= 0; offset -= PAGE_BYTES) {
      this.places.set(keyOf(pages, offset), offset); // of several the first
    }
  }

  /** Where a page is in the copy: where it is expected, else wherever its key says. */
  find(dump: Buffer, at: number, expected: number): number | undefined {
    if (this.pages.length === 0) return undefined; // much memory: a key for each page would take long
    if (this.holds(dump, at, expected)) return expected;
    const place = this.places.get(keyOf(dump, at));
    return place !== undefined && this.holds(dump, at, place) ? place : undefined;
  }

  /** Whether that very page is at that place. */
  holds(dump: Buffer, at: number, offset: number): boolean {
    if (offset + PAGE_BYTES > this.pages.length) return false;
    return dump.compare(this.pages, offset, offset + PAGE_BYTES, at, at + PAGE_BYTES) === 0;
  }
}

function keyOf(pages: Buffer, at: number): number {
  let key = 0;
  for (let probe = 0; probe < PAGE_BYTES; probe += PROBE_BYTES) {
    key = Math.imul(key ^ pages.readInt32LE(at + probe), 0x9e3779b1);
    key ^= key >>> 15;
  }
  return key;
}

/**
 * Compares the pages of a dump, as they come, with a copy that was made before. Pages are compared as a whole, never by a
 * digest: what is called the same is the same. Order and key are only hints where to look.
 * @param dump pieces of any length; a last piece of less than a page counts as new.
 */
export async function* difference(dump: AsyncIterable<Buffer>, ahead: Ahead): AsyncGenerator<Stretch> {
  let rest: Buffer = Buffer.alloc(0);
  let expected = 0;
  for await (const piece of dump) {
    const pages = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    const whole = pages.length - (pages.length % PAGE_BYTES);
    let fresh = 0; // where the new pages begin that were not given yet
    for (let at = 0; at < whole; ) {
      const offset = ahead.find(pages, at, expected);
      if (offset === undefined) {
        expected += PAGE_BYTES;
        at += PAGE_BYTES;
        continue;
      }
      if (fresh < at) yield { kind: 'new', content: pages.subarray(fresh, at) };
      const bytes = sameFrom(pages, at, whole, ahead, offset);
      yield { kind: 'same', offset, bytes };
      expected = offset + bytes;
      at += bytes;
      fresh = at;
    }
    if (fresh < whole) yield { kind: 'new', content: pages.subarray(fresh, whole) };
    rest = pages.subarray(whole);
  }
  if (rest.length > 0) yield { kind: 'new', content: rest };
}

/** How many bytes from there on are the same, in whole pages. */
function sameFrom(pages: Buffer, at: number, end: number, ahead: Ahead, offset: number): number {
  let bytes = PAGE_BYTES;
  while (at + bytes < end && ahead.holds(pages, at + bytes, offset + bytes)) bytes += PAGE_BYTES;
  return bytes;
}
