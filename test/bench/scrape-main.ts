/*
 * npm run bench:scrape [-- --bindings N] [-- --scrapes N] [-- --json]
 * Makes so many bindings (1000) at the home of a lab, and fetches its page of metrics (30 times). --json: the last line is the
 * result.
 * Exit status: 0 measured, whatever the figures are; 2 wrong use; 7 not root; 130 interrupted.
 */
import { setMaxListeners } from 'node:events';
import { parseArgs } from 'node:util';
import { resultOf, scrapeLine } from './scrape-result.js';
import { ScrapeScene } from './scrape-scene.js';

const NOT_ROOT = 7;
const INTERRUPTED = 130;
/** Each process has a UDP port of its own, of those that no kernel gives to anybody by itself. */
const MOST = 20_000;

function options() {
  const { values } = parseArgs({
    options: {
      bindings: { type: 'string', default: '1000' },
      scrapes: { type: 'string', default: '30' },
      json: { type: 'boolean', default: false },
    },
  });
  return { ...values, bindings: count('bindings', values.bindings), scrapes: count('scrapes', values.scrapes) };
}

function count(name: string, text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= 1 && value <= MOST) return value;
  throw new TypeError(`--${name} takes a number from 1 to ${MOST}, not '${text}'`);
}

/** What is going on, for whoever waits: not part of the result. */
function say(line: string): void {
  console.error(`bench: ${line}`);
}

async function main(): Promise<number> {
  let chosen: ReturnType<typeof options>;
  try {
    chosen = options();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return 2;
  }
  if (process.getuid?.() !== 0) {
    console.error('bench:scrape builds a lab: run it as root (sudo npm run bench:scrape)');
    return NOT_ROOT;
  }
  const interruption = new AbortController();
  const { signal } = interruption;
  setMaxListeners(0, signal); // every program that runs listens to it
  const interrupt = () => interruption.abort();
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    const scene = await ScrapeScene.up({ bindings: chosen.bindings, signal, onProgress: say });
    try {
      const result = resultOf(await scene.scrape(chosen.scrapes));
      console.log(scrapeLine(result));
      if (chosen.json) console.log(JSON.stringify(result));
      return 0;
    } finally {
      await scene.down();
    }
  } catch (error) {
    if (signal.aborted) return INTERRUPTED;
    throw error;
  }
}

process.exitCode = await main();
