/*
 * node dist/test/lab/map-entries-main.js <folder in bpffs>
 * Prints {"<pin>": <number of entries>} of every pinned map that is not an array, found by itself: independent of what
 * the daemon says. Of `port_blocks` it is the blocks of 64 ports, which each address has for itself: a node whose link was cut
 * has one address less, of IPv6.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { BpfMap } from '../../addon/lib/index.js';

const BLOCKS = 'maps/port_blocks';

const folder = process.argv[2] ?? '';
const entries: Record<string, number> = {};
const pins = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((pin) =>
  statSync(join(folder, pin)).isFile(),
);
for (const pin of pins.sort()) {
  let map: BpfMap;
  try {
    map = BpfMap.openPinned(join(folder, pin));
  } catch {
    continue; // a program or a link
  }
  if (!/array|ringbuf/.test(map.type)) {
    const keys = [...map.keys()];
    entries[pin] = pin === BLOCKS ? new Set(keys.map(indexOf)).size : keys.length;
  }
  map.close();
}

/** The last field of a `struct block_key`. */
function indexOf(key: Buffer): number {
  return key.readUInt32LE(key.length - 4);
}

console.log(JSON.stringify(entries));
