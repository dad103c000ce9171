/*
 * node dist/cli/demo/verifying-client-main.js --host ADDRESS [--port 6379] [--connections 50] [--pace 4] [--in-flight 1]
 *   [--connect-within 10000] [--grace 5000]
 * Counts until it is asked to stop; events on stdout (client-events.ts). Times are in milliseconds.
 */
import { parseArgs } from 'node:util';
import { UserError } from '../errors.js';
import { emit, runLoadProcess, stopRequested } from './load-process.js';
import { encodeSamples, epochNow } from './samples.js';
import { VERIFYING_DEFAULTS, VerifyingClient, type VerifyingClientOptions } from './verifying-client.js';

await runLoadProcess(async () => {
  const options = readOptions(process.argv.slice(2));
  const stopped = stopRequested();
  const client = new VerifyingClient(options);
  await client.open();
  client.start();
  await emit({ event: 'ready', connections: options.connections, atMs: epochNow() });
  const seconds = setInterval(() => void emit({ event: 'second', ...client.progress() }), 1000);
  await stopped;
  clearInterval(seconds);
  const result = await client.stop();
  await emit({ event: 'samples', ...encodeSamples(client.samples) });
  await emit({
    event: 'result',
    ...result,
    resetReasons: [...result.resetReasons],
    unansweredSince: [...result.unansweredSince],
  });
});

function readOptions(args: string[]): VerifyingClientOptions {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args,
    options: {
      host: text,
      port: text,
      connections: text,
      pace: text,
      'in-flight': text,
      'connect-within': text,
      grace: text,
    },
  });
  if (values.host === undefined) throw usage('--host is missing');
  return {
    host: values.host,
    port: number('--port', values.port, VERIFYING_DEFAULTS.port),
    connections: number('--connections', values.connections, VERIFYING_DEFAULTS.connections),
    paceMs: number('--pace', values.pace, VERIFYING_DEFAULTS.paceMs),
    inFlight: number('--in-flight', values['in-flight'], VERIFYING_DEFAULTS.inFlight),
    connectWithinMs: number('--connect-within', values['connect-within'], VERIFYING_DEFAULTS.connectWithinMs),
    graceMs: number('--grace', values.grace, VERIFYING_DEFAULTS.graceMs),
  };
}

function number(flag: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  if (!Number.isInteger(value) || value < 0) throw usage(`${flag} must be a whole number, not ${text}`);
  return value;
}

function usage(message: string): UserError {
  return new UserError({ code: 'USAGE', message, exitStatus: 2 });
}
