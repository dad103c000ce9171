// limit: 120 s
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { parseMaps, readMappedFiles } from '../../cli/process/memory-map.js';
import { run } from '../../cli/system/command.js';
import { readChildren, readText } from '../../cli/system/procfs.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, until } from './private-world.js';
import { examine, objections, startInState, words } from './verdicts-subject.js';

const test = suite('verdicts on processes, files and memory');
const entered = enterPrivateWorld({ processes: false });
const folder = mkdtempSync('/tmp/homeproxy-verdicts-');
const semaphore = `homeproxy-test-${process.pid}`;

interface State {
  readonly what: string;
  readonly source: string;
  readonly verdicts: readonly string[];
  readonly reason?: RegExp;
}

const states: readonly State[] = [
  { what: 'a program that does nothing special', source: '', verdicts: [] },
  {
    what: 'harmless devices',
    source: "held = [open(f'/dev/{name}', 'rb', 0) for name in ('null', 'zero', 'full', 'random', 'urandom')]",
    verdicts: [],
  },
  {
    what: 'a character device',
    source: "held = open('/dev/net/tun', 'r+b', 0)",
    verdicts: ['refused DEVICE'],
    reason: /\/dev\/net\/tun open \(character 10:200\)/,
  },
  {
    what: 'a block device',
    source: `os.mknod('${folder}/block', 0o60600, os.makedev(7, 0))\nheld = os.open('${folder}/block', os.O_RDONLY)`,
    verdicts: ['refused DEVICE'],
    reason: /block 7:0/,
  },
  {
    what: 'an eventfd that is a semaphore',
    source: 'held = libc.eventfd(3, 1)',
    verdicts: ['refused EVENTFD_SEMAPHORE'],
  },
  {
    what: 'userfaultfd',
    source: 'held = call(323, 0o2000001)',
    verdicts: ['refused USERFAULTFD'],
  },
  {
    what: 'io_uring',
    source: 'held = call(425, 4, ctypes.create_string_buffer(120))',
    verdicts: ['refused IO_URING'],
  },
  {
    what: 'io_uring whose rings are mapped after the descriptor was closed',
    source: `
ring = call(425, 4, ctypes.create_string_buffer(120))
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, 4096, 3, 1, ring, 0) != 2**64 - 1
os.close(ring)`,
    verdicts: ['refused IO_URING'],
  },
  {
    what: 'perf events',
    source:
      "held = call(298, ctypes.create_string_buffer(struct.pack('=IIQQQQQ', 1, 112, 0, 0, 0, 0, 1) + bytes(80)), 0, -1, -1, 0)",
    verdicts: ['refused PERF_EVENT'],
  },
  {
    what: 'an eBPF map',
    source: "held = call(321, 0, ctypes.create_string_buffer(struct.pack('=IIIII', 2, 4, 8, 4, 0) + bytes(60)), 72)",
    verdicts: ['refused BPF'],
  },
  {
    what: 'a descriptor of a kind that nobody thought of',
    source: "held = call(444, ctypes.create_string_buffer(b'\\1' + bytes(15)), 8, 0)",
    verdicts: ['refused DESCRIPTOR_KIND'],
    reason: /landlock-ruleset/,
  },
  {
    what: 'descriptors that CRIU carries: event, timer, signal, epoll, memory, asynchronous I/O',
    source: `
held = [libc.eventfd(0, 0), libc.epoll_create1(0), libc.timerfd_create(1, 0), os.memfd_create('held')]
held.append(libc.signalfd(-1, ctypes.create_string_buffer(128), 0))
call(206, 16, ctypes.byref(ctypes.c_ulong(0)))`,
    verdicts: [],
  },
  {
    what: 'a pidfd of its own tree',
    source: 'held = os.pidfd_open(os.getpid())',
    verdicts: [],
  },
  {
    what: 'a pidfd of somebody else',
    source: 'held = os.pidfd_open(os.getppid())',
    verdicts: ['refused FOREIGN_PIDFD'],
  },
  {
    what: 'inotify',
    source: "held = libc.inotify_init1(0)\nassert libc.inotify_add_watch(held, b'/etc', 2) > 0",
    verdicts: ['will-change INOTIFY'],
    reason: /watches 1 file /,
  },
  {
    what: 'inotify on a file system without handles',
    source: "held = libc.inotify_init1(0)\nassert libc.inotify_add_watch(held, b'/proc/1', 2) > 0",
    verdicts: ['refused INOTIFY'],
  },
  {
    what: 'fanotify on a file',
    source:
      "held = libc.fanotify_init(0, 0)\nassert libc.fanotify_mark(held, 1, ctypes.c_uint64(0x20), -100, b'/etc') == 0",
    verdicts: ['will-change FANOTIFY'],
  },
  {
    what: 'fanotify on a whole mount',
    source:
      "held = libc.fanotify_init(0, 0)\nassert libc.fanotify_mark(held, 0x11, ctypes.c_uint64(0x20), -100, b'/tmp') == 0",
    verdicts: ['refused FANOTIFY'],
  },
  {
    what: 'a POSIX message queue',
    source: `
queue = call(240, b'homeproxy-test', os.O_CREAT | os.O_RDWR, 0o600, None)`,
    verdicts: ['refused POSIX_QUEUE'],
  },
  {
    what: 'System V shared memory',
    source: `
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o1600)
assert libc.shmat(segment, None, 0) != 2**64 - 1
libc.shmctl(segment, 0, None)`,
    verdicts: ['will-change SYSV_OBJECTS'],
  },
  {
    what: 'a System V message queue that it has written to',
    source: `
queue = libc.msgget(0, 0o1600)
assert libc.msgsnd(queue, ctypes.create_string_buffer(struct.pack('=q', 1) + b'word'), 4, 0) == 0`,
    verdicts: ['will-change SYSV_OBJECTS'],
  },
  {
    what: 'a System V semaphore set that it has set',
    source: `
sets = libc.semget(0, 2, 0o1600)
assert libc.semctl(sets, 1, 16, 1) == 0`,
    verdicts: ['will-change SYSV_OBJECTS'],
  },
  {
    what: 'System V shared memory of an IPC namespace of its own',
    source: `
assert libc.unshare(0x08000000) == 0
libc.shmat.restype = ctypes.c_void_p
assert libc.shmat(libc.shmget(0, 4096, 0o1600), None, 0) != 2**64 - 1`,
    verdicts: [],
  },
  {
    what: 'a deleted file',
    source: `held = open('${folder}/gone', 'w')\nheld.write('x' * 5000)\nheld.flush()\nos.unlink(held.name)`,
    verdicts: ['will-change DELETED_FILE'],
  },
  {
    what: 'a deleted file with a large hole in it',
    source: `held = open('${folder}/hole', 'w')\nheld.truncate(1 << 30)\nos.unlink(held.name)`,
    verdicts: ['will-change DELETED_FILE'],
  },
  {
    what: 'a large deleted file',
    source: `held = open('${folder}/large', 'w')\nos.posix_fallocate(held.fileno(), 0, 17 << 20)\nos.unlink(held.name)`,
    verdicts: ['refused DELETED_FILE'],
    reason: /\/large was deleted .* 17 MiB/,
  },
  {
    what: 'a file that has lost its name and has another',
    source: `held = open('${folder}/one', 'w')\nos.rename(held.name, '${folder}/two')\nos.link('${folder}/two', '${folder}/three')\nos.unlink('${folder}/two')`,
    verdicts: ['refused FILE_UNREACHABLE'],
  },
  {
    what: 'a mapped file that lost its name, and has another',
    source: `
held = os.open('${folder}/made', os.O_RDWR | os.O_CREAT)
os.ftruncate(held, 4096)
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, 4096, 3, 1, held, 0) != 2**64 - 1
os.close(held)
os.link('${folder}/made', '${folder}/kept')
os.unlink('${folder}/made')`,
    verdicts: ['refused FILE_UNREACHABLE'],
    reason: /in its memory, which has lost that name/,
  },
  {
    what: 'a named semaphore that it made, though glibc has it under a passing name',
    source: `
held = libc.sem_open(b'/${semaphore}', os.O_CREAT, 0o600, 0)
assert held != 0`,
    verdicts: ['will-change SHM_OBJECTS'],
    reason: /its 1 object in \/dev\/shm \(sem\..*\) go with it/,
  },
  {
    what: 'a file in a folder of /dev/shm',
    source: `os.mkdir('/dev/shm/${semaphore}')\nheld = open('/dev/shm/${semaphore}/file', 'w')`,
    verdicts: ['refused SHM_FOLDER'],
    reason: /in a folder of \/dev\/shm/,
  },
  {
    what: 'an anonymous file with a name to come',
    source: `held = os.open('${folder}', os.O_TMPFILE | os.O_RDWR)`,
    verdicts: ['will-change DELETED_FILE'],
  },
  {
    what: 'a seccomp filter',
    source: `
assert libc.prctl(38, 1, 0, 0, 0) == 0
allow = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000))
assert libc.prctl(22, 2, ctypes.create_string_buffer(struct.pack('=H6xQ', 1, ctypes.addressof(allow))), 0, 0) == 0`,
    verdicts: [],
  },
  {
    what: 'its own names and IPC (a hardened service)',
    source: 'assert libc.unshare(0x0c000000) == 0',
    verdicts: [],
  },
  {
    what: 'a namespace in which none of its processes is',
    source: `
child = os.fork()
if child == 0:
    assert libc.unshare(0x40000000) == 0
    open('${folder}/apart', 'w').close()
    time.sleep(3600)
while not os.path.exists('${folder}/apart'): time.sleep(0.001)
held = [os.open(f'/proc/{pid}/ns/net', os.O_RDONLY) for pid in (child, os.getpid())]
os.kill(child, 9)
os.wait()`,
    verdicts: ['refused FOREIGN_NAMESPACE'],
  },
  {
    what: 'a child in a sandbox of its own',
    source: `
if os.fork() == 0:
    assert libc.unshare(0x20000) == 0
    open('${folder}/sandboxed', 'w').close()
    time.sleep(3600)
while not os.path.exists('${folder}/sandboxed'): time.sleep(0.001)`,
    verdicts: ['refused NESTED_NAMESPACE'],
    reason: /another mnt namespace/,
  },
];

for (const { what, source, verdicts: expected, reason } of states) {
  test(`${what}: ${expected.join(', ') || 'nothing against it'}`, async () => {
    const subject = await startInState(source);
    try {
      const { verdicts } = await examine(subject.pid);
      assert.equal(words(verdicts), [...expected], JSON.stringify(objections(verdicts), undefined, 1));
      for (const verdict of objections(verdicts)) {
        if (reason !== undefined) assert.match(verdict.reason, reason);
        if (verdict.outcome === 'refused') assert.ok((verdict.remedy ?? '').length > 5);
      }
    } finally {
      subject.kill();
    }
  });
}

test('a terminal whose master another tree holds, while it has one of its own', async () => {
  const outside = await startInState(`
master, slave = os.openpty()
with open('${folder}/terminal', 'w') as name: name.write(os.ttyname(slave))
os.close(slave)`);
  const subject = await startInState(`
own = os.openpty()
held = os.open(open('${folder}/terminal').read(), os.O_RDWR | os.O_NOCTTY)`);
  try {
    const { verdicts } = await examine(subject.pid);
    assert.equal(words(verdicts), ['refused FOREIGN_TERMINAL']);
  } finally {
    subject.kill();
    outside.kill();
  }
});

test('a FIFO with a name, whose other end a process that stays has open', async () => {
  const outside = await startInState(`os.mkfifo('${folder}/fifo')\nheld = os.open('${folder}/fifo', os.O_RDWR)`);
  const subject = await startInState(`held = os.open('${folder}/fifo', os.O_WRONLY)`);
  try {
    assert.equal(words((await examine(subject.pid)).verdicts), ['refused FOREIGN_PIPE']);
    outside.kill();
    await until('the other has ended', () => !existsSync(`/proc/${outside.pid}/fd/3`));
    const { verdicts, needs } = await examine(subject.pid);
    assert.equal(words(verdicts), []);
    assert.is(needs.files.find(({ path }) => path === `${folder}/fifo`)?.use, 'special');
  } finally {
    subject.kill();
    outside.kill();
  }
});

test('a program that was upgraded while it runs takes its old executable and libraries along', async () => {
  const path = `${folder}/sleeper`;
  copyFileSync('/bin/sleep', path);
  const subject = await startInState(`
if os.fork() == 0: os.execv('${path}', ['sleeper', '3600'])`);
  try {
    const [child = 0] = readChildren(subject.pid);
    await until('it runs', () =>
      parseMaps(readText(`/proc/${child}/maps`) ?? '').some((mapping) => mapping.path === path),
    );
    const before = await examine(subject.pid);
    assert.equal(words(before.verdicts), []);
    assert.match(before.needs.files.find((file) => file.path === path)?.sha256 ?? '', /^[0-9a-f]{64}$/);
    rmSync(path);
    copyFileSync('/bin/true', path);
    const { verdicts, needs } = await examine(subject.pid);
    assert.equal(words(verdicts), ['will-change DELETED_FILE']);
    assert.is(needs.files.find((file) => file.path === path)?.use, 'ghost');
  } finally {
    subject.kill();
  }
});

test('a folder that was deleted under it is made again for a moment', async () => {
  const subject = await startInState(
    `os.mkdir('${folder}/below')\nos.chdir('${folder}/below')\nos.rmdir('${folder}/below')`,
  );
  try {
    const { verdicts, needs } = await examine(subject.pid);
    assert.equal(words(verdicts), []);
    assert.is(needs.files.find(({ path }) => path === `${folder}/below`)?.use, 'ghost');
  } finally {
    subject.kill();
  }
});

test('what would move, and what it needs there', async () => {
  const subject = await startInState(`
import threading
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
os.chdir('${folder}')
memory = bytearray(32 << 20)
pipe = os.pipe()
log = open('${folder}/log', 'w')
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(('127.0.0.1', 0))
pair = socket.socketpair()
if os.fork() == 0: time.sleep(3600)`);
  try {
    const { moving, needs, verdicts } = await examine(subject.pid);
    const { memoryBytes, mappedFiles, ...counted } = moving;
    assert.equal(counted, {
      processes: 2,
      threads: 3,
      listeners: 1,
      connections: 2,
      datagramSockets: 1,
      unixSockets: 2,
      pipes: 1,
      openFiles: 2, // the log and /dev/null
    });
    assert.ok(memoryBytes > 32 << 20 && memoryBytes < 128 << 20, `${memoryBytes} bytes`);
    assert.ok(mappedFiles > 3);
    assert.equal(
      verdicts.filter(({ outcome }) => outcome === 'ok').map(({ code }) => code),
      ['PROCESSES', 'SOCKETS', 'FILES'],
    );
    const uses = new Map(needs.files.map(({ path, use }) => [path, use]));
    assert.is(uses.get(folder), 'folder');
    assert.is(uses.get(`${folder}/log`), 'open');
    assert.ok(
      needs.files.some(({ path, use, sha256 }) => /libc/.test(path) && use === 'mapped' && sha256 !== undefined),
    );
    assert.ok(needs.cpuFeatures.length > 5, needs.cpuFeatures.join(' '));
    assert.not.equal(BigInt(`0x${needs.capabilities}`), 0n);
    assert.is(needs.seccomp, false);
  } finally {
    subject.kill();
  }
});

const SHARED_OBJECTS = [
  {
    what: 'System V shared memory',
    use: 'libc.shmat.restype = ctypes.c_void_p\nassert libc.shmat(libc.shmget(4242, 4096, 0o1600), None, 0) != 2**64 - 1',
  },
  {
    what: 'a System V message queue',
    use: `
words = ctypes.create_string_buffer(struct.pack('=q', 1) + b'word')
queue = libc.msgget(4243, 0o1600)
if libc.msgrcv(queue, words, 4, 0, 0o4000) < 0: assert libc.msgsnd(queue, words, 4, 0) == 0`,
  },
  {
    what: 'a System V semaphore set',
    use: `
semaphores = libc.semget(4244, 2, 0o1600)
assert libc.semctl(semaphores, libc.semctl(semaphores, 0, 12), 16, 1) == 0`, // GETVAL: the first one takes number 0
  },
];

for (const { what, use } of SHARED_OBJECTS) {
  test(`${what} that a process outside uses too is refused`, async () => {
    const [stranger, subject] = [await startInState(use), await startInState(use)];
    const { verdicts } = await examine(subject.pid);
    assert.equal(words(verdicts), ['refused SYSV_SHARED']);
    assert.match(objections(verdicts)[0]?.reason ?? '', new RegExp(`^pid ${stranger.pid} \\(ready\\), outside`));
    stranger.kill();
  });
}

test('System V objects beside much memory of others, with which alone they can be saved, are refused', async () => {
  const other = await startInState(`
libc.shmat.restype = ctypes.c_void_p
assert libc.shmat(libc.shmget(4250, 17 << 20, 0o1600), None, 0) != 2**64 - 1`);
  const own = await startInState(`
libc.shmat.restype = ctypes.c_void_p
assert libc.shmat(libc.shmget(4251, 4096, 0o1600), None, 0) != 2**64 - 1`);
  try {
    const { verdicts } = await examine(own.pid);
    assert.equal(words(verdicts), ['refused SYSV_OTHERS']);
    assert.match(objections(verdicts)[0]?.reason ?? '', /others on this node, which have \d+ MiB/);
  } finally {
    other.kill();
    own.kill();
    for (const key of [4250, 4251]) await run('ipcrm', ['-M', String(key)]);
  }
});

// What this machine cannot make, in the kernel's words (Documentation/filesystems/proc.rst; fs/proc/task_mmu.c).
test('mappings of devices, GPUs, sockets and uprobes are told by their names', () => {
  const maps = `
55d0c0a00000-55d0c0a28000 r--p 00000000 fe:00 1234                       /usr/bin/with space
7f0000000000-7f0000001000 rw-s 00000000 00:0f 5                          anon_inode:kvm-vcpu:0
7f0000001000-7f0000002000 rw-s 00000000 00:01 77                         /dmabuf:
7f0000002000-7f0000003000 rw-s 00000000 00:08 99                         socket:[99]
7fffffffe000-7ffffffff000 r-xp 00000000 00:00 0                          [uprobes]
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
`;
  assert.equal(
    parseMaps(maps).map(({ path }) => path),
    ['/usr/bin/with space', 'anon_inode:kvm-vcpu:0', '/dmabuf:', 'socket:[99]', '[uprobes]'],
  );
  const { files, verdicts } = readMappedFiles([7], { maps: () => maps });
  assert.equal(
    files.map(({ path, entry }) => [path, entry]),
    [['/usr/bin/with space', '/proc/7/map_files/55d0c0a00000-55d0c0a28000']],
  );
  assert.equal(
    verdicts.map(({ code }) => code),
    ['DEVICE_MEMORY', 'SOCKET_MEMORY', 'UPROBES'],
  );
});

test.after(() => {
  endSubjects();
  rmSync(folder, { recursive: true, force: true });
  rmSync(`/dev/shm/sem.${semaphore}`, { force: true });
  rmSync(`/dev/shm/${semaphore}`, { recursive: true, force: true });
});

if (!entered) skip(test, 'verdicts on processes, files and memory', 'needs root');
test.run();
