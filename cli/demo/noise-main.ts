/*
 * node dist/cli/demo/noise-main.js --host ADDRESS [--port 6379] [--every 250] [--requests 400] [--clients 4] [--limit 5000]
 * Bursts of redis-benchmark, each with new connections, until it is asked to stop; a burst that fails is counted.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { ExternalError, UserError } from '../errors.js';
import { lastLines, run } from '../system/command.js';
import type { NoiseResult } from './client-events.js';
import { emit, runLoadProcess, stopRequested } from './load-process.js';
import { epochNow } from './samples.js';

// redis-benchmark tries for ever to connect, and hides what went wrong in the end: its complaints count.
const COMPLAINT = /could not connect|error|closed/i;

await runLoadProcess(async () => {
  const text = { type: 'string' } as const;
  const options = { host: text, port: text, every: text, requests: text, clients: text, limit: text };
  const {
    host,
    port = '6379',
    every = '250',
    requests = '400',
    clients = '4',
    limit = '5000',
  } = parseArgs({ options }).values;
  if (host === undefined) throw new UserError({ code: 'USAGE', message: '--host is missing', exitStatus: 2 });
  const address = ['-h', host, '-p', port];
  const burst = [
    'redis-benchmark',
    ...address,
    '-t',
    'set,get',
    '-c',
    clients,
    '-n',
    requests,
    '-d',
    '64',
    '-q',
  ] as const;

  const stopping = new AbortController();
  void stopRequested().then(() => stopping.abort());
  await emit({ event: 'ready', connections: Number(clients), atMs: epochNow() });
  let result: NoiseResult = { bursts: 0, requests: 0, failures: 0, failureLog: [] };
  while (!stopping.signal.aborted) {
    result = count(result, 2 * Number(requests), await runBurst(burst, Number(limit)));
    await sleep(Number(every), undefined, { signal: stopping.signal }).catch(() => undefined); // asked to stop
  }
  await emit({ event: 'noise', ...result });
});

/** Why the burst failed; undefined when every request had its reply. */
async function runBurst(
  [program, ...args]: readonly [string, ...string[]],
  limitMs: number,
): Promise<string | undefined> {
  try {
    const { stdout, stderr } = await run(program, args, { timeoutMs: limitMs });
    return lastLines(`${stdout}\n${stderr}`, 20).find((line) => COMPLAINT.test(line));
  } catch (error) {
    if (error instanceof ExternalError) return [error.message, ...error.log.slice(-2)].join('; ');
    throw error;
  }
}

function count(before: NoiseResult, requests: number, failure: string | undefined): NoiseResult {
  return {
    bursts: before.bursts + 1,
    requests: before.requests + (failure === undefined ? requests : 0),
    failures: before.failures + (failure === undefined ? 0 : 1),
    failureLog: failure === undefined ? before.failureLog : [...before.failureLog, failure].slice(-5),
  };
}
