/*
 * node dist/test/lab/new-connections-main.js <host> <port> <every ms>
 * Opens a new connection every so often, sends PING, waits for +PONG and closes; prints a line of JSON for each, when it is
 * over. Ends at the end of its standard input, after the last answer or 10 s.
 */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { epochNow } from '../../cli/demo/samples.js';

export interface Attempt {
  /** Epoch milliseconds. */
  readonly startedAt: number;
  readonly connectedAt: number | null;
  readonly endedAt: number;
  /** null: it was answered. */
  readonly failure: string | null;
}

const LAST_ANSWER_MS = 10_000;
const [host = '', port = '0', every = '10'] = process.argv.slice(2);

function attempt(): Promise<void> {
  const startedAt = epochNow();
  let connectedAt: number | null = null;
  const socket = connect({ host, port: Number(port) });
  return new Promise((resolve) => {
    const end = (failure: string | null): void => {
      if (socket.destroyed) return;
      const result: Attempt = { startedAt, connectedAt, endedAt: epochNow(), failure };
      process.stdout.write(`${JSON.stringify(result)}\n`);
      socket.destroy();
      resolve();
    };
    socket.setNoDelay(true);
    socket.on('connect', () => {
      connectedAt = epochNow();
      socket.write('PING\r\n');
    });
    socket.on('data', (data: Buffer) => end(data.toString() === '+PONG\r\n' ? null : `answered ${data}`));
    socket.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
    socket.on('end', () => end('closed by the server'));
  });
}

if (process.argv[1]?.endsWith('new-connections-main.js')) {
  const under = new Set<Promise<void>>();
  let stopping = false;
  process.stdin.resume().on('end', () => {
    stopping = true;
  });
  while (!stopping) {
    const one: Promise<void> = attempt().finally(() => under.delete(one));
    under.add(one);
    await sleep(Number(every));
  }
  await Promise.race([Promise.all(under), sleep(LAST_ANSWER_MS)]);
  process.stdout.write(`${JSON.stringify({ unanswered: under.size })}\n`, () => process.exit(0));
}
