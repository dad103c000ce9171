// limit: 120 s
import * as assert from 'uvu/assert';
import { decodeAddress, encodeAddress } from '../../cli/forwarding/address.js';
import { readProcess, readTree } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import {
  ANOTHER,
  about,
  addressWorld,
  codes,
  HOME,
  HOME_6,
  inspect,
  listening,
  PRELUDE,
  portsOf,
  REMOTE,
  REMOTE_6,
  start,
} from './inspection-scene.js';
import { endSubjects, enterPrivateWorld, Subject, until } from './private-world.js';

const test = suite('ports and connections of real processes');
const entered = enterPrivateWorld({ processes: false });
let remoteMachine: Subject | undefined;

test.before(async () => {
  remoteMachine = await addressWorld();
});
test.after(endSubjects);

about(
  test,
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

about(
  test,
  'a listener on loopback is reached from its home',
  listening('tcp 127.0.0.1 7003', 'tcp ::1 7004'),
  (pid) => {
    const { description, verdicts } = inspect(pid);
    assert.equal(verdicts, []);
    assert.equal(portsOf(pid), ['tcp 127.0.0.1 7003', 'tcp ::1 7004']);
    assert.is(description.listeners, 2);
  },
);

about(test, 'an address that is not the home address is refused, by name', listening(`tcp ${ANOTHER} 7005`), (pid) => {
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
  test,
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
  test,
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
  test,
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
    test,
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

if (!entered) skip(test, 'ports and connections of real processes', 'needs root');
test.run();
