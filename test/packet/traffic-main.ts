/**
 * One end of the live tests, run in a namespace of its own: `node traffic-main.js <role> <address> <port> [more]`.
 * Prints one line of JSON per event; those that would go on for ever end with their standard input.
 */
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

const [role, address = '', portText = '', more = '0'] = process.argv.slice(2);
const port = Number(portText);
const say = (event: object): void => {
  process.stdout.write(`${JSON.stringify(event)}\n`);
};

/** Takes connections; says how much came and its hash, and sends as much back. */
function sink(): void {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const hash = createHash('sha256');
    let bytes = 0;
    socket.on('data', (chunk) => {
      hash.update(chunk);
      bytes += chunk.length;
    });
    socket.on('error', (error) => say({ event: 'error', message: error.message }));
    socket.on('end', () => {
      const digest = hash.digest('hex');
      say({ event: 'received', bytes, digest });
      socket.end(pattern(bytes));
    });
  });
  server.listen(port, address, () => say({ event: 'ready' }));
}

/** Sends so many bytes and reads as many back. */
function source(): void {
  const data = pattern(Number(more));
  const socket = connect({ host: address, port, allowHalfOpen: true });
  const hash = createHash('sha256');
  let bytes = 0;
  socket.on('connect', () => socket.end(data));
  socket.on('data', (chunk) => {
    hash.update(chunk);
    bytes += chunk.length;
  });
  const expected = createHash('sha256').update(data).digest('hex');
  socket.on('error', (error: NodeJS.ErrnoException) => say({ event: 'failed', code: error.code }));
  socket.on('end', () => say({ event: 'done', bytes, intact: hash.digest('hex') === expected }));
}

/** Tries to connect for so many milliseconds. */
function probe(): void {
  const socket = connect({ host: address, port });
  const timer = setTimeout(() => finish('silence'), Number(more));
  const finish = (outcome: string): void => {
    clearTimeout(timer);
    socket.destroy();
    say({ event: 'probed', outcome });
  };
  socket.on('connect', () => finish('connected'));
  socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code ?? 'error'));
}

/** Sends one datagram and waits so many milliseconds for the ICMP error that says nobody is there. */
function probeUdp(): void {
  const socket = createSocket('udp4');
  const finish = (outcome: string): void => {
    clearTimeout(timer);
    socket.close();
    say({ event: 'probed', outcome });
  };
  const timer = setTimeout(() => finish('silence'), Number(more));
  socket.once('error', (error: NodeJS.ErrnoException) => finish(error.code ?? 'error'));
  socket.connect(port, address, () => socket.send('x'));
}

/** Sends one datagram of so many bytes. */
function datagram(): void {
  const socket = createSocket('udp4');
  socket.send(Buffer.alloc(Number(more)), port, address, () => {
    socket.close();
    say({ event: 'sent' });
  });
}

/** What is on its way comes within that. */
const LAST_MS = 10_000;

/**
 * Takes numbered datagrams; says how many came, how many of them were different, and how many out of order: when as many have come
 * as its standard input has said at its end, or when no more come.
 */
function count(): void {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 8 << 20 });
  const seen: number[] = [];
  let sent = Number.POSITIVE_INFINITY;
  let limit: NodeJS.Timeout | undefined;
  const tell = (): void => {
    clearTimeout(limit);
    const late = seen.filter((number, index) => index > 0 && number < (seen[index - 1] ?? 0)).length;
    say({ event: 'counted', received: seen.length, distinct: new Set(seen).size, late });
    socket.close();
  };
  socket.on('message', (message) => {
    if (seen.push(message.readUInt32BE(0)) === sent) tell();
  });
  socket.bind(port, address, () => say({ event: 'ready' }));
  process.stdin.setEncoding('utf8').on('data', (text) => {
    sent = Number(text);
  });
  process.stdin.on('end', () => {
    if (seen.length >= sent) tell();
    else limit = setTimeout(tell, LAST_MS);
  });
}

/** Sends numbered datagrams, ten every millisecond, until told to end or so many are out. */
async function stream(): Promise<void> {
  const socket = createSocket('udp4');
  const payload = Buffer.alloc(64);
  let next = 0;
  let ended = false;
  process.stdin.on('end', () => {
    ended = true;
  });
  while (!ended && next < Number(more)) {
    const out: Promise<void>[] = [];
    for (let burst = 0; burst < 10; burst++) {
      payload.writeUInt32BE(next++, 0);
      out.push(new Promise((resolve) => socket.send(Buffer.from(payload), port, address, () => resolve())));
    }
    await Promise.all([...out, pause(1)]);
  }
  socket.close();
  say({ event: 'sent', packets: next });
}

/** Sends every datagram back. */
function echo(): void {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 8 << 20 });
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(port, address, () => say({ event: 'ready' }));
  process.stdin.on('end', () => socket.close());
}

/** So many questions may be without an answer. */
const MOST_OPEN = 500;

/** Sends numbered datagrams until told to end, and takes their echoes; says how many, when all have come or no more do. */
async function ask(): Promise<void> {
  const socket = createSocket('udp4');
  const answers: number[] = [];
  socket.on('message', (message) => void answers.push(message.readUInt32BE(0)));
  let asked = 0;
  let ended = false;
  process.stdin.on('end', () => {
    ended = true;
  });
  const payload = Buffer.alloc(64);
  for (let begun = false; !ended; await pause(1)) {
    for (let burst = 0; burst < 5 && asked - answers.length < MOST_OPEN; burst++) {
      payload.writeUInt32BE(asked++, 0);
      socket.send(Buffer.from(payload), port, address);
    }
    if (!begun && answers.length > 0) say({ event: 'answered' });
    begun = answers.length > 0;
  }
  for (const end = Date.now() + LAST_MS; answers.length < asked && Date.now() < end; ) await pause(5);
  socket.close();
  say({ event: 'asked', asked, answers: answers.length, distinct: new Set(answers).size });
}

/** Bytes that tell where they belong: a shifted or repeated piece changes the hash. */
function pattern(bytes: number): Buffer {
  const data = Buffer.alloc(bytes);
  for (let i = 0; i + 4 <= bytes; i += 4) data.writeUInt32BE(i, i);
  return data;
}

const roles: Record<string, () => unknown> = {
  sink,
  source,
  probe,
  'probe-udp': probeUdp,
  datagram,
  count,
  stream,
  echo,
  ask,
};
if (role === 'sink') process.stdin.on('end', () => process.exit(0));
if (['sink', 'count', 'stream', 'echo', 'ask'].includes(role ?? '')) process.stdin.resume();
await roles[role ?? '']?.();
