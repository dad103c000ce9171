/**
 * Clients of servers that send numbers, one a line, from 0 on: each connection must bring every number once and in order. Options,
 * output and end as ../apps/clients.ts says; the number is that of numbers checked on the connection that has got the fewest.
 */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NumbersOptions, NumbersPort, NumbersResult } from './numbers.js';

const REPORT_MS = 50;
const EVERY_MS = 5;
const GRACE_MS = 10_000;

const options = JSON.parse(process.argv[2] ?? '') as NumbersOptions;
const faults = new Set<string>();
let stopping = false;
let totals: number[] = [];

class Connection {
  /** Numbers that came, each the one after that before. */
  count = 0;
  sent = 0;
  #rest = '';

  constructor({ port, kind }: NumbersPort) {
    const socket = connect({ host: options.host, port });
    const over = (why: string): void => {
      if (!stopping) faults.add(`port ${port}: ${why} after ${this.count}`);
    };
    socket.on('error', (error: NodeJS.ErrnoException) => over(error.code ?? error.message));
    socket.on('close', () => over('closed'));
    socket.on('data', (chunk) => {
      const lines = (this.#rest + chunk.toString()).split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line !== String(this.count)) faults.add(`port ${port}: ${line} instead of ${this.count}`);
        this.count++;
      }
    });
    if (kind !== 'echo') return;
    const timer = setInterval(() => {
      if (stopping) clearInterval(timer);
      else socket.write(`${this.sent++}\n`);
    }, EVERY_MS);
  }
}

/** Asks again and again, each time on a new connection. The totals must never be less than they were. */
class Asker {
  count = 0;
  readonly sent = 0;

  constructor(port: number) {
    const ask = (): void => {
      let answer = '';
      const socket = connect({ host: options.host, port });
      socket.on('error', (error: NodeJS.ErrnoException) => faults.add(`port ${port}: ${error.code ?? error.message}`));
      socket.on('data', (chunk) => {
        answer += chunk.toString();
      });
      socket.on('end', () => {
        const told = answer.trim().split(' ').map(Number);
        if (told.some((total, index) => !(total >= (totals[index] ?? 0))))
          faults.add(`port ${port}: ${told} after ${totals}`);
        totals = told;
        this.count = Math.min(...told);
        if (!stopping) setTimeout(ask, EVERY_MS);
      });
    };
    ask();
  }
}

const all = options.ports.flatMap((target) =>
  Array.from({ length: target.connections }, () =>
    target.kind === 'totals' ? new Asker(target.port) : new Connection(target),
  ),
);
const fewest = (): number => Math.min(...all.map(({ count }) => count));
let ready = false;
const reports = setInterval(() => {
  if (!ready && (faults.size > 0 || fewest() > 0)) {
    ready = true;
    console.log('ready');
  }
  if (ready) console.log(fewest());
}, REPORT_MS);

process.stdin.resume().on('end', async () => {
  clearInterval(reports);
  stopping = true;
  const complete = (): boolean => all.every(({ count, sent }) => count >= sent);
  for (const deadline = Date.now() + GRACE_MS; Date.now() < deadline && !complete(); ) await sleep(20);
  if (!complete()) faults.add('not everything came back');
  const result: NumbersResult = { fewest: fewest(), faults: [...faults], totals };
  console.log(JSON.stringify(result));
  process.exit(0);
});
