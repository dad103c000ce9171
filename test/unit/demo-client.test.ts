// limit: 120 s
/*
 * The verifying client against a real Redis, through a proxy that spoils the replies. It runs in a network namespace of its
 * own: the file starts itself again inside one.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { type ClientEvent, clientEvent } from '../../cli/demo/client-events.js';
import { decodeSamples, epochNow } from '../../cli/demo/samples.js';
import { VERIFYING_DEFAULTS, VerifyingClient, type VerifyingResult } from '../../cli/demo/verifying-client.js';
import { projectFile } from '../../cli/system/project.js';
import { suite } from '../suite.js';

if (process.env.DEMO_TEST_NETWORK !== 'private') {
  const unshare = process.getuid?.() === 0 ? ['--net'] : ['--net', '--user', '--map-root-user'];
  const again = spawnSync('unshare', [...unshare, process.execPath, fileURLToPath(import.meta.url)], {
    stdio: 'inherit',
    env: { ...process.env, DEMO_TEST_NETWORK: 'private' },
  });
  process.exit(again.status ?? 1);
}

interface World {
  folder: string;
  redis: ChildProcess;
}

const REDIS_PORT = 6379;
const test = suite<World>('demo: verifying client');

test.before(async (world) => {
  assert.is(spawnSync('ip', ['link', 'set', 'lo', 'up']).status, 0);
  world.folder = mkdtempSync(join(tmpdir(), 'demo-client-'));
  const program = join(world.folder, 'redis-server');
  symlinkSync('/usr/bin/redis-check-rdb', program);
  const options = [
    '--bind',
    '127.0.0.1',
    '--port',
    String(REDIS_PORT),
    '--save',
    '',
    '--appendonly',
    'no',
    '--dir',
    '/',
  ];
  world.redis = spawn(program, options, { stdio: 'ignore' });
  const client = new VerifyingClient({ ...VERIFYING_DEFAULTS, host: '127.0.0.1' }); // waits until Redis accepts
  await client.open();
  await client.stop();
});

test.after(async (world) => {
  world.redis.kill('SIGKILL');
  if (world.redis.exitCode === null && world.redis.signalCode === null) await once(world.redis, 'exit');
  rmSync(world.folder, { recursive: true });
});

/** What becomes of a reply on its way: the lines to deliver instead, or the end of the connection. */
type Spoil = (line: string, number: number) => readonly string[] | 'reset' | 'close';

/** Between the client and Redis: passes everything on, but the replies of the first connection through `spoil`. */
class FaultProxy {
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  /** Replies of the first connection so far. */
  first = 0;

  private constructor(private readonly spoil: Spoil) {
    let first = true;
    this.server = createServer((client) => {
      this.join(client, first ? (line) => this.spoil(line, ++this.first) : (line) => [line]);
      first = false;
    });
  }

  static async start(spoil: Spoil): Promise<FaultProxy> {
    const proxy = new FaultProxy(spoil);
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
    await once(this.server, 'close');
  }

  private join(client: Socket, spoil: (line: string) => ReturnType<Spoil>): void {
    const redis = connect({ host: '127.0.0.1', port: REDIS_PORT });
    for (const socket of [client, redis]) {
      this.sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => undefined); // what the tests cause
    }
    client.on('data', (chunk) => redis.write(chunk));
    client.on('close', () => redis.destroy());
    redis.on('close', () => client.destroy());
    let rest = '';
    redis.on('data', (chunk) => {
      const lines = (rest + chunk.toString('latin1')).split('\r\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const instead = spoil(line);
        if (instead === 'reset') client.resetAndDestroy();
        else if (instead === 'close') client.end();
        else for (const each of instead) client.write(`${each}\r\n`);
      }
    });
  }
}

const ENOUGH_REPLIES = 60;

/** Counts through the proxy until the first connection has met its fault, and the others have gone on. */
async function count(spoil: Spoil, { inFlight = 1 } = {}): Promise<VerifyingResult> {
  const proxy = await FaultProxy.start(spoil);
  try {
    const client = new VerifyingClient({
      ...VERIFYING_DEFAULTS,
      host: '127.0.0.1',
      port: proxy.port,
      connections: 3,
      inFlight,
      graceMs: 200,
    });
    await client.open();
    client.start();
    while (proxy.first < 5) await sleep(1);
    for (const seen = client.progress().replies; client.progress().replies < seen + ENOUGH_REPLIES; ) await sleep(1);
    return await client.stop();
  } finally {
    await proxy.stop();
  }
}

function faultsOf(result: VerifyingResult): Record<string, number> {
  const { lost, repeated, outOfOrder, wrong, resets } = result;
  return { lost, repeated, outOfOrder, wrong, resets };
}

const NONE = { lost: 0, repeated: 0, outOfOrder: 0, wrong: 0, resets: 0 };
const asIs: Spoil = (line) => [line];

test('a faithful network has no fault, whatever the number of requests under way', async () => {
  for (const inFlight of [1, 4]) {
    const result = await count(asIs, { inFlight });
    assert.equal(faultsOf(result), NONE);
    assert.ok(result.replies > ENOUGH_REPLIES, `${result.replies} replies`);
  }
});

test('one dropped reply is reported as lost', async () => {
  const drop: Spoil = (line, number) => (number === 5 ? [] : [line]);
  assert.equal(faultsOf(await count(drop)), { ...NONE, lost: 1 });
  assert.equal(faultsOf(await count(drop, { inFlight: 3 })), { ...NONE, lost: 1 });
});

test('a dropped reply is a request that still waits', async () => {
  const before = epochNow();
  const result = await count((line, number) => (number === 5 ? [] : [line]));
  assert.is(result.unansweredSince.length, 1);
  const [since = 0] = result.unansweredSince;
  assert.ok(since >= before && since < result.endedAt - 200);
});

test('one repeated reply is reported as repeated', async () => {
  const repeat: Spoil = (line, number) => (number === 5 ? [line, line] : [line]);
  assert.equal(faultsOf(await count(repeat)), { ...NONE, repeated: 1 });
  assert.equal(faultsOf(await count(repeat, { inFlight: 3 })), { ...NONE, repeated: 1 });
});

test('two replies that change places are reported as out of order', async () => {
  let held: string | undefined;
  const reorder: Spoil = (line, number) => {
    if (number === 5) held = line;
    if (number === 5) return [];
    return number === 6 ? [line, held ?? ''] : [line];
  };
  assert.equal(faultsOf(await count(reorder, { inFlight: 2 })), { ...NONE, outOfOrder: 1 });
});

test('a number that is not the next one is reported as wrong', async () => {
  const result = await count((line, number) => (number === 5 ? [':99999'] : [line]));
  assert.equal(faultsOf(result), { ...NONE, wrong: 1, lost: 1 });
});

test('an error instead of a number is reported as wrong', async () => {
  const result = await count((line, number) => (number === 5 ? ['-ERR something'] : [line]));
  assert.equal(faultsOf(result), { ...NONE, wrong: 1, lost: 1 });
});

test('a reset is reported, with the reply that it cost', async () => {
  const result = await count((line, number) => (number === 5 ? 'reset' : [line]));
  assert.equal(faultsOf(result), { ...NONE, resets: 1, lost: 1 });
  assert.equal(result.resetReasons, ['ECONNRESET']);
});

test('a connection that the server ends in order is reported as well', async () => {
  const result = await count((line, number) => (number === 5 ? 'close' : [line]));
  assert.equal(faultsOf(result), { ...NONE, resets: 1, lost: 1 });
  assert.equal(result.resetReasons, ['closed by the server']);
});

test('a server that is not there is an error that says so', async () => {
  const options = { ...VERIFYING_DEFAULTS, host: '127.0.0.1', port: 1, connectWithinMs: 100 };
  try {
    await new VerifyingClient(options).open();
    assert.unreachable();
  } catch (error) {
    assert.match(String(error), 'cannot connect to 127.0.0.1:1: ECONNREFUSED');
  }
});

test('as a process it reports each second, and at the end its result and its latencies', async () => {
  const events = await runProcess('verifying-client-main', ['--connections', '10'], (child) =>
    child.stdin?.write('stop\n'),
  );
  assert.equal([...new Set(events.map(({ event }) => event))], ['ready', 'second', 'samples', 'result']);
  const result = events.find(({ event }) => event === 'result');
  const samples = events.find(({ event }) => event === 'samples');
  if (result?.event !== 'result' || samples?.event !== 'samples') throw new Error('no result');
  const { repliedAt, latencyMs } = decodeSamples(samples);
  assert.is(result.lost + result.repeated + result.outOfOrder + result.wrong + result.resets, 0);
  assert.is(repliedAt.length, result.replies);
  assert.ok(result.replies >= 10, `${result.replies} replies`);
  assert.ok(repliedAt.every((time) => time >= result.startedAt && time <= result.endedAt));
  assert.ok(latencyMs.every((latency) => latency > 0 && latency < 1000));
});

test('SIGTERM ends it in the same way', async () => {
  const events = await runProcess('verifying-client-main', ['--connections', '2'], (child) => child.kill('SIGTERM'));
  assert.is(events.at(-1)?.event, 'result');
});

test('the noise counts its bursts, and those that fail', async () => {
  const end = (child: ChildProcess): boolean => child.kill('SIGTERM');
  const last = (await runProcess('noise-main', ['--every', '20'], end)).at(-1);
  if (last?.event !== 'noise') throw new Error('no result');
  assert.is(last.failures, 0);
  assert.ok(last.bursts > 0 && last.requests === last.bursts * 800, JSON.stringify(last));

  const refused = (await runProcess('noise-main', ['--port', '1', '--limit', '300'], end)).at(-1);
  if (refused?.event !== 'noise') throw new Error('no result');
  assert.ok(refused.failures > 0 && refused.failures === refused.bursts, JSON.stringify(refused));
});

test('wrong arguments are an error event and exit status 2', async () => {
  const { status, stdout } = spawnSync(process.execPath, [main('verifying-client-main')], { encoding: 'utf8' });
  assert.is(status, 2);
  assert.is(clientEvent.parse(JSON.parse(stdout)).event, 'error');
});

function main(name: string): string {
  return projectFile(`dist/cli/demo/${name}.js`);
}

/** Runs a load process for a little more than a second, then has `stop` end it; returns its events. */
async function runProcess(
  name: string,
  args: readonly string[],
  stop: (child: ChildProcess) => unknown,
): Promise<ClientEvent[]> {
  const child = spawn(process.execPath, [main(name), '--host', '127.0.0.1', ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  await sleep(1200);
  stop(child);
  const [status] = await once(child, 'close');
  assert.is(status, 0, text.slice(-500));
  return text
    .trim()
    .split('\n')
    .map((line) => clientEvent.parse(JSON.parse(line)));
}

test.run();
