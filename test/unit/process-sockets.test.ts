import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseSocketLine, readInternetSockets, TCP_STATES, type TransportName } from '../../cli/process/sockets.js';

// Lines of a real kernel, 6.18.
const LISTENER =
  '   0: 0100007F:18EB 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 30211 1 00000000ba9d2b4a 100 0 0 10 0';
const ESTABLISHED =
  '  12: 02004D0A:18EB 01004D0A:C6FE 01 00000010:00000020 02:000A7A1D 00000000  1000        0 31337 2 000000004d5ae1b6 20 4 30 10 -1';
const TIME_WAIT =
  '   3: 02004D0A:18EB 01004D0A:C700 06 00000000:00000000 03:00000B4B 00000000     0        0 0 3 0000000041ba7f7c';
const MAPPED =
  '   1: 0000000000000000FFFF000002004D0A:1F90 0000000000000000FFFF000001004D0A:D431 01 00000000:00000000 00:00000000 00000000     0        0 40404 1 00000000f8d0c9ee 20 0 0 10 -1';
const WILDCARD6 =
  '   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0000000000000000 100 0 0 10 0';
const GLOBAL6 =
  '   5: B80D0120000000000000000001000000:0035 B80D0120000000000000000002000000:D903 01 00000000:00000000 00:00000000 00000000     0        0 777 2 0000000000000000 0';

test('reads a listener with the connections that nobody has accepted', () => {
  assert.equal(parseSocketLine('tcp', LISTENER), {
    transport: 'tcp',
    local: { address: '127.0.0.1', port: 6379 },
    remote: { address: '0.0.0.0', port: 0 },
    state: 'LISTEN',
    receiveQueue: 3,
    inode: 30211,
  });
});

test('reads a connection: both ends, and the queue that waits to be received, not the one to be sent', () => {
  const socket = parseSocketLine('tcp', ESTABLISHED);
  assert.equal(socket?.local, { address: '10.77.0.2', port: 6379 });
  assert.equal(socket?.remote, { address: '10.77.0.1', port: 50942 });
  assert.is(socket?.state, 'ESTABLISHED');
  assert.is(socket?.receiveQueue, 0x20);
  assert.is(socket?.inode, 31337);
});

test('a connection in TIME_WAIT belongs to nobody', () => {
  const socket = parseSocketLine('tcp', TIME_WAIT);
  assert.is(socket?.state, 'TIME_WAIT');
  assert.is(socket?.inode, 0);
});

test('an IPv4 connection of an IPv6 socket has IPv4 addresses', () => {
  const socket = parseSocketLine('tcp6', MAPPED);
  assert.equal(socket?.local, { address: '10.77.0.2', port: 8080 });
  assert.equal(socket?.remote, { address: '10.77.0.1', port: 54321 });
});

test('reads IPv6 addresses: the wildcard and global ones', () => {
  assert.is(parseSocketLine('tcp6', WILDCARD6)?.local.address, '0:0:0:0:0:0:0:0');
  const datagrams = parseSocketLine('udp6', GLOBAL6);
  assert.equal(datagrams?.local, { address: '2001:db8:0:0:0:0:0:1', port: 53 });
  assert.equal(datagrams?.remote, { address: '2001:db8:0:0:0:0:0:2', port: 55555 });
});

test('the empty line at the end of the table is no socket, and a cut line is none', () => {
  assert.is(parseSocketLine('udp', ''), undefined);
  assert.is(parseSocketLine('udp', LISTENER.slice(0, 60)), undefined);
});

test('a state that the kernel may invent later is NONE, not a crash', () => {
  assert.is(parseSocketLine('tcp', LISTENER.replace(' 0A ', ' 1F '))?.state, 'NONE');
});

/** As the kernel prints it: each 32-bit word of the address in host order, little endian. */
function print(bytes: readonly number[]): string {
  const words: string[] = [];
  for (let word = 0; word < bytes.length; word += 4) {
    const swapped = bytes.slice(word, word + 4).reverse();
    words.push(swapped.map((byte) => byte.toString(16).padStart(2, '0').toUpperCase()).join(''));
  }
  return words.join('');
}

/** The address in words, by somebody else's library. */
function name(bytes: readonly number[]): string {
  const address = ipaddr.fromByteArray([...bytes]);
  if (address instanceof ipaddr.IPv6) {
    return address.isIPv4MappedAddress() ? address.toIPv4Address().toString() : address.toNormalizedString();
  }
  return address.toString();
}

const byte = fc.integer({ min: 0, max: 255 });
const four = fc.array(byte, { minLength: 4, maxLength: 4 });
const sixteen = fc.oneof(
  fc.array(byte, { minLength: 16, maxLength: 16 }),
  four.map((last) => [...Array<number>(10).fill(0), 0xff, 0xff, ...last]),
);
const port = fc.integer({ min: 0, max: 65535 });
const hex = (value: number, width: number): string => value.toString(16).toUpperCase().padStart(width, '0');

test('any socket that the kernel can print comes back as it was', () => {
  const socket = fc.record({
    slot: fc.integer({ min: 0, max: 9_999_999 }),
    ends: fc.oneof(fc.tuple(four, four), fc.tuple(sixteen, sixteen)),
    protocol: fc.constantFrom('tcp' as const, 'udp' as const),
    ports: fc.tuple(port, port),
    state: fc.integer({ min: 1, max: TCP_STATES.length - 1 }),
    queues: fc.tuple(fc.nat(0xffffffff), fc.nat(0xffffffff)),
    uid: fc.nat(0xffffffff),
    inode: fc.nat(),
    more: fc.constantFrom('', ' 1 00000000ba9d2b4a 100 0 0 10 0', ' 2 0000000000000000 0'),
  });
  fc.assert(
    fc.property(socket, ({ slot, ends: [local, remote], protocol, ports, state, queues, uid, inode, more }) => {
      const transport: TransportName = local.length === 4 ? protocol : `${protocol}6`;
      const line = [
        `${String(slot).padStart(4)}: ${print(local)}:${hex(ports[0], 4)} ${print(remote)}:${hex(ports[1], 4)}`,
        `${hex(state, 2)} ${hex(queues[0], 8)}:${hex(queues[1], 8)} 00:00000000 00000000`,
        `${String(uid).padStart(5)}        0 ${inode}${more}`,
      ].join(' ');
      assert.equal(parseSocketLine(transport, line), {
        transport,
        local: { address: name(local), port: ports[0] },
        remote: { address: name(remote), port: ports[1] },
        state: TCP_STATES[state],
        receiveQueue: queues[1],
        inode,
      });
    }),
    { numRuns: 500 },
  );
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
  server.close();
});

test('a process that is gone has no sockets', () => {
  const nobody = 2 ** 22 + 1; // beyond the largest pid
  assert.equal(readInternetSockets(nobody), []);
});

test.run();
