import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { requireSamePorts } from '../../cli/migration/drain.js';
import { readSocketDefaults, type SurveyedOptions, surveyTree } from '../../cli/process/socket-survey.js';
import { readInternetSockets, readSocketHolders } from '../../cli/process/sockets.js';
import { suite } from '../suite.js';

/**
 * Listens and is bound in every family and on loopback, says its ports, and opens one more when it is told to: at the wildcard, or
 * a connection with a port of 127.0.0.1.
 */
const PROGRAM = `
import socket, sys
kept = []
def port(family, kind, address):
    s = socket.socket(family, kind)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind((address, 0))
    if kind == socket.SOCK_STREAM: s.listen()
    kept.append(s)
    return s.getsockname()[1]
loopback = [port(socket.AF_INET, socket.SOCK_STREAM, '127.0.0.1')]
kept.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
kept.append(socket.socket(socket.AF_UNIX))
accepted = socket.create_connection(('127.0.0.1', loopback[0]))
port(socket.AF_INET, socket.SOCK_STREAM, '127.0.0.2')
known = loopback + [port(socket.AF_INET, socket.SOCK_STREAM, '0.0.0.0'), port(socket.AF_INET6, socket.SOCK_STREAM, '::'),
         port(socket.AF_INET, socket.SOCK_DGRAM, '0.0.0.0'), port(socket.AF_INET6, socket.SOCK_DGRAM, '::')]
print(*known, flush=True)
to = sys.stdin.readline().strip()
if to:
    kept.append(socket.create_connection(('127.0.0.1', int(to))))
    print(kept[-1].getsockname()[1], flush=True)
else:
    print(port(socket.AF_INET6, socket.SOCK_DGRAM, '::'), flush=True)
sys.stdin.readline()
`;

const test = suite<{ child: ChildProcess; ports: number[] }>('ports of a process that stands still');

/** The numbers of the next line. */
async function numbers(child: ChildProcess): Promise<number[]> {
  let line = '';
  while (!line.endsWith('\n')) {
    const [piece] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
    line += piece.toString();
  }
  return line.trim().split(' ').map(Number);
}

test.before.each(async (context) => {
  context.child = spawn('python3', ['-c', PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  context.ports = await numbers(context.child);
});
test.after.each(({ child }) => {
  child.kill('SIGKILL');
});

async function survey({ pid = 0 }: ChildProcess): Promise<SurveyedOptions[]> {
  return await surveyTree([pid], readSocketDefaults('self'));
}

function requireSame(child: ChildProcess, ports: readonly number[], sockets: readonly SurveyedOptions[]): void {
  requireSamePorts({ localPids: [child.pid ?? 0], ports }, sockets);
}

async function noticed(child: ChildProcess, ports: readonly number[], opened: number | undefined): Promise<void> {
  const sockets = await survey(child);
  try {
    requireSame(child, ports, sockets);
    assert.unreachable('it should have been refused');
  } catch (error) {
    assert.instance(error, UserError);
    assert.is((error as UserError).code, 'OPENED_MEANWHILE');
    assert.match((error as UserError).message, `opened port ${opened} `);
  }
}

test('a port that was opened since the look is noticed, whatever it is of', async ({ child, ports }) => {
  // what is within the tree, its unbound, its unix sockets and those of other loopback addresses are nobody's concern
  requireSame(child, ports, await survey(child));
  child.stdin?.write('\n');
  await noticed(child, ports, (await numbers(child))[0]);
});

test('a connection over loopback with somebody else is noticed, one within the tree is not', async ({
  child,
  ports,
}) => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  try {
    child.stdin?.write(`${(other.address() as AddressInfo).port}\n`);
    await noticed(child, ports, (await numbers(child))[0]);
  } finally {
    other.close();
    child.kill('SIGKILL'); // or the server would not end
  }
});

test('a connection over loopback that nobody in the tree has accepted yet is one within it', async ({
  child,
  ports,
}) => {
  child.stdin?.write(`${ports[1]}\n`); // at a wildcard
  await numbers(child);
  requireSame(child, ports, await survey(child));
});

test('each port that is not known is noticed', async ({ child, ports }) => {
  const sockets = await survey(child);
  for (const left of ports) {
    const known = ports.filter((port) => port !== left);
    assert.throws(() => requireSame(child, known, sockets), new RegExp(` ${left} `));
  }
});

test('a socket says of itself what the kernel says in its tables', async ({ child }) => {
  const pid = child.pid ?? 0;
  const holders = readSocketHolders([pid]);
  const listed = readInternetSockets(pid).filter(({ inode }) => holders.has(inode));
  assert.is(listed.length, 7);
  const asked = new Map((await survey(child)).map(({ fd, local }) => [fd, local]));
  for (const { inode, local } of listed) assert.equal(asked.get(holders.get(inode)?.fd ?? -1), local);
});

test('a process that is gone has opened nothing', async ({ child }) => {
  child.kill('SIGKILL');
  await once(child, 'exit');
  requireSame(child, [], await survey(child));
});

test.run();
