/**
 * A source and listeners of a stream, in the client node: the source feeds numbered frames at an even pace into an Icecast, as an
 * encoder does, and every listener must get each of them once and in order. Options, output and end as clients.ts says; the
 * number is that of frames heard by all listeners together.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StreamOptions, StreamResult } from './stream.js';

const MAGIC = Buffer.from('\xff\xfbframe: ', 'latin1'); // the first two bytes are those of a frame of MPEG audio
const FRAME_BYTES = 417; // 128 kbit/s at 44.1 kHz
const EVERY_MS = 26;
const REPORT_MS = 200;
const GRACE_MS = 10_000;
const LAST_FRAMES = 4; // Icecast hands on whole blocks of 1400 bytes

const options = JSON.parse(process.argv[2] ?? '') as StreamOptions;
const faults = new Set<string>();
let stopping = false;
let sent = 0;

function frame(number: number): Buffer {
  const bytes = Buffer.alloc(FRAME_BYTES, number & 0x7f);
  MAGIC.copy(bytes);
  bytes.writeBigUInt64BE(BigInt(number), MAGIC.length);
  return bytes;
}

function watch(socket: Socket, who: string): void {
  const over = (why: string): void => {
    if (!stopping) faults.add(`${who}: ${why}`);
  };
  socket.on('error', (error: NodeJS.ErrnoException) => over(error.code ?? error.message));
  socket.on('end', () => over('closed by the server'));
  socket.on('close', () => over('closed'));
}

class Listener {
  heard = 0;
  /** The last frame's number. */
  last = -1;
  #bytes = Buffer.alloc(0);
  #inBody = false;

  constructor() {
    const socket = connect({ host: options.host, port: options.port }, () => {
      socket.write(`GET ${options.mount} HTTP/1.0\r\nHost: ${options.host}\r\n\r\n`);
    });
    watch(socket, 'a listener');
    socket.on('data', (chunk) => this.#take(chunk));
  }

  #take(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (!this.#inBody) {
      const end = this.#bytes.indexOf('\r\n\r\n');
      if (end < 0) return;
      if (!this.#bytes.toString('latin1', 0, 15).startsWith('HTTP/1.0 200')) faults.add('a listener was refused');
      const start = this.#bytes.indexOf(MAGIC, end + 4);
      if (start < 0) return;
      this.#bytes = this.#bytes.subarray(start);
      this.#inBody = true;
    }
    while (this.#bytes.length >= FRAME_BYTES) {
      const number = Number(this.#bytes.readBigUInt64BE(MAGIC.length));
      if (!this.#bytes.subarray(0, FRAME_BYTES).equals(frame(number))) faults.add('a listener got a broken frame');
      if (this.last >= 0 && number !== this.last + 1) faults.add('a listener missed frames, or got them twice');
      this.last = number;
      this.heard++;
      this.#bytes = this.#bytes.subarray(FRAME_BYTES);
    }
  }
}

const source = connect({ host: options.host, port: options.port }, () => {
  const credentials = Buffer.from(`source:${options.password}`).toString('base64');
  const head = [`SOURCE ${options.mount} HTTP/1.0`, `Authorization: Basic ${credentials}`, 'Content-Type: audio/mpeg'];
  source.write(`${head.join('\r\n')}\r\n\r\n`);
});
watch(source, 'the source');
const welcome = await new Promise<string>((resolve) => source.once('data', (data) => resolve(data.toString())));
if (!/^HTTP\/1.\d 200/.test(welcome)) throw new Error(`the source was refused: ${welcome}`);
source.resume();
const started = performance.now();
const feed = setInterval(() => {
  while (sent < (performance.now() - started) / EVERY_MS) source.write(frame(sent++));
}, EVERY_MS);
await sleep(500);

const listeners = Array.from({ length: options.listeners }, () => new Listener());
const heard = (): number => listeners.reduce((sum, listener) => sum + listener.heard, 0);
let ready = false;
const reports = setInterval(() => {
  if (!ready && (faults.size > 0 || listeners.every((listener) => listener.heard > 0))) {
    ready = true;
    console.log('ready');
  }
  if (ready) console.log(heard());
}, REPORT_MS);

process.stdin.resume().on('end', async () => {
  clearInterval(feed);
  clearInterval(reports);
  const allHeard = (): boolean => listeners.every(({ last }) => last >= sent - 1 - LAST_FRAMES);
  for (const deadline = Date.now() + GRACE_MS; Date.now() < deadline && !allHeard(); ) await sleep(20);
  if (!allHeard()) faults.add('a listener did not get the last frames');
  stopping = true;
  const result: StreamResult = { sent, heard: heard(), faults: [...faults] };
  console.log(JSON.stringify(result));
  process.exit(0);
});
