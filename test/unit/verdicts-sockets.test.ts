// limit: 120 s
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { AskedSocket } from '../../cli/process/ask-socket.js';
import { strangeSocket, upperLayer } from '../../cli/process/socket-verdicts.js';
import { readChildren } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, ip } from './private-world.js';
import { examine, HOME, objections, startInState, words } from './verdicts-subject.js';

const test = suite('verdicts on sockets');
/** For unix sockets with a path. */
const sockets = mkdtempSync(join(tmpdir(), 'homeproxy-sockets-'));
test.after(() => rmSync(sockets, { recursive: true }));
const entered = enterPrivateWorld({ processes: false });

interface State {
  readonly what: string;
  readonly source: string;
  readonly verdicts: readonly string[];
  readonly reason?: RegExp;
  /** What CRIU forgets and is set again. */
  readonly again?: RegExp;
}

const BPF_FILTER = `
program = ctypes.create_string_buffer(bytes([0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]))
licence = ctypes.create_string_buffer(b'GPL')
attributes = struct.pack('=IIQQIIQI', 1, 2, ctypes.addressof(program), ctypes.addressof(licence), 0, 0, 0, 0)
filter = call(321, 5, ctypes.create_string_buffer(attributes + bytes(80)), 72)
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.setsockopt(socket.SOL_SOCKET, 50, filter)
os.close(filter)`;

const CLASSIC_FILTER = `
instruction = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0xffff))
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.setsockopt(socket.SOL_SOCKET, 26, struct.pack('=H6xQ', 1, ctypes.addressof(instruction)))`;

const PAIR = `
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]`;

/** What has come is `before!after`, with the mark at the `!`. */
const URGENT = `${PAIR}
for data, flags in ((b'before', 0), (b'!', socket.MSG_OOB), (b'after', 0)): client.send(data, flags)
while len(server.recv(16, socket.MSG_PEEK)) < 6: pass`;
const URGENT_IN_LINE = URGENT.replace(PAIR, `${PAIR}\nserver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)`);

const states: readonly State[] = [
  { what: 'unread data with an urgent byte', source: URGENT, verdicts: ['refused URGENT_DATA'], reason: /urgent/ },
  {
    what: 'an urgent byte that was read, and what comes before it not',
    source: `${URGENT}\nserver.recv(1, socket.MSG_OOB)`,
    verdicts: ['refused URGENT_DATA'],
  },
  { what: 'an urgent byte in line, further on', source: URGENT_IN_LINE, verdicts: ['refused URGENT_DATA'] },
  {
    what: 'an urgent byte in line, where reading goes on',
    source: `${URGENT_IN_LINE}\nserver.recv(6)`,
    verdicts: ['refused URGENT_DATA'],
  },
  {
    what: 'an urgent byte in line that was read, and more that was not',
    source: `${URGENT_IN_LINE}\nserver.recv(6)\nserver.recv(1)`,
    verdicts: [],
  },
  {
    what: 'a Multipath TCP listener',
    source: `held = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\nheld.bind(('${HOME}', 7100))\nheld.listen()`,
    verdicts: ['refused MPTCP'],
    reason: /Multipath TCP/,
  },
  {
    what: 'a Multipath TCP socket that is not bound yet',
    source: 'held = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 262)',
    verdicts: ['refused MPTCP'],
  },
  {
    what: 'a TCP listener that has keys for signatures (TCP-MD5)',
    source: `
held = socket.create_server(('${HOME}', 7117))
address = struct.pack('=H2x4s120x', 2, socket.inet_aton('10.77.0.9'))
held.setsockopt(6, 14, address + struct.pack('=BBHi80s', 0, 0, 3, 0, b'key'))`,
    verdicts: ['refused TCP_MD5'],
    reason: /signed .*keys that CRIU cannot save/,
  },
  {
    what: 'a raw socket',
    source: 'held = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)',
    verdicts: ['refused RAW_SOCKET'],
    reason: /IP protocol 1\b/,
  },
  {
    what: 'a packet socket',
    source: 'held = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)',
    verdicts: ['refused PACKET_SOCKET'],
  },
  {
    what: 'a socket of another family',
    source: 'held = socket.socket(40, socket.SOCK_STREAM)',
    verdicts: ['refused SOCKET_FAMILY'],
    reason: /AF_VSOCK/,
  },
  {
    what: 'a socket that echoes',
    source: `
with open('/proc/sys/net/ipv4/ping_group_range', 'w') as allowed: allowed.write('0 0')
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)`,
    verdicts: ['will-change PING_SOCKET'],
  },
  {
    what: 'a corked UDP socket',
    source: 'held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nheld.setsockopt(17, 1, 1)',
    verdicts: ['refused CORKED_UDP'],
  },
  {
    what: 'a corked UDP socket that is bound',
    source: `held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nheld.bind(('${HOME}', 7101))\nheld.setsockopt(17, 1, 1)`,
    verdicts: ['refused CORKED_UDP'],
  },
  {
    what: 'a socket that is bound to an interface which no pod has',
    source: `held = socket.socket()\nheld.setsockopt(socket.SOL_SOCKET, 25, b'other0')\nheld.bind(('${HOME}', 7102))\nheld.listen()`,
    verdicts: ['refused BOUND_DEVICE'],
    reason: /other0/,
  },
  {
    what: 'a socket that is bound to loopback',
    source:
      "held = socket.socket()\nheld.setsockopt(socket.SOL_SOCKET, 25, b'lo')\nheld.bind(('127.0.0.1', 0))\nheld.listen()",
    verdicts: [],
  },
  { what: 'a socket with an eBPF filter', source: BPF_FILTER, verdicts: ['refused SOCKET_BPF'] },
  { what: 'a socket with a classic filter', source: CLASSIC_FILTER, verdicts: [] },
  {
    what: 'a netlink socket that asks only',
    source: 'held = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nheld.bind((0, 0))',
    verdicts: [],
  },
  {
    what: 'a netlink socket that hears of links',
    source: 'held = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nheld.bind((0, 1))',
    verdicts: ['will-change NETLINK'],
  },
  {
    what: 'a netlink socket in a group beyond the 32nd',
    source:
      'held = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nheld.bind((0, 0))\nheld.setsockopt(270, 1, 33)',
    verdicts: ['refused NETLINK_GROUPS'],
  },
  {
    what: 'connections whose options CRIU forgets',
    source: `${PAIR}
for held in (client, server):
    held.setsockopt(socket.IPPROTO_TCP, 18, 5000)
listener.setsockopt(socket.IPPROTO_TCP, 9, 3)`,
    verdicts: [],
    again: /TCP_USER_TIMEOUT \(5000\).*TCP_DEFER_ACCEPT \(3\)|TCP_DEFER_ACCEPT \(3\).*TCP_USER_TIMEOUT \(5000\)/,
  },
  {
    what: 'connections with options that CRIU carries',
    source: `${PAIR}
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100000)`,
    verdicts: [],
  },
  {
    what: 'UDP of both families with what QUIC sets',
    source: `
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.bind(('${HOME}', 7103))
four.setsockopt(socket.IPPROTO_IP, 10, 2)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.bind(('::', 7104))
six.setsockopt(socket.IPPROTO_IPV6, 25, 1)`,
    verdicts: [],
    again: /IP_MTU_DISCOVER \(2\), IPV6_RECVERR \(1\)/,
  },
  {
    what: 'a socket that sends through one interface',
    source: `held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nheld.setsockopt(socket.IPPROTO_IP, 50, socket.htonl(1))`,
    verdicts: ['will-change SOCKET_OPTION'],
    reason: /IP_UNICAST_IF/,
  },
  {
    what: 'listeners and UDP of both families, as they come',
    source: `
held = [socket.create_server(('${HOME}', 7105)), socket.create_server(('::', 7106), family=socket.AF_INET6)]
held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
held[-1].bind(('0.0.0.0', 7107))
held.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
held.append(socket.socket())`,
    verdicts: [],
  },
  {
    what: 'unix sockets that stay in the tree: pairs, an abstract listener and its client, one whose peer is gone',
    source: `
pair = socket.socketpair()
listener = socket.socket(socket.AF_UNIX)
listener.bind('\\0homeproxy-test')
listener.listen()
client = socket.socket(socket.AF_UNIX)
client.connect('\\0homeproxy-test')
server = listener.accept()[0]
widow, gone = socket.socketpair()
gone.close()
loose = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)`,
    verdicts: [],
  },
  {
    what: 'a unix listener with a path',
    source: `
held = socket.socket(socket.AF_UNIX)
held.bind(f'${sockets}/{os.getpid()}')
held.listen()
os.unlink(held.getsockname())`,
    verdicts: ['will-change UNIX_LISTENER'],
  },
  {
    what: 'a unix listener with a connection that nobody accepts and whose client is gone',
    source: `
held = socket.socket(socket.AF_UNIX)
held.bind('\\0homeproxy-backlog')
held.listen()
client = socket.socket(socket.AF_UNIX)
client.connect('\\0homeproxy-backlog')
client.close()`,
    verdicts: ['refused UNIX_BACKLOG'],
  },
];

for (const { what, source, verdicts: expected, reason, again = /^$/ } of states) {
  test(`${what}: ${expected.join(', ') || 'nothing against it'}`, async () => {
    const subject = await startInState(source);
    try {
      const { verdicts } = await examine(subject.pid);
      assert.equal(words(verdicts), [...expected], JSON.stringify(objections(verdicts), undefined, 1));
      const options = verdicts.filter(({ outcome, code }) => outcome === 'ok' && code === 'SOCKET_OPTION');
      assert.match(options.map((verdict) => verdict.reason).join('; '), again);
      for (const verdict of objections(verdicts)) {
        assert.match(verdict.subject, new RegExp(`fd \\d+ of pid ${subject.pid}\\b`));
        if (reason !== undefined) assert.match(verdict.reason, reason);
        if (verdict.outcome === 'refused') assert.ok((verdict.remedy ?? '').length > 5);
      }
    } finally {
      subject.kill();
    }
  });
}

/** A service outside the tree: a datagram socket like /dev/log's, a listener that accepts, and one that does not. */
const SERVICE = `
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind('${sockets}/log')
listener = socket.socket(socket.AF_UNIX)
listener.bind('${sockets}/stream')
listener.listen()
idle = socket.socket(socket.AF_UNIX)
idle.bind('${sockets}/idle')
idle.listen()
with open('/proc/self/comm', 'w') as comm: comm.write('ready')
held = [listener.accept() for _ in range(9)]`;

test('a socket that sends to a service, as to /dev/log, is connected again; half of a stream is refused, also one that nobody has accepted', async () => {
  const service = await startInState(SERVICE);
  const client = await startInState(`
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.connect('${sockets}/log')
stream = socket.socket(socket.AF_UNIX)
stream.connect('${sockets}/stream')
waiting = socket.socket(socket.AF_UNIX)
waiting.connect('${sockets}/idle')`);
  try {
    const { verdicts, needs } = await examine(client.pid);
    const half = 'refused FOREIGN_UNIX_SOCKET';
    assert.equal(words(verdicts).sort(), [half, half, 'will-change UNIX_DATAGRAMS']);
    const reasons = verdicts.flatMap(({ outcome, reason }) => (outcome === 'refused' ? [reason] : []));
    for (const name of ['stream', 'idle']) {
      const who = new RegExp(`${sockets}/${name} with pid ${service.pid} \\(ready\\)`);
      assert.is(reasons.filter((reason) => who.test(reason)).length, 1, `${name}: ${reasons}`);
    }
    assert.equal(
      needs.files.filter(({ use }) => use === 'peer').map(({ path }) => path),
      [`${sockets}/log`],
    );
  } finally {
    service.kill();
    client.kill();
  }
});

test('a pair whose other end a process that stays holds is refused; with both in the tree it moves', async () => {
  const subject = await startInState(`
one, other = socket.socketpair()
child = os.fork()
if child == 0:
    one.close()
    os.setsid()
    ready()
other.close()`);
  const [child = 0] = readChildren(subject.pid);
  try {
    const { verdicts } = await examine(subject.pid);
    assert.equal(words(verdicts), []);
    assert.equal(words((await examine(child)).verdicts), ['refused FOREIGN_UNIX_SOCKET']);
  } finally {
    subject.kill();
    process.kill(child, 'SIGKILL'); // it left the group
  }
});

test('what this kernel cannot make: told by the protocol that SO_PROTOCOL answers', () => {
  const socketOf = (protocol: number): AskedSocket => {
    const answers = new Map([
      [39, 2], // SO_DOMAIN: AF_INET
      [38, protocol], // SO_PROTOCOL
      [3, 1], // SO_TYPE: SOCK_STREAM
    ]);
    return { number: (_level: number, option: number) => answers.get(option) } as unknown as AskedSocket;
  };
  for (const [protocol, code, reason] of [
    [132, 'SCTP', /an SCTP socket/],
    [33, 'SOCKET_PROTOCOL', /IP protocol 33/], // DCCP
  ] as const) {
    const [verdict, ...more] = strangeSocket(socketOf(protocol), { pid: 4, fd: 3 });
    assert.equal(more, []);
    assert.equal([verdict?.outcome, verdict?.code, verdict?.subject], ['refused', code, 'fd 3 of pid 4']);
    assert.match(verdict?.reason ?? '', reason);
  }
});

test('kTLS, which this kernel need not have: told by the name of the upper layer that TCP_ULP answers', () => {
  assert.equal(upperLayer('', 'fd 3 of pid 4'), []);
  const [verdict, ...more] = upperLayer('tls', 'fd 3 of pid 4');
  assert.equal(more, []);
  assert.equal([verdict?.outcome, verdict?.code, verdict?.subject], ['refused', 'KTLS', 'fd 3 of pid 4']);
  assert.is(upperLayer('espintcp', 'fd 3 of pid 4')[0]?.code, 'TCP_ULP');
});

test.before(() => {
  if (!entered) return;
  ip('link add other0 type veth peer name other1', `address add ${HOME}/24 dev other0`, 'link set other0 up');
});
test.after(endSubjects);

if (!entered) skip(test, 'verdicts on sockets', 'needs root');
test.run();
