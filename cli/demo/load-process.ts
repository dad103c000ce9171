import { asHomeproxyError } from '../errors.js';
import type { ClientEvent } from './client-events.js';

/** Writes one event; resolves when the reader can take more. */
export function emit(event: ClientEvent): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.write(`${JSON.stringify(event)}\n`, () => resolve());
  });
}

/** Resolves when this process is asked to end: SIGTERM, SIGINT, SIGHUP, a line `stop` on stdin, or stdin's end. */
export function stopRequested(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(signal, () => resolve());
    let text = '';
    process.stdin.setEncoding('utf8');
    process.stdin.on('data', (chunk: string) => {
      text += chunk;
      if (/^stop$/m.test(text)) resolve();
    });
    process.stdin.on('end', () => resolve());
  });
}

/** Runs a load process to its end: an error becomes the last event, and the exit status. */
export async function runLoadProcess(work: () => Promise<void>): Promise<void> {
  // Whoever reads us is gone: there is nobody to work for.
  process.stdout.on('error', () => process.exit(1));
  try {
    await work();
    process.exit(0);
  } catch (thrown) {
    const { log, ...error } = asHomeproxyError(thrown).toDocument();
    await emit({ event: 'error', error: { ...error, ...(log === undefined ? {} : { log: [...log] }) } });
    process.exit(error.exitStatus);
  }
}
