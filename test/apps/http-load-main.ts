/**
 * Persistent HTTP connections that check every reply, in the client node. Its one argument is the options as JSON; it prints `ready`
 * when all connections have had a reply, the number of replies five times a second, and the result when its standard input ends.
 * It never reconnects or asks again. Every request has a number of its own, which the server's reply repeats in X-Number.
 */
import { createHash, randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type HttpReply, HttpReplyParser } from './http-reply.js';
import type { Errand, HttpLoadOptions, HttpLoadResult } from './http-requests.js';

const REPORT_MS = 200;
const GRACE_MS = 15_000;

interface Request {
  readonly number: string;
  readonly sha256: string;
  readonly upload: boolean;
  readonly sentAt: number;
}

class HttpConnection {
  readonly faults: string[] = [];
  replies = 0;
  bytes = 0;
  longestMs = 0;
  readonly #socket: Socket;
  readonly #parser = new HttpReplyParser();
  readonly #waiting: Request[] = [];
  #sent = 0;
  #stopping = false;
  #over = false;

  constructor(
    private readonly id: number,
    private readonly options: HttpLoadOptions,
  ) {
    this.#socket = connect({ host: options.host, port: options.port, noDelay: true }, () => {
      for (let count = 0; count < options.inFlight; count++) this.#send();
    });
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error: NodeJS.ErrnoException) => this.#ended(error.code ?? error.message));
    this.#socket.on('end', () => this.#ended('closed by the server'));
    this.#socket.on('close', () => this.#ended('closed'));
  }

  get idle(): boolean {
    return this.#over || this.#waiting.length === 0;
  }

  /** Sends no more. */
  stop(): void {
    this.#stopping = true;
  }

  /** What has not come by now is lost. */
  close(): void {
    if (!this.#over && this.#waiting.length > 0) this.faults.push('a request was not answered');
    this.#over = true;
    this.#socket.destroy();
  }

  #send(): void {
    if (this.#over || this.#stopping) return;
    const { errands, host } = this.options;
    const errand = errands[(this.id + this.#sent) % errands.length] as Errand;
    const number = `${this.id}-${this.#sent++}`;
    const content = errand.upload === undefined ? undefined : randomBytes(errand.upload);
    const sha256 = content === undefined ? (errand.sha256 ?? '') : createHash('sha256').update(content).digest('hex');
    this.#waiting.push({ number, sha256, upload: content !== undefined, sentAt: performance.now() });
    const verb = content === undefined ? 'GET' : 'POST';
    const length = content === undefined ? '' : `Content-Length: ${content.length}\r\n`;
    this.#socket.write(`${verb} ${errand.path}?${number} HTTP/1.1\r\nHost: ${host}\r\n${length}\r\n`);
    if (content !== undefined) this.#socket.write(content);
  }

  #receive(chunk: Buffer): void {
    if (this.#over) return;
    try {
      for (const reply of this.#parser.push(chunk)) this.#take(reply);
    } catch (error) {
      this.#ended((error as Error).message);
    }
  }

  #take({ status, headers, body }: HttpReply): void {
    const request = this.#waiting.shift();
    if (request === undefined) {
      this.faults.push('a reply that nobody asked for');
      return;
    }
    this.replies++;
    this.bytes += body.length;
    this.longestMs = Math.max(this.longestMs, performance.now() - request.sentAt);
    const said = request.upload ? body.toString().trim() : createHash('sha256').update(body).digest('hex');
    if (status !== 200) this.faults.push(`status ${status}`);
    else if (headers.get('x-number') !== request.number) this.faults.push('the reply of another request');
    else if (said !== request.sha256) this.faults.push('a wrong content');
    if (this.options.paceMs > 0) setTimeout(() => this.#send(), this.options.paceMs);
    else this.#send();
  }

  #ended(reason: string): void {
    if (this.#over) return;
    this.#over = true;
    this.faults.push(`a connection ended: ${reason}`);
    this.#socket.destroy();
  }
}

const options = JSON.parse(process.argv[2] ?? '') as HttpLoadOptions;
const connections = Array.from({ length: options.connections }, (_, id) => new HttpConnection(id, options));
const sum = (count: (connection: HttpConnection) => number) => connections.reduce((all, one) => all + count(one), 0);

let ready = false;
const reports = setInterval(() => {
  if (!ready && connections.every(({ replies }) => replies > 0)) {
    ready = true;
    console.log('ready');
  }
  if (ready) console.log(sum(({ replies }) => replies));
  if (!ready && connections.some(({ faults }) => faults.length > 0)) void finish();
}, REPORT_MS);

process.stdin.resume().on('end', () => void finish());

async function finish(): Promise<void> {
  clearInterval(reports);
  for (const connection of connections) connection.stop();
  for (const deadline = Date.now() + GRACE_MS; Date.now() < deadline; await sleep(20)) {
    if (connections.every(({ idle }) => idle)) break;
  }
  for (const connection of connections) connection.close();
  const result: HttpLoadResult = {
    connections: connections.length,
    replies: sum(({ replies }) => replies),
    bytes: sum(({ bytes }) => bytes),
    longestMs: Math.max(...connections.map(({ longestMs }) => longestMs)),
    faults: [...new Set(connections.flatMap(({ faults }) => faults))],
  };
  console.log(JSON.stringify(result));
  process.exit(0);
}
