import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { setSocketsOption } from '../../addon/lib/index.js';
import { readOptions, reappliedOptions, restoreOptions, writeOptions } from '../../cli/migration/carried-options.js';
import { congestionVerdicts } from '../../cli/migration/room-verdicts.js';
import { readSocketDefaults, surveyTree } from '../../cli/process/socket-survey.js';
import { suite } from '../suite.js';

/** Sets options that CRIU forgets, says the numbers of the descriptors, and waits. */
const PROGRAM = `
import os, socket, sys
listener = socket.socket()
listener.setsockopt(6, 18, 4321)
listener.setsockopt(6, 9, 3)
listener.listen()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.setsockopt(0, 10, 2)
datagrams.setsockopt(0, 4, bytes([1, 1, 1, 0]))
datagrams.setsockopt(17, 100, 2)
datagrams.setsockopt(0, 50, socket.htonl(1))
plain = socket.socket()
raw = os.dup(plain.fileno())
print(listener.fileno(), datagrams.fileno(), plain.fileno(), flush=True)
sys.stdin.readline()
`;
const TCP = 6;
const USER_TIMEOUT = 18;

interface Context {
  child: ChildProcess;
  pid: number;
  fds: number[];
  folder: string;
}
const test = suite<Context>('options that travel beside the images');

test.before.each(async (context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'homeproxy-options-'));
  context.child = spawn('python3', ['-c', PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  let line = '';
  while (!line.endsWith('\n')) {
    const [piece] = (await once(context.child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
    line += piece.toString();
  }
  context.pid = context.child.pid ?? 0;
  context.fds = line.trim().split(' ').map(Number);
});
test.after.each(({ child, folder }) => {
  child.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/** The options that were set on the sockets of the program, by descriptor. */
async function setOf(pid: number): Promise<Record<number, string[]>> {
  const sockets = await surveyTree([pid], readSocketDefaults('self'));
  return Object.fromEntries(sockets.map(({ fd, options }) => [fd, options.map(({ option }) => option.name)]));
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

async function write({ pid, folder }: Context): Promise<void> {
  const defaults = readSocketDefaults('self');
  writeOptions(folder, await surveyTree([pid], defaults), defaults);
}

/** Changes the file on its way. */
function alter({ folder }: Context, change: (text: string) => string): void {
  const path = join(folder, 'socket-options.json');
  const text = readFileSync(path, 'utf8');
  assert.is.not(change(text), text);
  writeFileSync(path, change(text));
}

test('each socket is asked once, and only what was set is named', async ({ pid, fds }) => {
  const [listener = 0, datagrams = 0, plain = 0] = fds;
  const set = await setOf(pid);
  assert.equal(set[listener]?.sort(), ['TCP_DEFER_ACCEPT', 'TCP_USER_TIMEOUT']);
  assert.equal(set[datagrams]?.sort(), ['IP_MTU_DISCOVER', 'IP_OPTIONS', 'IP_UNICAST_IF', 'UDP_ENCAP']);
  assert.equal([set[plain] ?? set[plain + 1], Object.keys(set).length], [[], 3]);
});

test('what was set is set again, but for the number of an interface', async (context) => {
  const { pid, fds, folder } = context;
  const [listener = 0, datagrams = 0] = fds;
  await write(context);
  for (const [level, option] of [
    [TCP, USER_TIMEOUT],
    [TCP, 9],
  ] as const) {
    assert.equal(setSocketsOption(pid, [listener], level, option, number(0)), []);
  }
  assert.equal(setSocketsOption(pid, [datagrams], 0, 10, number(1)), []);
  assert.equal(setSocketsOption(pid, [datagrams], 0, 50, number(0)), []);
  assert.equal(setSocketsOption(pid, [datagrams], 0, 4, Buffer.alloc(0)), []);
  assert.equal((await setOf(pid))[listener], []);
  assert.equal(restoreOptions(await readOptions(folder, readSocketDefaults(pid)), [pid]), []);
  assert.equal(reappliedOptions(folder, []).sort(), [
    'IP_MTU_DISCOVER (2), 1 socket',
    'IP_OPTIONS (01010100), 1 socket',
    'TCP_DEFER_ACCEPT (3), 1 socket',
    'TCP_USER_TIMEOUT (4321), 1 socket',
    'UDP_ENCAP (2), 1 socket',
  ]);
  const set = await setOf(pid);
  assert.equal(set[listener]?.sort(), ['TCP_DEFER_ACCEPT', 'TCP_USER_TIMEOUT']);
  assert.equal(set[datagrams]?.sort(), ['IP_MTU_DISCOVER', 'IP_OPTIONS', 'UDP_ENCAP']);
});

test('what nobody has set stays as it was there, where new sockets are otherwise', async (context) => {
  const { pid, fds, folder } = context;
  await write(context);
  alter(context, (text) => text.replace(/("listener4":\{[^}]*"TCP_SYNCNT":")06/, '$103')); // net.ipv4.tcp_syn_retries was 3
  assert.equal(restoreOptions(await readOptions(folder, readSocketDefaults(pid)), [pid]), []);
  assert.ok((await setOf(pid))[fds[0] ?? 0]?.includes('TCP_SYNCNT'));
});

test('what cannot be set is told in words, and the rest is set', async (context) => {
  const { pid, folder, fds } = context;
  await write(context);
  const name = Buffer.from('nosuch\0').toString('hex');
  alter(context, (text) =>
    text.replace('"TCP_USER_TIMEOUT":"e1100000"', `"TCP_CONGESTION":"${name}","NOT_KNOWN":"01"`),
  );
  assert.equal(setSocketsOption(pid, [fds[0] ?? 0], TCP, 9, number(0)), []);
  const told = restoreOptions(await readOptions(folder, readSocketDefaults(pid)), [pid]);
  assert.equal(told, ['TCP_CONGESTION (nosuch): ENOENT; 1 socket', 'NOT_KNOWN (01): unknown here; 1 socket']);
  assert.ok((await setOf(pid))[fds[0] ?? 0]?.includes('TCP_DEFER_ACCEPT'));
  const again = reappliedOptions(folder, told).map((words) => words.split(' ')[0]);
  assert.equal(again.sort(), ['IP_MTU_DISCOVER', 'IP_OPTIONS', 'TCP_DEFER_ACCEPT', 'UDP_ENCAP']);
});

test('without the file nothing is set', async ({ folder, pid }) => {
  assert.equal(restoreOptions(await readOptions(folder, readSocketDefaults(pid)), [pid]), []);
});

test('a congestion control that the destination does not have is no reason to stay', () => {
  const [verdict, ...more] = congestionVerdicts(['reno', 'nosuch']);
  assert.equal(more, []);
  assert.equal(
    [verdict?.outcome, verdict?.code, verdict?.subject],
    ['will-change', 'SOCKET_OPTION', 'TCP_CONGESTION nosuch'],
  );
});

test.run();
