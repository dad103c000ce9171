// limit: 120 s
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { UserError } from '../../cli/errors.js';
import { examineProcess } from '../../cli/process/examine.js';
import { listProcesses, readProcess } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { about, addressWorld, codes, HOME, inspect, listening, PRELUDE, start } from './inspection-scene.js';
import { endSubjects, enterPrivateWorld, until } from './private-world.js';

const test = suite('inspection of real processes');
const entered = enterPrivateWorld({ processes: false });

test.before(async () => {
  await addressWorld();
});
test.after(endSubjects);

function refusedWith(code: string, pid: number, ownPids?: readonly number[]): void {
  assert.throws(
    () => inspect(pid, ownPids),
    (error: unknown) => error instanceof UserError && error.code === code && error.exitStatus === 3,
  );
}

about(
  test,
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
    const { residentBytes, anonymousBytes = 0 } = description;
    assert.ok(anonymousBytes > 1e6 && anonymousBytes < residentBytes, `${anonymousBytes} of ${residentBytes} bytes`);
  },
);

const MEMBERS = `${PRELUDE}
import struct
four = bound('udp', '0.0.0.0', 7030)
four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + socket.inet_aton('${HOME}'))
six = bound('udp', '::', 7031)
index = struct.pack('@I', socket.if_nametoindex('away0'))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, 'ff05::123') + index)
none = bound('udp', '0.0.0.0', 7032)
ready()`;

about(test, 'a member of a multicast group is refused, with the group, in both families', MEMBERS, (pid) => {
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

about(
  test,
  'a pipe to a process that stays is refused and named; within the tree it moves',
  FOREIGN_PIPE,
  async (pid) => {
    const child = (): number => inspect(pid).localPids[1] ?? 0;
    await until('the child is ready', () => readProcess(child())?.comm === 'ready');
    const { verdicts } = inspect(child());
    assert.equal(codes(verdicts), ['FOREIGN_PIPE']);
    assert.match(verdicts[0]?.subject ?? '', new RegExp(`^fd \\d+ of pid ${child()}$`));
    assert.match(verdicts[0]?.reason ?? '', new RegExp(`pid ${pid} \\(ready\\)`));
    assert.equal(inspect(pid).verdicts, []);
  },
);

const TERMINAL = `${PRELUDE}
import pty
pid, master = pty.fork()
ready()`;

about(
  test,
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
  test,
  'another network namespace is refused',
  `${PRELUDE}\nimport ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\nready()`,
  (pid) => {
    const { verdicts } = inspect(pid);
    assert.equal(codes(verdicts), ['OTHER_NAMESPACE']);
    assert.match(verdicts[0]?.reason ?? '', /another net namespace/);
  },
);

about(
  test,
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

test('one that ends while it is looked at is refused as if it had not been there', async () => {
  const subject = await start(listening());
  const looking = examineProcess(subject.pid, { homeAddresses: [HOME], ownPids: [process.pid] }).then(
    () => undefined,
    (error: unknown) => error,
  );
  subject.kill(); // the look has begun, and goes on when we wait for it
  for (const deadline = Date.now() + 20_000; readProcess(subject.pid)?.ending === false; )
    assert.ok(Date.now() < deadline);
  const failure = await looking;
  assert.instance(failure, UserError);
  assert.is((failure as UserError).code, 'NO_SUCH_PROCESS');
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
