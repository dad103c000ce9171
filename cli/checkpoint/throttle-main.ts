/*
 * node throttle-main.js <cgroup>
 * Lets the tasks of a cgroup run for so many percent of each turn, as lines on its input say, and stops them for the rest. When its
 * input ends, because whoever started it has ended, they run.
 */
import { openSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** Short beside any freeze, and long beside the milliseconds by which a busy machine is late. */
const TURN_MS = 50;

const freezer = openSync(join(process.argv[2] ?? '', 'cgroup.freeze'), 'w');
let percent = 100;
let frozen = false;
let timer: NodeJS.Timeout | undefined;

function set(wanted: boolean): void {
  if (wanted === frozen) return;
  try {
    writeSync(freezer, wanted ? '1' : '0');
  } catch {
    process.exit(); // the cgroup was removed: nobody is in it
  }
  frozen = wanted;
}

function run(): void {
  set(false);
  timer = setTimeout(stop, (TURN_MS * percent) / 100);
}

function stop(): void {
  set(true);
  timer = setTimeout(run, (TURN_MS * (100 - percent)) / 100);
}

function end(): void {
  set(false);
  process.exit();
}

let rest = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (text: string) => {
  const lines = (rest + text).split('\n');
  rest = lines.pop() ?? '';
  percent = Number(lines.at(-1) ?? percent);
  if (timer === undefined) run();
});
process.stdin.on('end', end).on('error', end);
// whoever ends us without his own end, as with a Ctrl-C for a whole terminal, wants something else
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
