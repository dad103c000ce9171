// limit: 60 s

import * as assert from 'uvu/assert';
import { emptyDatagramQueues, finishHandshakes, nothingUnderway } from '../../cli/migration/drain.js';
import { readInternetSockets } from '../../cli/process/sockets.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, ip, Subject, until } from './private-world.js';
import { HOME, startInState } from './verdicts-subject.js';

const PORT = 7120;
/** A correspondent that is not there, and so never ends its handshake. */
const NOBODY = '10.77.0.99';
const SYN = `
import socket, struct
words = struct.pack('!HHIIBBHHH', 40000, ${PORT}, 1, 0, 5 << 4, 2, 1000, 0, 0)
pseudo = socket.inet_aton('${NOBODY}') + socket.inet_aton('${HOME}') + struct.pack('!HH', 6, len(words)) + words
total = sum(struct.unpack(f'!{len(pseudo) // 2}H', pseudo))
while total >> 16: total = (total & 0xffff) + (total >> 16)
words = words[:16] + struct.pack('!H', ~total & 0xffff) + words[18:]
header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 0, 0, 0, 64, 6, 0, socket.inet_aton('${NOBODY}'), socket.inet_aton('${HOME}'))
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).sendto(header + words, ('${HOME}', 0))`;
const UDP = `import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'late', ('${HOME}', ${PORT}))`;

const test = suite('packets that come though they were to be held back');
const entered = enterPrivateWorld({ processes: false });
test.before(() => {
  if (!entered) return;
  ip('link add other0 type veth peer name other1', `address add ${HOME}/24 dev other0`, 'link set other0 up');
});
test.after(endSubjects);

async function server(): Promise<{ subject: Subject; tree: { localPids: number[]; ports: number[] } }> {
  const subject = await startInState(`
held = socket.create_server(('${HOME}', ${PORT})), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held[1].bind(('${HOME}', ${PORT}))`);
  return { subject, tree: { localPids: [subject.pid], ports: [PORT] } };
}

test('a handshake that began since: the migration is given up, unless it was known to be unfinished', async () => {
  const { subject, tree } = await server();
  const look = await emptyDatagramQueues(tree, 100);
  const { unfinished } = await finishHandshakes(tree, 100);
  await look(unfinished);
  Subject.silent(SYN);
  await until('it has begun', () => readInternetSockets('self', ['tcp'], ['SYN_RECV']).length === 1);
  await rejects(look(unfinished), 'CONNECTED_MEANWHILE');
  const { waitedMs, unfinished: known } = await finishHandshakes(tree, 100);
  assert.ok(waitedMs >= 100);
  await look(known);
  subject.kill();
});

test('a datagram that came since would be lost: the migration is given up', async () => {
  const { subject, tree } = await server();
  const look = await emptyDatagramQueues(tree, 100);
  Subject.silent(UDP);
  await until('it has come', () => readInternetSockets('self', ['udp']).some(({ receiveQueue }) => receiveQueue > 0));
  await rejects(look(new Set()), 'NOT_READING');
  subject.kill();
});

test('nothing can be late for who hears no datagrams, and whose ports were all its own before', async () => {
  const { subject, tree } = await server();
  const port = { protocol: 'tcp' as const, address: HOME, port: PORT, exclusive: true };
  const underway = (pids: readonly number[], given = port, bound = true): boolean =>
    !nothingUnderway({ ports: [given] }, pids, ({ port: asked }) => bound && asked === PORT);
  assert.is(underway(tree.localPids), true); // its second socket
  subject.kill();
  const silent = await startInState(`held = socket.create_server(('${HOME}', ${PORT}))`);
  assert.is(underway([silent.pid]), false);
  assert.is(underway([silent.pid], { ...port, exclusive: false }), true);
  assert.is(underway([silent.pid], { ...port, port: PORT + 1 }), true);
  assert.is(underway([silent.pid], port, false), true);
  silent.kill();
});

async function rejects(promise: Promise<unknown>, code: string): Promise<void> {
  const answer = await promise.then(
    () => 'nothing',
    (error: { code?: string }) => error.code,
  );
  assert.is(answer, code);
}

if (!entered) skip(test, 'packets that come late', 'needs root');
test.run();
