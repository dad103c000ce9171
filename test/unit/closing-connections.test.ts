// limit: 60 s
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { asHomeproxyError } from '../../cli/errors.js';
import { awaitClosed, awaitTaken } from '../../cli/migration/closing.js';
import { emptyAcceptQueues } from '../../cli/migration/drain.js';
import type { PrepareSourceRequest } from '../../cli/migration/messages.js';
import { closingVerdicts, readClosingConnections } from '../../cli/process/closing-connections.js';
import { readInternetSockets } from '../../cli/process/sockets.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { enterPrivateWorld, ip, until } from './private-world.js';
import { HOME } from './verdicts-subject.js';

/** Answers a connection with more than both ends hold, or with what it is told, closes it, and says so. */
const PROGRAM = `
import socket, sys
listener = socket.create_server(('${HOME}', 0))
print(listener.getsockname()[1], flush=True)
accepted, _ = listener.accept()
accepted.setblocking(False)
sent = 0
try:
    while len(sys.argv) < 2: sent += accepted.send(b'x' * 65536)
except BlockingIOError:
    pass
for line in sys.stdin:
    if line == 'close\\n': break
    sent += accepted.send(line.encode())
accepted.close()
print(sent, flush=True)
sys.stdin.readline()
`;

interface Scene {
  child: ChildProcess;
  client: Socket;
  pid: number;
  port: number;
  /** Closes it. @returns how many bytes were sent on it */
  close(): Promise<number>;
}

const test = suite<Scene>('connections that the process has closed');
const entered = enterPrivateWorld({ processes: false }); // where nobody else has any
test.before(() => {
  if (entered)
    ip('link add other0 type veth peer name other1', `address add ${HOME}/24 dev other0`, 'link set other0 up');
});
test.after.each(({ child, client }) => {
  child?.kill('SIGKILL');
  client?.destroy();
});

/** @param filled with all that both ends hold; or with nothing yet */
async function start(context: Scene, filled = true): Promise<void> {
  const child = spawn('python3', ['-c', PROGRAM, ...(filled ? [] : ['empty'])], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const port = Number((await lines.next()).value);
  const client = connect(port, HOME).pause();
  const close = async (): Promise<number> => {
    child.stdin.write('close\n');
    return Number((await lines.next()).value);
  };
  Object.assign(context, { child, client, pid: child.pid ?? 0, port, close });
  await once(client, 'connect');
}

/** Of a process of a pod, as its departure is noted. */
function leaving({ pid }: Scene, resetClosing = false): { localPids: number[]; request: PrepareSourceRequest } {
  const destination = { name: 'host2', address: '10.77.0.4' };
  return {
    localPids: [pid],
    request: { migration: 'm-closing-1', twin: 'home-1-a', epoch: 1, pid: 1, destination, resetClosing },
  };
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'nothing',
    (error: unknown) => `${asHomeproxyError(error).code}: ${asHomeproxyError(error).message}`,
  );
}

test('are waited for, and not for ever: their correspondent may never acknowledge them', async (context) => {
  await start(context);
  const { client, pid, port, close } = context;
  await close();
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

test('in a pod refuse that it leaves, in words, as long as a correspondent has not taken all of them', async (context) => {
  await start(context);
  const { client, pid, port, close } = context;
  const sent = await close();
  await sleep(300); // what fits is with the correspondent's kernel now
  const [open] = readClosingConnections(pid);
  assert.ok(open !== undefined && open.bytes > 0 && open.bytes <= sent, JSON.stringify(open));
  const named = new RegExp(
    `${HOME} port ${port} to ${HOME} port ${client.localPort}\\b.*\\b${open.bytes} bytes and its end`,
  );

  const verdicts = await closingVerdicts(pid);
  assert.equal(
    verdicts.map(({ outcome, code }) => [outcome, code]),
    [['refused', 'CLOSING_CONNECTION']],
  );
  assert.match(`${verdicts[0]?.subject} ${verdicts[0]?.reason}`, named);
  const before = performance.now();
  const refusal = await codeOf(awaitTaken(leaving(context), 400));
  assert.match(refusal, /^CLOSING_CONNECTION: /);
  assert.match(refusal, named);
  assert.ok(performance.now() - before >= 400, 'it was not waited for');
  assert.match(await codeOf(awaitClosed(leaving(context), new Set())), /^CLOSED_MEANWHILE: /);

  client.resume();
  const waited = awaitTaken(leaving(context), 10_000);
  await once(client, 'close');
  assert.is(client.bytesRead, sent);
  await waited;
  assert.equal(await closingVerdicts(pid), []);
  assert.equal(await awaitClosed(leaving(context), new Set()), []);
});

test('are lost where somebody has said that they may be, and named', async (context) => {
  await start(context);
  const { pid, close } = context;
  await close();
  const verdicts = await closingVerdicts(pid, true);
  assert.equal(
    verdicts.map(({ outcome, code }) => [outcome, code]),
    [['will-change', 'CLOSING_CONNECTION']],
  );
  const known = await awaitTaken(leaving(context, true), 300);
  const before = performance.now();
  const [lost = '', ...more] = await awaitClosed(leaving(context, true), known);
  assert.ok(performance.now() - before < 100, 'not waited for in the freeze');
  assert.equal(more, []);
  assert.match(lost, /had not taken: \d{5,} bytes and its end$/);
  assert.equal(await awaitClosed(leaving(context, true), new Set()), [lost], 'closed in the last moment');
});

test('are in nobody’s way as long as they get on', async (context) => {
  await start(context);
  const { client, pid, close } = context;
  await close();
  const reading = setInterval(() => client.read(1 << 17), 50);
  client.on('readable', () => undefined); // without a listener nothing is read ahead
  const before = performance.now();
  try {
    assert.equal(await closingVerdicts(pid), []);
  } finally {
    clearInterval(reading);
  }
  assert.ok(performance.now() - before > 600, 'it was over before one that does not get on would have been told');
});

for (const [how, filled] of [
  ['probes', true],
  ['retransmissions', false],
] as const) {
  test(`whose correspondent is dead are reported, and not waited for: three ${how} without an answer`, async (context) => {
    await start(context, filled);
    const { child, pid, close } = context;
    ip('link set lo down');
    try {
      if (!filled) child.stdin?.write('lost\n');
      await close();
      await sleep(300);
      assert.match(await codeOf(awaitTaken(leaving(context), 200)), /^CLOSING_CONNECTION/, 'it may be a loss');
      await until('it counts as dead', () => readClosingConnections(pid).every(({ dead }) => dead), 10_000);
      const before = performance.now();
      await awaitTaken(leaving(context), 10_000);
      assert.ok(performance.now() - before < 200);
      const verdicts = await closingVerdicts(pid);
      assert.equal(
        verdicts.map(({ outcome, code }) => [outcome, code]),
        [['will-change', 'CLOSING_CONNECTION']],
      );
      const [lost = '', ...more] = await awaitClosed(leaving(context), new Set());
      assert.equal(more, []);
      assert.match(lost, filled ? /\d{5,} bytes and its end$/ : /: 5 bytes and its end$/);
    } finally {
      ip('link set lo up');
    }
  });
}

if (!entered) skip(test, 'connections that the process has closed', 'needs root');
test.run();
