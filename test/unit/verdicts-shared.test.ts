// limit: 60 s
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { inspectProcess } from '../../cli/process/inspect.js';
import { sharedDescriptorVerdicts } from '../../cli/process/shared-descriptors.js';
import { readChildren, readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, until } from './private-world.js';
import { examine, HOME, objections, startInState, words } from './verdicts-subject.js';

const test = suite('verdicts on descriptors that processes share');
const folder = mkdtempSync(join(tmpdir(), 'homeproxy-shared-'));
test.after(() => rmSync(folder, { recursive: true }));
enterPrivateWorld({ processes: false });
test.after(endSubjects);

interface Family {
  readonly what: string;
  /** Makes what both may have in common. */
  readonly before: string;
  /** What the child does by itself. */
  readonly child?: string;
  /** What is said of the child alone. */
  readonly verdicts: readonly string[];
  readonly reason?: RegExp;
}

const families: Family[] = [
  {
    what: 'an eventfd',
    before: 'held = os.eventfd(0)',
    verdicts: ['refused SHARED_DESCRIPTOR'],
    reason: /^it shares an eventfd with pid \d+ \(ready\), which stays: each would go on with its own$/,
  },
  {
    what: 'three epoll instances, one of them under two numbers',
    before: 'held = [libc.epoll_create1(0) for _ in range(3)]\nheld.append(os.dup(held[0]))',
    verdicts: ['refused SHARED_DESCRIPTOR'],
    reason: /shares 3 epoll instances with/,
  },
  {
    what: 'an epoll instance, a timerfd and an inotify instance',
    before: 'held = [libc.epoll_create1(0), libc.timerfd_create(1, 0), libc.inotify_init1(0)]',
    verdicts: ['refused SHARED_DESCRIPTOR', 'refused SHARED_DESCRIPTOR', 'refused SHARED_DESCRIPTOR'],
  },
  {
    what: 'eventfds of its own',
    before: 'held = os.eventfd(0)',
    child: 'os.close(held)\nheld = [os.eventfd(0) for _ in range(20)]',
    verdicts: [],
  },
  {
    what: 'a memfd',
    before: "held = os.memfd_create('a board')",
    verdicts: ['refused SHARED_DESCRIPTOR'],
    reason: /shares a memfd with/,
  },
  {
    what: 'a memfd by another open of it',
    before: "held = os.memfd_create('a board')",
    child: "again = os.open(f'/proc/self/fd/{held}', os.O_RDONLY)\nos.close(held)",
    verdicts: ['refused SHARED_DESCRIPTOR'],
  },
  {
    what: 'a memfd of the same name',
    before: "held = os.memfd_create('a board')",
    child: "os.close(held)\nheld = os.memfd_create('a board')",
    verdicts: [],
  },
  {
    what: 'a memfd that nobody can write any more',
    before: `import fcntl
held = os.memfd_create('a book', os.MFD_ALLOW_SEALING)
fcntl.fcntl(held, 1033, 8) # F_ADD_SEALS, F_SEAL_WRITE`,
    verdicts: [],
  },
  {
    what: 'a signalfd',
    before: 'held = libc.signalfd(-1, ctypes.create_string_buffer(128), 0)',
    verdicts: ['will-change SHARED_DESCRIPTOR'],
    reason: /each has its own set of signals/,
  },
  {
    what: 'a log that both append to',
    before: `held = os.open('${folder}/appended', os.O_CREAT | os.O_WRONLY | os.O_APPEND)`,
    verdicts: ['will-change SHARED_DESCRIPTOR'],
    reason: /appended open in common with pid \d+ \(ready\), which stays: each appends/,
  },
  {
    what: 'an output file with one place for both',
    before: `held = os.open('${folder}/written', os.O_CREAT | os.O_WRONLY)`,
    verdicts: ['will-change SHARED_DESCRIPTOR'],
    reason: /may write over what the other wrote/,
  },
  {
    what: 'an input file with one place for both',
    before: `held = os.open('${folder}/read', os.O_CREAT | os.O_RDONLY)`,
    verdicts: ['will-change SHARED_DESCRIPTOR'],
    reason: /each reads on by itself/,
  },
  {
    what: 'the same log, that each has opened',
    before: `held = os.open('${folder}/log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)`,
    child: `os.close(held)\nheld = os.open('${folder}/log', os.O_WRONLY | os.O_APPEND)`,
    verdicts: [],
  },
  {
    what: 'a unix listener',
    before: "held = socket.socket(socket.AF_UNIX)\nheld.bind('\\0homeproxy-shared')\nheld.listen()",
    verdicts: ['refused SHARED_DESCRIPTOR'],
    reason: /shares a unix socket with pid \d+ \(ready\), which stays/,
  },
  {
    what: 'both ends of a pair',
    before: 'held = socket.socketpair()',
    verdicts: ['refused SHARED_DESCRIPTOR', 'refused SHARED_DESCRIPTOR'],
  },
  {
    what: 'a unix socket that is not connected, and one to the log',
    before: `log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind('${folder}/syslog')
held = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
held[0].connect('${folder}/syslog')`,
    child: 'log.close()',
    verdicts: ['will-change UNIX_DATAGRAMS'],
  },
  {
    what: '/dev/null, a folder, and files of /proc',
    before:
      "held = [os.open(path, os.O_RDONLY) for path in ('/dev/null', '/dev/urandom', '/etc', '/proc/meminfo', '/sys/kernel')]",
    verdicts: [],
  },
];

for (const { what, before, child: own = '', verdicts: expected, reason } of families) {
  test(`${what}, of parent and child: ${expected.join(', ') || 'nothing against the child'}; both may go`, async () => {
    const body = `if os.fork() == 0:\n  os.setsid()\n  ${own.replaceAll('\n', '\n  ')}\n  ready()`;
    const subject = await startInState(`${before}\n${body}`);
    const [child = 0] = readChildren(subject.pid);
    try {
      await until('the child is ready', () => readChildren(subject.pid).length === 1 && isReady(child));
      const { verdicts } = await examine(child);
      assert.equal(words(verdicts), [...expected], JSON.stringify(objections(verdicts), undefined, 1));
      for (const verdict of objections(verdicts)) {
        assert.match(verdict.subject, new RegExp(`^fd \\d+ of pid ${child}$`));
        if (reason !== undefined) assert.match(verdict.reason, reason);
      }
      const together = words((await examine(subject.pid)).verdicts);
      assert.equal(
        together.filter((word) => word.includes('SHARED')),
        [],
      );
    } finally {
      subject.kill();
      process.kill(child, 'SIGKILL'); // it left the group
    }
  });
}

test('what a stranger was given through a unix socket is noticed too, in half a second of processor time at most among 6,000 alike', async () => {
  const subject = await startInState(`
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))
one, other = socket.socketpair()
held = [os.eventfd(0) for _ in range(3000)]
if os.fork() == 0:
    os.setsid()
    os.closerange(min(held), max(held) + 1)
    _, held, _, _ = socket.recv_fds(one, 1, 4)
    mine = [os.eventfd(0) for _ in range(3000)]
    one.close(), other.close()
    ready()
socket.send_fds(other, [b'x'], [held[7]])
one.close(), other.close()`);
  const [child = 0] = readChildren(subject.pid);
  try {
    await until('the child is ready', () => isReady(child));
    const { seen } = inspectProcess(child, { homeAddresses: [HOME], ownPids: [process.pid] });
    const before = process.cpuUsage(); // of all threads: what others do on the machine does not count
    const verdicts = await sharedDescriptorVerdicts(seen.descriptors, seen.alike, new Set());
    const { user, system } = process.cpuUsage(before);
    const tookMs = (user + system) / 1000;
    assert.equal(words(verdicts), ['refused SHARED_DESCRIPTOR']);
    assert.match(verdicts[0]?.reason ?? '', new RegExp(`an eventfd with pid ${subject.pid} \\(ready\\)`));
    assert.ok(tookMs < 500, `${tookMs} ms of processor time`);
  } finally {
    subject.kill();
    process.kill(child, 'SIGKILL');
  }
});

test('children that come and go while we look are no strangers', async () => {
  const subject = await startInState(`
held = os.eventfd(0), os.pipe(), socket.socketpair()
libc.signal(17, ctypes.c_void_p(1)) # SIGCHLD is ignored: nobody has to wait for them
with open('/proc/self/comm', 'w') as comm: comm.write('ready')
while True:
    if os.fork() == 0:
        time.sleep(0.004)
        os._exit(0)
    time.sleep(0.002)`);
  try {
    for (let look = 0; look < 10; look++) {
      const { verdicts } = await examine(subject.pid);
      assert.equal(
        words(verdicts).filter((word) => /SHARED|FOREIGN/.test(word)),
        [],
      );
    }
  } finally {
    subject.kill();
  }
});

function isReady(pid: number): boolean {
  return readProcess(pid)?.comm === 'ready';
}

test.run();
