import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import * as assert from 'uvu/assert';
import { emptyAcceptQueues } from '../../cli/migration/drain.js';
import { readInternetSockets } from '../../cli/process/sockets.js';
import { suite } from '../suite.js';

/** Answers its first connection with more than both ends hold, closes it, and says so. */
const PROGRAM = `
import socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
accepted, _ = listener.accept()
accepted.setblocking(False)
try:
    while True: accepted.send(b'x' * 65536)
except BlockingIOError:
    pass
accepted.close()
print('closed', flush=True)
sys.stdin.readline()
`;

const test = suite<{ child: ChildProcess; client: Socket }>('connections that the process has closed');

test.after.each(({ child, client }) => {
  child.kill('SIGKILL');
  client.destroy();
});

test('are waited for, and not for ever: their correspondent may never acknowledge them', async (context) => {
  const child = spawn('python3', ['-c', PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const port = Number((await lines.next()).value);
  const client = connect(port, '127.0.0.1').pause();
  Object.assign(context, { child, client });
  assert.is((await lines.next()).value, 'closed');
  const pid = child.pid ?? 0;
  const closing = readInternetSockets(pid).filter(({ local, inode }) => local.port === port && inode === 0);
  assert.equal(
    closing.map(({ state }) => state),
    ['FIN_WAIT1'],
  );
  assert.ok((await emptyAcceptQueues({ localPids: [pid], ports: [port] }, 10_000)) >= 200);
  client.resume();
  await once(client, 'close');
  await emptyAcceptQueues({ localPids: [pid], ports: [port] }, 10_000);
  assert.equal(
    readInternetSockets(pid).filter(({ local, state }) => local.port === port && state === 'FIN_WAIT1'),
    [],
  );
});

test.run();
