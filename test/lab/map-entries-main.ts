/*
 * node dist/test/lab/map-entries-main.js <folder in bpffs>
 * Prints {"<pin>": <number of entries>} of every pinned map that is not an array, found by itself: independent of what
 * the daemon says.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { BpfMap } from '../../addon/lib/index.js';

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
  if (!/array|ringbuf/.test(map.type)) entries[pin] = [...map.keys()].length;
  map.close();
}
console.log(JSON.stringify(entries));
