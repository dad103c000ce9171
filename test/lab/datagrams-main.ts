/*
 * node dist/test/lab/datagrams-main.js <host> <port> <every ms> [<own port>]
 * Sends numbered datagrams to a `datagrams` server and checks the answers. Says "ready" at the first answer. At the end of its
 * standard input it sends no more, waits for what is still to come, at most 10 s, and prints a line of JSON.
 */
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DatagramsResult } from './datagrams.js';

const LAST_ANSWER_MS = 10_000;
const [host = '', port = '0', every = '10', own = '0'] = process.argv.slice(2);

const socket = createSocket({ type: isIPv6(host) ? 'udp6' : 'udp4', recvBufferSize: 1 << 18 });
const answered = new Set<number>();
const result = { sent: 0, lost: 0, repeated: 0, outOfOrder: 0, wrong: 0 } satisfies DatagramsResult;
let latest = 0;
let complete = (): void => undefined;

socket.on('message', (message) => {
  const [number = 0, count = 0] = message.toString().split(' ').map(Number);
  if (answered.has(number)) result.repeated++;
  else if (number < latest) result.outOfOrder++;
  if (number !== count || !(number >= 1 && number <= result.sent)) result.wrong++;
  if (answered.size === 0) process.stdout.write('ready\n');
  answered.add(number);
  latest = Math.max(latest, number);
  complete();
});

await new Promise<void>((resolve) => {
  socket.bind(Number(own), resolve);
});
const send = (): void => {
  result.sent++;
  socket.send(String(result.sent), Number(port), host);
};
send();
const timer = setInterval(send, Number(every));
process.stdin.resume().on('end', async () => {
  clearInterval(timer);
  const all = new Promise<void>((resolve) => {
    complete = () => (answered.size >= result.sent ? resolve() : undefined);
    complete();
  });
  await Promise.race([all, sleep(LAST_ANSWER_MS)]);
  process.stdout.write(`${JSON.stringify({ ...result, lost: result.sent - answered.size })}\n`);
  process.exit(0);
});
