import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import * as assert from 'uvu/assert';
import { z } from 'zod';
import { ExternalError, HomeproxyError, UserError } from '../../cli/errors.js';
import { callControl, streamControl } from '../../cli/node/control-client.js';
import {
  type ControlContext,
  type ControlServer,
  type ControlServerOptions,
  createControlServer,
} from '../../cli/node/control-server.js';
import { defineEventMethod, defineMethod, serve, serveEvents } from '../../cli/node/method.js';
import { suite } from '../suite.js';
import { refuse, throwKind, Waiting, wait } from './transport-fixtures.js';

const status = defineMethod({
  name: 'status',
  request: z.object({ verbose: z.boolean().default(false) }),
  response: z.object({ packets: z.coerce.bigint(), verbose: z.boolean() }),
});

const move = defineEventMethod({
  name: 'move',
  request: z.object({ pid: z.int(), outcome: z.enum(['done', 'user', 'bug', 'wait', 'flood']) }),
  event: z.object({ phase: z.string() }),
  response: z.object({ host: z.string() }),
});

interface World {
  folder: string;
  path: string;
}

const test = suite<World>('control transport');
const servers: ControlServer[] = [];

test.before.each((world) => {
  world.folder = mkdtempSync(join(tmpdir(), 'hp-control-'));
  world.path = join(world.folder, 'run', 'control.sock');
});

test.after.each(async (world) => {
  for (const server of servers.splice(0)) await server.close(0);
  rmSync(world.folder, { recursive: true, force: true });
});

async function server(path: string, waiting = new Waiting(), options: Partial<ControlServerOptions> = {}) {
  const made = await createControlServer({
    path,
    methods: [
      serve(status, async (request) => ({ packets: 2n ** 60n, verbose: request.verbose })),
      serve(refuse, async (request) => throwKind(request.kind)),
      serve(wait, async (_request, context: ControlContext) => waiting.run(context.signal)),
    ],
    eventMethods: [
      serveEvents(move, async (request, context: ControlContext, emit) => {
        context.about.migration = 'm-1';
        emit({ phase: 'prepare' });
        emit({ phase: 'freeze' });
        if (request.outcome === 'user' || request.outcome === 'bug') throwKind(request.outcome);
        if (request.outcome === 'wait') {
          await waiting.run(context.signal).catch(() => undefined);
          emit({ phase: 'rollback' });
          throw new UserError({ code: 'ROLLED_BACK', message: 'it runs where it was', exitStatus: 6 });
        }
        if (request.outcome === 'flood') for (let i = 0; i < 40_000; i++) emit({ phase: 'x'.repeat(1000) });
        return { host: 'host1' };
      }),
    ],
    ...options,
  });
  servers.push(made);
  return made;
}

async function failure(promise: Promise<unknown>): Promise<HomeproxyError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, HomeproxyError, String(error));
    return error as HomeproxyError;
  }
  return assert.unreachable('it should have failed') as never;
}

test('a call is answered, defaults filled in, 64-bit numbers intact', async ({ path }) => {
  await server(path);
  assert.equal(await callControl(path, status, {}), { packets: 2n ** 60n, verbose: false });
});

test('the socket is for its owner only, in a folder for its owner only', async ({ path, folder }) => {
  const before = process.umask(0);
  try {
    await server(path);
    assert.is(process.umask(), 0, 'the umask is as it was');
  } finally {
    process.umask(before);
  }
  assert.is(statSync(path).mode & 0o777, 0o600);
  assert.is(statSync(join(folder, 'run')).mode & 0o777, 0o700);
});

test('a folder that others could enter is closed to them', async ({ path, folder }) => {
  mkdirSync(join(folder, 'run'));
  chmodSync(join(folder, 'run'), 0o755);
  await server(path);
  assert.is(statSync(join(folder, 'run')).mode & 0o777, 0o700);
});

test('a link or a file in place of the folder is refused', async ({ path, folder }) => {
  mkdirSync(join(folder, 'elsewhere'));
  symlinkSync(join(folder, 'elsewhere'), join(folder, 'run'));
  assert.is((await failure(server(path))).code, 'RUN_FOLDER_UNSAFE');
});

test('another user cannot connect', async ({ path, folder }) => {
  if (process.getuid?.() !== 0) return;
  chmodSync(folder, 0o755);
  await server(path);
  chmodSync(join(folder, 'run'), 0o755); // even then
  const script = `require('node:net').connect(${JSON.stringify(path)}).on('error', (e) => { console.log(e.code); })
    .on('connect', () => { console.log('connected'); process.exit(); })`;
  const child: ChildProcess = spawn(process.execPath, ['-e', script], {
    uid: 65_534,
    gid: 65_534,
    stdio: 'pipe',
    cwd: '/',
  });
  let output = '';
  child.stdout?.on('data', (data) => {
    output += data;
  });
  await once(child, 'close');
  assert.is(output.trim(), 'EACCES');
});

test('a second daemon is refused and the first goes on', async ({ path, folder }) => {
  await server(path);
  const error = await failure(server(path));
  assert.equal([error.code, error.exitStatus], ['DAEMON_RUNNING', 2]);
  assert.is((await callControl(path, status, {})).verbose, false);
  assert.equal(readdirSync(join(folder, 'run')), ['control.sock']);
});

test('the socket that a killed daemon left is replaced; a closed daemon leaves none', async ({ path, folder }) => {
  mkdirSync(join(folder, 'run'));
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  await once(spawn(process.execPath, ['-e', script]), 'close');
  assert.ok(existsSync(path));
  const made = await server(path);
  await callControl(path, status, {});
  await made.close();
  assert.equal(readdirSync(join(folder, 'run')), []);
});

test('a path that no socket can have is refused before anything is made', async ({ folder }) => {
  const path = join(folder, 'x'.repeat(100), 'control.sock');
  const error = await failure(server(path));
  assert.equal([error.code, error.exitStatus], ['SOCKET_PATH_TOO_LONG', 2]);
  assert.not(existsSync(join(folder, 'x'.repeat(100))));
});

test('without a daemon: DAEMON_DOWN, exit 7, remedy homeproxy up', async ({ path, folder }) => {
  const absent = await failure(callControl(path, status, {}));
  assert.equal([absent.code, absent.exitStatus, absent.remedy], ['DAEMON_DOWN', 7, 'homeproxy up']);
  mkdirSync(join(folder, 'run'));
  writeFileSync(path, '');
  assert.is((await failure(callControl(path, status, {}))).code, 'DAEMON_DOWN');
  assert.is(
    (await failure(streamControl(path, move, { pid: 1, outcome: 'done' }, () => undefined))).code,
    'DAEMON_DOWN',
  );
});

test('errors come back as the same kind', async ({ path }) => {
  await server(path);
  const error = (await failure(callControl(path, refuse, { kind: 'external' }))) as ExternalError;
  assert.instance(error, ExternalError);
  assert.equal(error.log, ['Error: x']);
  assert.is((await failure(callControl(path, refuse, { kind: 'user' }))).exitStatus, 3);
});

test('unknown methods and requests of another shape are refused', async ({ path }) => {
  await server(path);
  const unknown = defineMethod({ name: 'unknown', request: z.object({}), response: z.object({}) });
  assert.is((await failure(callControl(path, unknown, {}))).code, 'METHOD_UNKNOWN');
  assert.is((await failure(callControl(path, status, { verbose: 'yes' } as never))).code, 'REQUEST_INVALID');
  const shape = await failure(streamControl(path, move, { pid: 'x' } as never, () => undefined));
  assert.is(shape.code, 'REQUEST_INVALID');
  const large = await failure(callControl(path, status, { verbose: 'x'.repeat(2 << 20) } as never));
  assert.is(large.code, 'REQUEST_TOO_LARGE');
});

test('events arrive in order, before the result', async ({ path }) => {
  await server(path);
  const phases: string[] = [];
  const result = await streamControl(path, move, { pid: 1, outcome: 'done' }, (event) => phases.push(event.phase));
  assert.equal(phases, ['prepare', 'freeze']);
  assert.equal(result, { host: 'host1' });
});

test('an event arrives when it happens, not with the result', async ({ path }) => {
  const waiting = new Waiting();
  await server(path, waiting);
  const controller = new AbortController();
  const began = Date.now();
  let first = 0;
  await failure(
    streamControl(
      path,
      move,
      { pid: 1, outcome: 'wait' },
      () => {
        first ||= Date.now() - began;
        setTimeout(() => controller.abort(), 300);
      },
      controller.signal,
    ),
  );
  assert.ok(first < 250, `the first event came after ${first} ms`);
});

test('an error after events comes back as itself', async ({ path }) => {
  await server(path);
  for (const [outcome, code] of [
    ['user', 'PROCESS_UNKNOWN'],
    ['bug', 'BUG'],
  ] as const) {
    const phases: string[] = [];
    const error = await failure(streamControl(path, move, { pid: 1, outcome }, (event) => phases.push(event.phase)));
    assert.is(error.code, code);
    assert.equal(phases, ['prepare', 'freeze']);
  }
});

test('an aborted command aborts the handler, and still hears how the rollback ended', async ({ path }) => {
  const waiting = new Waiting();
  await server(path, waiting);
  const controller = new AbortController();
  const phases: string[] = [];
  const onEvent = (event: { phase: string }) => phases.push(event.phase);
  const call = failure(streamControl(path, move, { pid: 1, outcome: 'wait' }, onEvent, controller.signal));
  await waiting.started;
  controller.abort();
  assert.is(((await waiting.ended) as UserError).code, 'INTERRUPTED');
  const error = await call;
  assert.equal([error.code, error.exitStatus], ['ROLLED_BACK', 6]);
  assert.equal(phases, ['prepare', 'freeze', 'rollback']);
});

test('a command that was killed aborts the handler', async ({ path }) => {
  const waiting = new Waiting();
  await server(path, waiting);
  const socket = connect(path);
  const line = JSON.stringify({ pid: 1, outcome: 'wait' });
  socket.write(`POST /v1/move HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n${line}\n`);
  await waiting.started;
  socket.destroy();
  assert.is(((await waiting.ended) as UserError).code, 'CALLER_GONE');
});

test("aborting a short call throws the signal's reason and aborts its handler", async ({ path }) => {
  const waiting = new Waiting();
  await server(path, waiting);
  const controller = new AbortController();
  const call = failure(callControl(path, wait, {}, { signal: controller.signal }));
  await waiting.started;
  const reason = new UserError({ code: 'INTERRUPTED', message: 'interrupted', exitStatus: 130 });
  controller.abort(reason);
  assert.is(await call, reason);
  await waiting.ended;
});

test('a daemon that does not answer is named after the time limit', async ({ path }) => {
  await server(path);
  const error = await failure(callControl(path, wait, {}, { timeoutMs: 100 }));
  assert.equal([error.code, error.exitStatus], ['DAEMON_SILENT', 7]);
});

test('a daemon that ends during a command is DAEMON_LOST, exit 7', async ({ path }) => {
  const waiting = new Waiting();
  const made = await server(path, waiting);
  const call = failure(streamControl(path, move, { pid: 1, outcome: 'wait' }, () => undefined));
  const short = failure(callControl(path, wait, {}));
  await waiting.started;
  await new Promise((resolve) => setTimeout(resolve, 50));
  await made.close(0);
  assert.equal([(await call).code, (await short).code], ['DAEMON_LOST', 'DAEMON_LOST']);
});

test('a terminal that does not read costs events, not memory, and never the result', async ({ path }) => {
  await server(path);
  const socket = connect(path);
  socket.pause();
  const body = `${JSON.stringify({ pid: 1, outcome: 'flood' })}\n`;
  socket.write(`POST /v1/move HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  await new Promise((resolve) => setTimeout(resolve, 200));
  let received = '';
  socket.on('data', (data) => {
    received += data;
  });
  socket.resume();
  await once(socket, 'close');
  assert.ok(received.length < 4 << 20, `${received.length} bytes`);
  assert.match(received, '{"result":{"host":"host1"}}');
});

test('something else on the socket is incompatible, not a crash', async ({ path, folder }) => {
  mkdirSync(join(folder, 'run'));
  const other = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end('HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello\n');
  });
  other.listen(path);
  await once(other, 'listening');
  try {
    assert.is((await failure(callControl(path, status, {}))).code, 'INCOMPATIBLE');
    const error = await failure(streamControl(path, move, { pid: 1, outcome: 'done' }, () => undefined));
    assert.is(error.code, 'INCOMPATIBLE');
  } finally {
    other.close();
  }
});

test('a bug in a command is logged with the migration that it was about', async ({ path }) => {
  const lines: string[] = [];
  await server(path, new Waiting(), { logger: pino({}, { write: (line: string) => lines.push(line) }) });
  await failure(streamControl(path, move, { pid: 1, outcome: 'bug' }, () => undefined));
  const { migration, request } = JSON.parse(lines[0] ?? '{}') as Record<string, string>;
  assert.equal([lines.length, migration, request], [1, 'm-1', 'move']);
});

test.run();
