import { connect, type Socket } from 'node:net';
import * as assert from 'uvu/assert';
import type { Cgroup } from '../../cli/system/cgroup.js';
import { Subject } from './private-world.js';

/** Echoes each byte with the number of bytes that it has seen: a right answer shows that memory and connection are whole. */
const COUNTER = `
import socket, sys
listener = socket.socket(socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[2], int(sys.argv[1])))
listener.listen(1)
connection, _ = listener.accept()
count = 0
while byte := connection.recv(1):
    count += 1
    connection.sendall(byte + bytes([count]))
`;

/** Where the counter listens, and what its client calls: sockets of one family or of both. */
export const FAMILIES = [
  { words: 'IPv4', listen: '127.0.0.1', call: '127.0.0.1' },
  { words: 'IPv6', listen: '::1', call: '::1' },
  { words: 'an IPv6 socket with an IPv4 correspondent', listen: '::', call: '127.0.0.1' },
] as const;

let ports = 7000;
const sockets = new Set<Socket>();

/** A process with a live connection, in a cgroup of its own. */
export class Counter {
  private count = 0;

  private constructor(
    readonly subject: Subject,
    readonly cgroup: Cgroup,
    private readonly socket: Socket,
  ) {}

  static async start(
    { cgroup }: { readonly cgroup: Cgroup },
    { listen, call }: (typeof FAMILIES)[number] = FAMILIES[0],
  ): Promise<Counter> {
    const port = ++ports;
    const subject = Subject.silent(COUNTER, String(port), listen);
    const own = cgroup.child(`counter-${port}`).create();
    own.add(subject.pid);
    const socket = await connected(port, call);
    sockets.add(socket);
    const counter = new Counter(subject, own, socket);
    await counter.answers();
    return counter;
  }

  get pid(): number {
    return this.subject.pid;
  }

  /** Sends a byte and expects its number; an Error when the connection is broken or silent. */
  async answers(): Promise<void> {
    const { socket } = this;
    const number = ++this.count;
    const answer = new Promise<Buffer>((resolve, reject) => {
      let got = Buffer.alloc(0);
      const timer = setTimeout(() => done(() => reject(new Error('no answer within 5 s'))), 5000);
      const onData = (data: Buffer): void => {
        got = Buffer.concat([got, data]);
        if (got.length >= 2) done(() => resolve(got));
      };
      const onEnd = (): void => done(() => reject(new Error('the connection was closed')));
      const done = (act: () => void): void => {
        clearTimeout(timer);
        socket.off('data', onData).off('close', onEnd);
        act();
      };
      socket.on('data', onData).once('close', onEnd);
    });
    socket.write('x');
    assert.equal([...(await answer)], ['x'.charCodeAt(0), number]);
  }

  end(): void {
    this.socket.destroy();
    this.cgroup.kill();
  }
}

async function connected(port: number, address: string): Promise<Socket> {
  for (;;) {
    const socket = connect(port, address);
    socket.on('error', () => undefined);
    const open = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true)).once('close', () => resolve(false));
    });
    if (open) return socket;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Closes every connection that a counter has. */
export function closeCounters(): void {
  for (const socket of sockets) socket.destroy();
}
