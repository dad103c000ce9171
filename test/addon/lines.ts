// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { LINE_SECRET_BYTES, Line } from '../../addon/lib/index.js';

/** Two ends of a line, as two daemons have them, over a connection of which Node reads nothing. */
export async function lines(): Promise<readonly [Line, Line]> {
  const listener = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const one = connect((listener.address() as AddressInfo).port, '127.0.0.1');
  const [[other]] = await Promise.all([once(listener, 'connection'), once(one, 'connect')]);
  listener.close();
  one.pause();
  const secret = randomBytes(LINE_SECRET_BYTES);
  const [source, destination] = ([one, other] as Socket[]).map((socket, index) => {
    const handle = (socket as unknown as { _handle: { fd: number; readStop(): void } })._handle;
    handle.readStop();
    return new Line(handle.fd, secret, index === 0 ? 'client' : 'server', 5000);
  }) as [Line, Line];
  await Promise.all([source.handshake(), destination.handshake()]);
  return [source, destination];
}
