/**
 * Numbered datagrams, one every millisecond: `node beat-main.js send|hear <address> <port> [<own port>]`. Each end goes on until
 * its standard input ends, and then says what it has sent, or heard and missed.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as pause } from 'node:timers/promises';

const [role, address = '', portText = '', ownPort = '0'] = process.argv.slice(2);
const port = Number(portText);
const say = (event: object): void => {
  process.stdout.write(`${JSON.stringify(event)}\n`);
};
let ended = false;
process.stdin.on('end', () => {
  ended = true;
});
process.stdin.resume();

async function send(): Promise<void> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(Number(ownPort), resolve));
  let next = 0;
  for (const start = performance.now(); !ended; await pause(1)) {
    while (next < performance.now() - start) {
      const payload = Buffer.alloc(64);
      payload.writeUInt32BE(next++);
      socket.send(payload, port, address);
    }
  }
  await pause(50); // what is still in the socket's hands
  socket.close();
  say({ event: 'sent', packets: next });
}

/** Tells of every gap in the numbers when it is over: how many are missing, and how long nothing came. */
async function hear(): Promise<void> {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4 << 20 });
  const seen = new Set<number>();
  let last = -1;
  let lastAt = performance.now();
  socket.on('message', (message) => {
    const number = message.readUInt32BE();
    seen.add(number);
    const now = performance.now();
    if (last >= 0 && number > last + 1) say({ event: 'gap', missing: number - last - 1, ms: now - lastAt });
    if (seen.size === 1) say({ event: 'first' });
    if (seen.size % 100 === 0) say({ event: 'hundred', last: number });
    last = Math.max(last, number);
    lastAt = now;
  });
  await new Promise<void>((resolve) => socket.bind(port, address, resolve));
  say({ event: 'ready' });
  while (!ended) await pause(5);
  socket.close();
  say({ event: 'heard', packets: seen.size, last });
}

await (role === 'send' ? send() : hear());
