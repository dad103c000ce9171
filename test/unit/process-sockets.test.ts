import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import * as assert from 'uvu/assert';
import { parseSocket, readInternetSockets, TCP_STATES, type TransportName } from '../../cli/process/sockets.js';
import { test } from '../suite.js';

interface Printed {
  readonly ends: readonly [readonly number[], readonly number[]];
  readonly ports: readonly [number, number];
  readonly state: number;
  readonly cookie: bigint;
  readonly queues: readonly [number, number];
  readonly uid: number;
  readonly inode: number;
}

/** What the kernel answers for a socket: `struct inet_diag_msg`, and an attribute that nobody asked for. */
function answerOf({ ends, ports, state, cookie, queues, uid, inode }: Printed): Buffer {
  const answer = Buffer.alloc(72, 0);
  answer.writeUInt8(ends[0].length === 4 ? 2 : 10, 0);
  answer.writeUInt8(state, 1);
  ports.forEach((port, end) => {
    answer.writeUInt16BE(port, 4 + 2 * end);
  });
  ends.forEach((address, end) => {
    answer.set(address, 8 + 16 * end);
  });
  answer.writeBigUInt64LE(cookie, 44);
  [queues[0], queues[1], uid, inode].forEach((value, field) => {
    answer.writeUInt32LE(value, 56 + 4 * field);
  });
  return Buffer.concat([answer, Buffer.from([5, 0, 8, 0, 1, 0, 0, 0])]);
}

/** A connection of a real kernel, 6.18, asked by family 2, protocol 6. */
const ESTABLISHED = Buffer.from(
  '02010000a4599e467f0000010000000000000000000000007f000001000000000000000000000000000000007bcc09000000000000000000000000000000000000000000' +
    '5a5cf501',
  'hex',
);

test('reads a connection as the kernel answers it', () => {
  assert.equal(parseSocket('tcp', ESTABLISHED), {
    transport: 'tcp',
    local: { address: '127.0.0.1', port: 42073 },
    remote: { address: '127.0.0.1', port: 40518 },
    state: 'ESTABLISHED',
    receiveQueue: 0,
    inode: 0x01f55c5a,
  });
});

test('a state that the kernel may invent later is NONE, not a crash', () => {
  const answer = Buffer.from(ESTABLISHED);
  answer.writeUInt8(31, 1);
  assert.is(parseSocket('tcp', answer).state, 'NONE');
});

/** The address in words, by somebody else's library. */
function name(bytes: readonly number[]): string {
  const address = ipaddr.fromByteArray([...bytes]);
  if (address instanceof ipaddr.IPv6) {
    return address.isIPv4MappedAddress() ? address.toIPv4Address().toString() : address.toNormalizedString();
  }
  return address.toString();
}

/** Nobody accepts their connections, nor reads the datagrams. */
const IDLE_LISTENERS = `
import socket, sys
four = socket.create_server(('127.0.0.1', 0))
six = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(four.getsockname())
clients = [socket.create_connection(('127.0.0.1', one.getsockname()[1])) for one in (four, six)]
clients[0].send(b'abc')
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', four.getsockname())
print(four.getsockname()[1], six.getsockname()[1], flush=True)
sys.stdin.readline()
`;

const byte = fc.integer({ min: 0, max: 255 });
const four = fc.array(byte, { minLength: 4, maxLength: 4 });
const sixteen = fc.oneof(
  fc.array(byte, { minLength: 16, maxLength: 16 }),
  four.map((last) => [...Array<number>(10).fill(0), 0xff, 0xff, ...last]),
);
const port = fc.integer({ min: 0, max: 65535 });

test('any socket that the kernel can answer comes back as it was', () => {
  const socket = fc.record({
    ends: fc.oneof(fc.tuple(four, four), fc.tuple(sixteen, sixteen)),
    protocol: fc.constantFrom('tcp' as const, 'udp' as const),
    ports: fc.tuple(port, port),
    state: fc.integer({ min: 1, max: TCP_STATES.length - 1 }),
    cookie: fc.bigInt({ min: 0n, max: 0xffffffffffffffffn }),
    queues: fc.tuple(fc.nat(0xffffffff), fc.nat(0xffffffff)),
    uid: fc.nat(0xffffffff),
    inode: fc.nat(0xffffffff),
  });
  fc.assert(
    fc.property(socket, ({ protocol, ...printed }) => {
      const [local, remote] = printed.ends;
      const transport: TransportName = local.length === 4 ? protocol : `${protocol}6`;
      assert.equal(parseSocket(transport, answerOf(printed)), {
        transport,
        local: { address: name(local), port: printed.ports[0] },
        remote: { address: name(remote), port: printed.ports[1] },
        state: TCP_STATES[printed.state],
        receiveQueue: printed.queues[0],
        inode: printed.inode,
        ...(TCP_STATES[printed.state] === 'LISTEN' ? { cookie: printed.cookie.toString(16).padStart(16, '0') } : {}),
      });
    }),
    { numRuns: 500 },
  );
});

test('a listener with the connections that nobody has accepted, and they wait in its queue', async () => {
  const child = spawn('python3', ['-c', IDLE_LISTENERS], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
    const [four = 0, six = 0] = line.split(' ').map(Number);
    const found = readInternetSockets(child.pid ?? 0).filter(({ local }) => local.port === four || local.port === six);
    const seen = found.map(
      ({ transport, local, state, receiveQueue }) =>
        `${transport} ${local.address} ${local.port === four ? 'v4' : 'v6'} ${state} ${transport === 'udp' ? receiveQueue > 0 : receiveQueue}`,
    );
    assert.equal(seen.sort(), [
      'tcp 127.0.0.1 v4 ESTABLISHED 3', // sent, and read by nobody
      'tcp 127.0.0.1 v4 LISTEN 1',
      'tcp6 0:0:0:0:0:0:0:0 v6 LISTEN 1',
      'tcp6 127.0.0.1 v6 ESTABLISHED 0', // by IPv4, of an IPv6 socket
      'udp 127.0.0.1 v4 CLOSE true', // the room that they take, not their bytes
    ]);
  } finally {
    child.kill('SIGKILL');
  }
});

test('the sockets of some transports only, or of all', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  // others come and go meanwhile
  const ours = ({ local, state }: { local: { port: number }; state: string }): boolean =>
    local.port === port && state === 'LISTEN';
  const here = readInternetSockets(process.pid).filter(ours);
  assert.is(here.length, 1);
  assert.equal(readInternetSockets(process.pid, ['tcp']).filter(ours), here);
  assert.equal(readInternetSockets(process.pid, ['tcp6', 'udp', 'udp6']).filter(ours), []);
  assert.equal(readInternetSockets(process.pid, ['tcp'], ['LISTEN']).filter(ours), here);
  assert.equal(readInternetSockets(process.pid, ['tcp'], ['FIN_WAIT1', 'CLOSING']).filter(ours), []);
  server.close();
});

test('a process that is gone has no sockets', () => {
  const nobody = 2 ** 22 + 1; // beyond the largest pid
  assert.equal(readInternetSockets(nobody), []);
});

test.run();
