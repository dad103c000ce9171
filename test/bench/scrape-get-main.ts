/*
 * node dist/test/bench/scrape-get-main.js <url> <times>
 * Fetches the page of metrics so many times on one connection with half a second between them, and prints what that
 * took as one line of JSON.
 */
import { Agent, get } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Scrapes } from './scrape-result.js';

const PAUSE_MS = 500;
const [url = '', times = '1'] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true });

async function page(): Promise<string> {
  return await new Promise<string>((resolve, reject) => {
    const request = get(url, { agent }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        if (response.statusCode === 200) resolve(Buffer.concat(chunks).toString());
        else reject(new Error(`status ${response.statusCode}: ${Buffer.concat(chunks)}`));
      });
    });
    request.on('error', reject);
  });
}

/** The sum of all series of a metric. */
function sumOf(metric: string, text: string): number {
  const values = [...text.matchAll(new RegExp(`^${metric}(?:\\{.*\\})? (\\S+)$`, 'gm'))];
  return values.reduce((sum, [, value]) => sum + Number(value), 0);
}

const wallMs: number[] = [];
const processorMs: number[] = [];
const processorOf = (text: string): number => 1000 * sumOf('process_cpu_seconds_total', text);
let last = await page();
for (let scrape = 0; scrape < Number(times); scrape++) {
  await sleep(PAUSE_MS);
  const began = performance.now();
  const text = await page();
  wallMs.push(performance.now() - began);
  processorMs.push(processorOf(text) - processorOf(last));
  last = text;
}
agent.destroy();
const scrapes: Scrapes = {
  wallMs,
  processorMs,
  bytes: Buffer.byteLength(last),
  bindings: sumOf('homeproxy_bindings', last),
  departed: sumOf('homeproxy_departed_processes', last),
};
process.stdout.write(`${JSON.stringify(scrapes)}\n`);
