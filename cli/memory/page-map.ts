/*
 * CRIU's page maps (images/pagemap.proto of CRIU): a common and an own magic, then messages, each after its length (u32, little
 * endian): a head that names the file of the pages, then one entry per run of pages.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BugError } from '../errors.js';
import { PAGE_BYTES, type Range } from './records.js';

const PAGE_MAP = /^pagemap-[0-9]+\.img$/;
const MAGIC_BYTES = 8;
const LENGTH_BYTES = 4;
/** Where the entries of a parent's page map say that the pages are; CRIU's side answers for it. */
const PARENT = 'parent';
const PARENT_PAGES = 'pages-1.img';
/** Flags of an entry: the page is in the parent's images; in these. */
const IN_PARENT = 1;
const PRESENT = 4;

interface Entry {
  readonly start: number;
  readonly pages: number;
  readonly flags: number;
  readonly raw: Buffer;
}

/** The page map of a tree of one process; undefined when there is another number of them. */
export function onlyPageMap(folder: string): string | undefined {
  const names = readdirSync(folder).filter((name) => PAGE_MAP.test(name));
  return names.length === 1 ? names[0] : undefined;
}

/**
 * Says in a dump's page map that the first page of each mapping is to be had from the parent's images. That is where CRIU's side
 * puts the whole mapping.
 * @throws {BugError} when CRIU has dumped pages of them.
 */
export function pointToParent(folder: string, mappings: readonly Range[]): void {
  if (mappings.length === 0) return;
  const name = onlyPageMap(folder);
  if (name === undefined) throw new BugError('there is not one page map');
  const path = join(folder, name);
  const { head, entries } = parse(readFileSync(path));
  for (const { start, pages } of entries) {
    const end = start + pages * PAGE_BYTES;
    const mapping = mappings.find((each) => each.start < end && start < each.end);
    if (mapping !== undefined)
      throw new BugError(`CRIU has dumped pages at 0x${start.toString(16)} that are not its own`);
  }
  const all = [...entries, ...mappings.map(({ start }) => entryOf(start, IN_PARENT))];
  all.sort((a, b) => a.start - b.start);
  writeFileSync(path, Buffer.concat([head, ...all.map(({ raw }) => raw)]));
}

/** Makes the parent's images that a page map names, if it does. @returns whether it does */
export function makeParent(folder: string): boolean {
  const name = onlyPageMap(folder);
  if (name === undefined) return false;
  const { head, entries } = parse(readFileSync(join(folder, name)));
  const there = entries.filter(({ flags }) => (flags & IN_PARENT) !== 0);
  if (there.length === 0) return false;
  const parent = join(folder, PARENT);
  mkdirSync(parent, { mode: 0o700 });
  const images = [head.subarray(0, MAGIC_BYTES), message(Buffer.from([0x08, 0x01]))]; // pages_id = 1
  images.push(...there.map(({ start }) => entryOf(start, PRESENT).raw));
  writeFileSync(join(parent, name), Buffer.concat(images), { mode: 0o600 });
  writeFileSync(join(parent, PARENT_PAGES), '', { mode: 0o600 });
  return true;
}

function parse(image: Buffer): { readonly head: Buffer; readonly entries: Entry[] } {
  const entries: Entry[] = [];
  let first = 0;
  for (let at = MAGIC_BYTES; at + LENGTH_BYTES <= image.length; ) {
    const end = at + LENGTH_BYTES + image.readUInt32LE(at);
    if (end > image.length) throw new BugError('a page map ends early');
    if (first === 0) first = end;
    else entries.push(parseEntry(image.subarray(at, end)));
    at = end;
  }
  return { head: image.subarray(0, first), entries };
}

/** Fields: 1 address, 2 pages (older), 3 in the parent (older), 4 flags, 5 pages; all are varints. */
function parseEntry(raw: Buffer): Entry {
  const fields = [0, 0, 0, 0, 0, 0];
  for (let at = LENGTH_BYTES; at < raw.length; ) {
    const key = raw[at++] ?? 0;
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = raw[at++] ?? 0;
      value += (byte & 0x7f) * scale;
      if ((byte & 0x80) === 0) break;
    }
    if ((key & 7) !== 0 || key >> 3 > 5) throw new BugError('a page map has a field that is not known');
    fields[key >> 3] = value;
  }
  const [, start = 0, fewer = 0, inParent = 0, flags = 0, pages = 0] = fields;
  return { start, pages: pages === 0 ? fewer : pages, flags: flags | (inParent === 0 ? 0 : IN_PARENT), raw };
}

function entryOf(start: number, flags: number): Entry {
  const body = Buffer.from([0x08, ...varint(start), 0x10, 1, 0x20, flags, 0x28, 1]);
  return { start, pages: 1, flags, raw: message(body) };
}

function message(body: Buffer): Buffer {
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32LE(body.length);
  return Buffer.concat([length, body]);
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  bytes.push(rest);
  return bytes;
}
