// limit: 120 s
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { decodeAddress, encodeAddress } from '../../cli/forwarding/address.js';
import type { Verdict } from '../../cli/process/description.js';
import { type Inspection, inspectProcess } from '../../cli/process/inspect.js';
import { listProcesses, readProcess, readTree } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, ip, Subject, until } from './private-world.js';

const test = suite('inspection of real processes');
const entered = enterPrivateWorld({ processes: false });

const HOME = '10.77.0.2';
const HOME_6 = 'fd77::2';
const ANOTHER = '10.77.9.9';
const REMOTE = '10.77.0.1';
const REMOTE_6 = 'fd77::1';
let remoteMachine: Subject | undefined;

/** Binds sockets by words like `tcp 10.77.0.2 6379`, or `tcp6 :: 80` for one that takes no IPv4, holds them, and sleeps. */
const PRELUDE = `
import os, socket, sys, time
def bound(kind, address, port):
    kind, only, _ = kind.partition('6')
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    if only: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, port))
    if kind == 'tcp': s.listen(8)
    return s
def ready():
    with open('/proc/self/comm', 'w') as comm: comm.write('ready')
    time.sleep(3600)
`;

function listening(...sockets: readonly string[]): string {
  const calls = sockets.map((words) => {
    const [kind, address, port] = words.split(' ');
    return `bound('${kind}', '${address}', ${port})`;
  });
  return `${PRELUDE}\nheld = [${calls.join(', ')}]\nready()`;
}

async function start(source: string): Promise<Subject> {
  const subject = Subject.silent(source);
  await until('the program is ready', () => readProcess(subject.pid)?.comm === 'ready');
  return subject;
}

function inspect(pid: number, ownPids: readonly number[] = [process.pid]): Inspection {
  return inspectProcess(pid, { homeAddresses: [HOME, HOME_6], ownPids });
}

const codes = (verdicts: readonly Verdict[]): string[] => verdicts.map(({ code }) => code);

/** Runs a body with one program, and ends it after. */
function about(what: string, source: string, body: (pid: number) => void | Promise<void>): void {
  test(what, async () => {
    const subject = await start(source);
    try {
      await body(subject.pid);
    } finally {
      subject.kill();
    }
  });
}

function refusedWith(code: string, pid: number, ownPids?: readonly number[]): void {
  assert.throws(
    () => inspect(pid, ownPids),
    (error: unknown) => error instanceof UserError && error.code === code && error.exitStatus === 3,
  );
}

test.before(async () => {
  remoteMachine = await start(`${PRELUDE}\nimport ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\nready()`);
  ip('link add away0 type veth peer name away1', `address add ${HOME}/24 dev away0`);
  ip(
    `address add ${HOME_6}/64 dev away0 nodad`,
    `address add ${ANOTHER}/32 dev away0`,
    'link set away0 up',
    'link set away1 up',
  );
  ip(`link set away1 netns ${remoteMachine.pid}`);
  const there = ['-t', String(remoteMachine.pid), '-n', '--', 'ip'];
  execFileSync('nsenter', [...there, 'address', 'add', `${REMOTE}/24`, 'dev', 'away1']);
  execFileSync('nsenter', [...there, 'address', 'add', `${REMOTE_6}/64`, 'dev', 'away1', 'nodad']);
  execFileSync('nsenter', [...there, 'link', 'set', 'away1', 'up']);
});
test.after(endSubjects);

about(
  'a server alone on its ports moves with them, and one entry stands for each',
  listening(`tcp ${HOME} 6379`, `udp ${HOME} 5353`),
  (pid) => {
    const { description, verdicts, localPids } = inspect(pid);
    assert.equal(verdicts, []);
    assert.equal(localPids, [pid]);
    assert.equal(description.ports, [
      { protocol: 'tcp', address: HOME, port: 6379, exclusive: true },
      { protocol: 'udp', address: HOME, port: 5353, exclusive: true },
    ]);
    assert.equal(description.flows, []);
    assert.is(description.listeners, 1);
    assert.is(description.connections, 0);
    assert.is(description.comm, 'ready');
    assert.match(description.commandLine, /python3? .*-c/);
    assert.ok(description.executables[0]?.startsWith('/'));
    assert.ok(description.residentBytes > 1e6, `${description.residentBytes} bytes`);
  },
);

const portsOf = (pid: number): string[] =>
  inspect(pid).description.ports.map(
    ({ protocol, address, port, exclusive }) => `${protocol} ${address} ${port}${exclusive ? '' : ' shared'}`,
  );

about(
  'a wildcard is the port at every home address that it takes: of IPv4, of both families, of IPv6 alone',
  listening('tcp 0.0.0.0 7001', 'tcp :: 7002', 'udp :: 7002', 'tcp6 :: 7003', `udp ${HOME_6} 7004`),
  (pid) => {
    assert.equal(inspect(pid).verdicts, []);
    assert.equal(portsOf(pid).sort(), [
      `tcp ${HOME} 7001`,
      `tcp ${HOME} 7002`,
      'tcp 127.0.0.1 7001',
      'tcp 127.0.0.1 7002',
      'tcp ::1 7002',
      'tcp ::1 7003',
      `tcp ${HOME_6} 7002`,
      `tcp ${HOME_6} 7003`,
      `udp ${HOME} 7002`,
      'udp 127.0.0.1 7002',
      'udp ::1 7002',
      `udp ${HOME_6} 7002`,
      `udp ${HOME_6} 7004`,
    ]);
    assert.equal(inspect(pid).description.homeAddresses, [HOME, HOME_6]);
  },
);

test('a port of another process at another address, or of the other family alone, is not shared', async () => {
  const ours = await start(listening(`tcp ${HOME} 7005`, 'tcp6 :: 7006'));
  const theirs = await start(listening(`tcp ${ANOTHER} 7005`, `tcp ${HOME_6} 7005`, 'tcp 0.0.0.0 7006'));
  try {
    assert.equal(inspect(ours.pid).verdicts, []);
    assert.equal(portsOf(ours.pid), [`tcp ${HOME} 7005`, `tcp ${HOME_6} 7006`, 'tcp ::1 7006']);
  } finally {
    ours.kill();
    theirs.kill();
  }
});

test('a wildcard of both families shares its port with whoever has it in one of them', async () => {
  const ours = await start(listening('tcp :: 7007'));
  const theirs = await start(listening(`tcp ${HOME_6} 7007`));
  try {
    assert.equal(codes(inspect(ours.pid).verdicts), ['SHARED_LISTENER']);
    assert.equal(portsOf(ours.pid), [
      `tcp ${HOME} 7007`,
      `tcp ${HOME_6} 7007 shared`,
      'tcp 127.0.0.1 7007',
      'tcp ::1 7007',
    ]);
  } finally {
    ours.kill();
    theirs.kill();
  }
});

about('a listener on loopback is reached from its home', listening('tcp 127.0.0.1 7003', 'tcp ::1 7004'), (pid) => {
  const { description, verdicts } = inspect(pid);
  assert.equal(verdicts, []);
  assert.equal(portsOf(pid), ['tcp 127.0.0.1 7003', 'tcp ::1 7004']);
  assert.is(description.listeners, 2);
});

about('an address that is not the home address is refused, by name', listening(`tcp ${ANOTHER} 7005`), (pid) => {
  const { verdicts, description } = inspect(pid);
  assert.equal(codes(verdicts), ['NOT_HOME_ADDRESS']);
  assert.is(verdicts[0]?.subject, 'port tcp 7005');
  assert.match(verdicts[0]?.reason ?? '', new RegExp(ANOTHER));
  assert.equal(description.ports, []);
});

test('a listener of two processes that bound the same port is refused', async () => {
  const [one, other] = await Promise.all([start(listening(`tcp ${HOME} 7010`)), start(listening(`tcp ${HOME} 7010`))]);
  try {
    const { verdicts, description } = inspect(one.pid);
    assert.equal(codes(verdicts), ['SHARED_LISTENER']);
    assert.equal(description.ports, [{ protocol: 'tcp', address: HOME, port: 7010, exclusive: false }]);
  } finally {
    one.kill();
    other.kill();
  }
});

/** A parent that binds sockets, and a worker that has inherited them and does something first. */
function prefork(sockets: string, work = ''): string {
  return `${PRELUDE}\n${sockets}\nif os.fork() == 0:\n  ${work}\n  ready()\nready()`;
}

async function workerOf(pid: number): Promise<number> {
  const worker = (): number => inspect(pid).localPids[1] ?? 0;
  await until('the worker is ready', () => readProcess(worker())?.comm === 'ready');
  return worker();
}

about(
  "a worker that has inherited its parent's listener may go without it, and is told so; the parent with its worker may go too",
  prefork(`listener = bound('tcp', '${HOME}', 7011)`, `own = bound('tcp', '${HOME}', 7013)`),
  async (pid) => {
    const worker = await workerOf(pid);
    const { verdicts, description } = inspect(worker);
    assert.equal(
      verdicts.map(({ code, outcome, subject }) => ({ code, outcome, subject })),
      [{ code: 'LISTENER_STAYS', outcome: 'will-change', subject: 'port tcp 7011' }],
    );
    assert.match(
      verdicts[0]?.reason ?? '',
      new RegExp(`^pid ${pid} \\(ready\\), .* accepts no new connections while it is away$`),
    );
    assert.equal(portsOf(worker).sort(), [`tcp ${HOME} 7011 shared`, `tcp ${HOME} 7013`]);
    const [shared, own] = [...description.listening].sort((a, b) => a.port - b.port);
    assert.equal({ ...shared, cookie: '' }, { transport: 'tcp', address: HOME, port: 7011, cookie: '' });
    assert.match(shared?.cookie ?? '', /^[0-9a-f]{16}$/);
    assert.equal(own, { transport: 'tcp', address: HOME, port: 7013 });
    const family = inspect(pid);
    assert.equal(family.verdicts, []);
    assert.is(family.localPids.length, 2);
    assert.equal(
      family.description.ports.map(({ exclusive }) => exclusive),
      [true, true],
    );
    assert.equal(
      family.description.listening.map(({ cookie }) => cookie),
      [undefined, undefined],
    );
  },
);

about(
  'a worker with another listener of its own at the same address is refused: nobody could tell the two apart',
  prefork(`listener = bound('tcp', '${HOME}', 7014)`, `own = bound('tcp', '${HOME}', 7014)`),
  async (pid) => {
    const { verdicts, description } = inspect(await workerOf(pid));
    assert.equal(codes(verdicts), ['SHARED_LISTENER', 'SHARED_LISTENER']);
    assert.equal(
      description.listening.map(({ cookie }) => cookie),
      [undefined, undefined],
    );
  },
);

about(
  'a worker that has inherited a UDP socket is refused: two queues would come of one',
  prefork(`datagrams = bound('udp', '${HOME}', 7015)`),
  async (pid) => {
    const { verdicts } = inspect(await workerOf(pid));
    assert.equal(codes(verdicts), ['SHARED_LISTENER']);
    assert.match(verdicts[0]?.reason ?? '', new RegExp(`pid ${pid} \\(ready\\) has this very one`));
  },
);

test("what homeproxy itself holds of a listener, to ask it something, makes it nobody else's", async () => {
  const subject = await start(prefork(`listener = bound('tcp', '${HOME}', 7016)`));
  try {
    const worker = await workerOf(subject.pid);
    const { verdicts, description } = inspect(worker, [subject.pid]);
    assert.equal(verdicts, []);
    assert.equal(description.ports, [{ protocol: 'tcp', address: HOME, port: 7016, exclusive: true }]);
  } finally {
    subject.kill();
  }
});

/** A correspondent on another machine: connects from the namespace of that process, and waits. */
const CORRESPONDENT = `${PRELUDE}
import ctypes
assert ctypes.CDLL(None).setns(os.open(f'/proc/{sys.argv[1]}/ns/net', os.O_RDONLY), 0x40000000) == 0
while True:
    try:
        held = socket.create_connection((sys.argv[3], int(sys.argv[2])))
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
ready()`;

/** A server whose child serves the one connection alone, on the port that the parent goes on to listen on. */
const CHILD_SERVES = `${PRELUDE}
listener = bound('tcp', '${HOME}', 7012)
served = listener.accept()[0]
if os.fork() == 0:
    listener.close()
    ready()
served.close()
ready()`;

/** A server with a remote correspondent, and the child that it has for it. */
async function serving(source: string, port: number, body: (child: number) => void, to = HOME): Promise<void> {
  const server = Subject.silent(source);
  const correspondent = Subject.silent(CORRESPONDENT, String(remoteMachine?.pid), String(port), to);
  try {
    const child = (): number => readTree(server.pid)[1] ?? 0;
    await until('the child is ready', () => readProcess(child())?.comm === 'ready');
    await until('the parent is ready', () => readProcess(server.pid)?.comm === 'ready');
    body(child());
  } finally {
    server.kill();
    correspondent.kill();
  }
}

test("a child with a connection of its own on the parent's port takes exactly that flow", () =>
  serving(CHILD_SERVES, 7012, (child) => {
    const { description, verdicts } = inspect(child);
    assert.equal(verdicts, []);
    assert.equal(
      description.ports.map(({ port, exclusive }) => ({ port, exclusive })),
      [{ port: 7012, exclusive: false }],
    );
    assert.is(description.flows.length, 1);
    assert.equal(description.flows[0]?.local, { address: HOME, port: 7012 });
    assert.is(description.flows[0]?.remote.address, REMOTE);
    assert.is(description.connections, 1);
  }));

for (const [words, to, remote] of [
  ['IPv6', HOME_6, REMOTE_6],
  ['IPv4, of a socket for both families', HOME, REMOTE],
] as const) {
  test(`and so it does with ${words}`, () =>
    serving(
      CHILD_SERVES.replace(`'${HOME}', 7012`, "'::', 7017"),
      7017,
      (child) => {
        const { description, verdicts } = inspect(child);
        assert.equal(verdicts, []);
        assert.equal(portsOf(child), [`tcp ${to} 7017 shared`]);
        const [flow, ...more] = description.flows;
        assert.equal(more, []);
        assert.equal(flow?.local, { address: to, port: 7017 });
        assert.is(decodeAddress(encodeAddress(flow?.remote.address ?? '')), remote);
      },
      to,
    ));
}

test('a connection that a process outside holds too is refused', () =>
  serving(CHILD_SERVES.replace('served.close()\nready()', 'ready()').replaceAll('7012', '7013'), 7013, (child) => {
    assert.equal(codes(inspect(child).verdicts), ['SHARED_CONNECTION']);
  }));

/** Two processes of one machine that talk: the parent has one end, its child the other. */
const TALKING = (address: string, port: number): string => `${PRELUDE}
listener = bound('tcp', '${address}', ${port})
client = socket.create_connection(('${address}', ${port}), source_address=('${address}', 0))
served = listener.accept()[0]
if os.fork() == 0:
    listener.close()
    client.close()
    ready()
served.close()
ready()`;

for (const [words, address, port, found] of [
  ['loopback', '127.0.0.1', 7014, []],
  ["the node's own address", HOME, 7015, []],
  ["the node's own IPv6 address", HOME_6, 7018, []],
  ['another loopback address', '127.0.0.2', 7019, ['LOCAL_CONNECTION']],
  ['another address of this machine', ANOTHER, 7016, ['NOT_HOME_ADDRESS']],
] as const) {
  about(
    `a connection over ${words} with a process that stays is ${found[0] ?? 'an exact flow'}; with both ends in the tree it moves`,
    TALKING(address, port),
    async (pid) => {
      const child = (): number => inspect(pid).localPids[1] ?? 0;
      await until('the child is ready', () => readProcess(child())?.comm === 'ready');
      const { verdicts, description } = inspect(child());
      assert.equal(codes(verdicts), found);
      if (found.length > 0) assert.is(verdicts[0]?.subject, `port tcp ${port}`);
      else
        assert.equal(
          description.flows.map(({ local }) => local),
          [{ address, port }],
        );
      assert.not.ok(codes(inspect(pid).verdicts).includes('LOCAL_CONNECTION'));
    },
  );
}

const MEMBERS = `${PRELUDE}
import struct
four = bound('udp', '0.0.0.0', 7030)
four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + socket.inet_aton('${HOME}'))
six = bound('udp', '::', 7031)
index = struct.pack('@I', socket.if_nametoindex('away0'))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, 'ff05::123') + index)
none = bound('udp', '0.0.0.0', 7032)
ready()`;

about('a member of a multicast group is refused, with the group, in both families', MEMBERS, (pid) => {
  const { verdicts } = inspect(pid);
  assert.equal(codes(verdicts), ['MULTICAST', 'MULTICAST']);
  assert.match(verdicts[0]?.reason ?? '', /port 7030 .* 239\.1\.2\.3,/);
  assert.match(verdicts[1]?.reason ?? '', /port 7031 .* ff05::123,/);
});

test("somebody else's membership is no matter", async () => {
  const [member, other] = await Promise.all([start(MEMBERS), start(listening('udp 0.0.0.0 7033', 'udp :: 7034'))]);
  try {
    assert.equal(inspect(other.pid).verdicts, []);
  } finally {
    member.kill();
    other.kill();
  }
});

const FOREIGN_PIPE = `${PRELUDE}
end, other = os.pipe()
if os.fork() == 0:
    os.close(other)
    ready()
os.close(end)
ready()`;

about('a pipe to a process that stays is refused and named; within the tree it moves', FOREIGN_PIPE, async (pid) => {
  const child = (): number => inspect(pid).localPids[1] ?? 0;
  await until('the child is ready', () => readProcess(child())?.comm === 'ready');
  const { verdicts } = inspect(child());
  assert.equal(codes(verdicts), ['FOREIGN_PIPE']);
  assert.match(verdicts[0]?.subject ?? '', new RegExp(`^fd \\d+ of pid ${child()}$`));
  assert.match(verdicts[0]?.reason ?? '', new RegExp(`pid ${pid} \\(ready\\)`));
  assert.equal(inspect(pid).verdicts, []);
});

const TERMINAL = `${PRELUDE}
import pty
pid, master = pty.fork()
ready()`;

about(
  'a terminal that somebody outside holds is refused; with its holder in the tree it moves',
  TERMINAL,
  async (pid) => {
    const child = (): number => inspect(pid).localPids[1] ?? 0;
    await until('the child is ready', () => readProcess(child())?.comm === 'ready');
    const { verdicts } = inspect(child());
    assert.equal([...new Set(codes(verdicts))], ['FOREIGN_TERMINAL']);
    assert.equal(
      verdicts.map(({ subject }) => subject),
      [0, 1, 2].map((fd) => `fd ${fd} of pid ${child()}`),
    );
    assert.equal(inspect(pid).verdicts, []);
  },
);

about(
  'another network namespace is refused',
  `${PRELUDE}\nimport ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\nready()`,
  (pid) => {
    const { verdicts } = inspect(pid);
    assert.equal(codes(verdicts), ['OTHER_NAMESPACE']);
    assert.match(verdicts[0]?.reason ?? '', /another net namespace/);
  },
);

about(
  'one that has ended but was not reaped is no process to move',
  `${PRELUDE}\nif os.fork() == 0: os._exit(0)\nready()`,
  async (pid) => {
    const zombie = (): number => inspect(pid).localPids[1] ?? 0;
    await until('the child has ended', () => readProcess(zombie())?.state === 'Z');
    refusedWith('ZOMBIE', zombie());
  },
);

test('pid 1, the daemon itself and what contains it are refused', () => {
  refusedWith('INIT_PROCESS', 1);
  refusedWith('OWN_PROCESS', process.pid);
  refusedWith('OWN_PROCESS', process.ppid);
});

test('a number that no process has is refused', async () => {
  const subject = await start(listening());
  subject.kill();
  await subject.ended();
  refusedWith('NO_SUCH_PROCESS', subject.pid);
});

test('a kernel thread is refused, also one that is not pid 2', () => {
  const threads = listProcesses().filter((pid) => readProcess(pid)?.kernelThread === true);
  if (threads.length === 0) {
    assert.ok(/docker|lxc|container/.test(readFileSync('/proc/1/environ', 'utf8')), 'neither threads nor a container');
    return;
  }
  refusedWith('KERNEL_THREAD', threads[0] ?? 0);
  refusedWith('KERNEL_THREAD', threads.at(-1) ?? 0);
});

if (!entered) skip(test, 'inspection of real processes', 'needs root');
test.run();
