// limit: 180 s
import { readFileSync, utimesSync, watch, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { ProcessCheck } from '../../cli/check-report.js';
import { asHomeproxyError, HomeproxyError } from '../../cli/errors.js';
import { labCgroup } from '../../cli/lab/lab-cgroup.js';
import { assessMethod, migrateMethod } from '../../cli/node/control-methods.js';
import { callControl, streamControl } from '../../cli/node/control-transport.js';
import type { Verdict } from '../../cli/process/description.js';
import { Cgroup } from '../../cli/system/cgroup.js';
import { readDescriptors, readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { downAll } from './lab-fixture.js';
import type { LineClient } from './line-client.js';
import { describe, errorOf, oneLine, rested, Scenario } from './scenario.js';
import { SocketAgent } from './socket-agent.js';
import { askTicker, installTicker, TICKER } from './ticker.js';
import { settledTraces } from './traces.js';

/** Generous: the cgroup is the proof, and a busy machine takes its time to wake a program. */
const FREEZE_MS = 250;

/** A state into which a program comes before it becomes the ticker, which goes on in it. */
interface State {
  readonly name: string;
  readonly code: string;
  readonly enter: string;
}

/** Of a pipe, a terminal or a pair of sockets. */
const CLOSE_OTHER = 'other.close() if hasattr(other, "close") else os.close(other)';

/**
 * A state in which a process outside the tree holds the other end.
 * @param make opens both, `held` and `other`. @param there what the stranger does. @param here what the program does meanwhile
 */
function withStranger(make: string, there: string, here = CLOSE_OTHER): string {
  return `
${make}
if os.fork() == 0:
  if os.fork() != 0: os._exit(0)
  os.setsid()
  ${there}
  time.sleep(3600)
os.wait()
${here}`;
}

const STATES: readonly State[] = [
  { name: 'mptcp', code: 'MPTCP', enter: "held = socket.socket(2, 1, 262)\nheld.bind(('0.0.0.0', 0))\nheld.listen()" },
  { name: 'raw', code: 'RAW_SOCKET', enter: 'held = socket.socket(2, 3, 1)' },
  { name: 'corked', code: 'CORKED_UDP', enter: 'held = socket.socket(2, 2)\nheld.setsockopt(17, 1, 1)' },
  { name: 'packet', code: 'PACKET_SOCKET', enter: 'held = socket.socket(17, 3, 0x300)' },
  { name: 'vsock', code: 'SOCKET_FAMILY', enter: 'held = socket.socket(40, 1)' },
  {
    name: 'socket-bpf',
    code: 'SOCKET_BPF',
    enter: `
code = ctypes.create_string_buffer(bytes([0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]))
licence = ctypes.create_string_buffer(b'GPL')
words = struct.pack('=IIQQIIQI', 1, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0)
held = socket.socket(2, 2)
held.setsockopt(1, 50, libc.syscall(321, 5, ctypes.create_string_buffer(words + bytes(80)), 72))`,
  },
  {
    name: 'device-bound',
    code: 'BOUND_DEVICE',
    enter: "held = socket.socket()\nheld.setsockopt(1, 25, b'other0')\nheld.bind(('0.0.0.0', 0))\nheld.listen()",
  },
  { name: 'elsewhere', code: 'NOT_HOME_ADDRESS', enter: "held = socket.create_server(('10.99.0.1', 7390))" },
  {
    name: 'urgent',
    code: 'URGENT_DATA',
    enter: `
listener = socket.create_server(('127.0.0.1', 0))
other = socket.create_connection(listener.getsockname())
held = listener.accept()[0]
os.set_inheritable(other.fileno(), True)
for data, flags in ((b'before', 0), (b'!', 1), (b'after', 0)): other.send(data, flags)
while len(held.recv(16, 2)) < 6: pass
held.recv(1, 1)`,
  },
  {
    name: 'urgent-in-line',
    code: 'URGENT_DATA',
    enter: `
listener = socket.create_server(('127.0.0.1', 0))
other = socket.create_connection(listener.getsockname())
held = listener.accept()[0]
held.setsockopt(1, 10, 1)
os.set_inheritable(other.fileno(), True)
for data, flags in ((b'before', 0), (b'!', 1), (b'after', 0)): other.send(data, flags)
while len(held.recv(16, 2)) < 6: pass`,
  },
  {
    name: 'signed',
    code: 'TCP_MD5',
    enter: `
held = socket.create_server(('0.0.0.0', 7392))
peer = struct.pack('=H2x4s120x', 2, socket.inet_aton('10.77.0.9'))
held.setsockopt(6, 14, peer + struct.pack('=BBHi80s', 0, 0, 3, 0, b'key'))`,
  },
  {
    name: 'worker',
    code: 'SHARED_LISTENER',
    enter: withStranger("held = socket.socket(2, 2)\nheld.bind(('0.0.0.0', 7393))", 'pass', ''),
  },
  {
    name: 'loopback',
    code: 'LOCAL_CONNECTION',
    enter: withStranger(
      "listener = socket.create_server(('127.0.0.2', 7394))\nheld = socket.create_connection(('127.0.0.2', 7394))\nother = listener.accept()[0]",
      'held.close()',
      'other.close()\nlistener.close()',
    ),
  },
  {
    name: 'shared-object',
    code: 'SHM_SHARED',
    enter: withStranger("held = os.open('/dev/shm/verdicts', os.O_CREAT | os.O_RDWR)", 'pass', ''),
  },
  {
    name: 'shared-eventfd',
    code: 'SHARED_DESCRIPTOR',
    enter: withStranger('held = libc.eventfd(0, 0)', 'pass', ''),
  },
  {
    name: 'queue',
    code: 'POSIX_QUEUE',
    enter: "held = libc.syscall(240, b'verdicts', os.O_CREAT | os.O_RDWR, 0o600, None)\nassert held >= 0",
  },
  {
    name: 'multicast',
    code: 'MULTICAST',
    enter: `
held = socket.socket(2, 2)
held.bind(('0.0.0.0', 7391))
held.setsockopt(0, 35, socket.inet_aton('239.1.2.3') + bytes(4) + struct.pack('=i', socket.if_nametoindex('eth0')))`,
  },
  {
    name: 'netlink',
    code: 'NETLINK_GROUPS',
    enter: 'held = socket.socket(16, 3, 0)\nheld.bind((0, 0))\nheld.setsockopt(270, 1, 33)',
  },
  {
    name: 'unix',
    code: 'FOREIGN_UNIX_SOCKET',
    enter: withStranger('held, other = socket.socketpair()', 'held.close()'),
  },
  {
    name: 'unix-backlog',
    code: 'UNIX_BACKLOG',
    enter: `
held = socket.socket(1)
held.bind('\\0homeproxy-backlog')
held.listen()
socket.socket(1).connect('\\0homeproxy-backlog')`,
  },
  { name: 'pipe', code: 'FOREIGN_PIPE', enter: withStranger('held, other = os.pipe()', 'os.close(held)') },
  { name: 'terminal', code: 'FOREIGN_TERMINAL', enter: withStranger('other, held = os.openpty()', 'os.close(held)') },
  { name: 'pidfd', code: 'FOREIGN_PIDFD', enter: 'held = os.pidfd_open(1)' },
  {
    name: 'traced',
    code: 'TRACED',
    enter: withStranger(
      'traced, (held, other), (told, tell) = os.getpid(), os.pipe(), os.pipe()',
      // not before the SIGCHLD has come: nobody lets a traced process go on after a signal
      'os.read(told, 1)\n  assert libc.ptrace(0x4206, traced, 0, 0) == 0\n  os.close(other)',
      "os.write(tell, b'x')\nos.close(other)\nos.read(held, 1)\nheld = os.open('/dev/null', os.O_RDONLY)",
    ),
  },
  {
    name: 'nested',
    code: 'NESTED_NAMESPACE',
    enter: `
held, other = os.pipe()
if os.fork() == 0:
  os.close(held)
  assert libc.unshare(0x20000) == 0
  os.close(other)
  time.sleep(3600)
os.close(other)
os.read(held, 1)`,
  },
  {
    name: 'container',
    code: 'OTHER_NAMESPACE',
    enter: "held = os.open('/', os.O_RDONLY)\nassert libc.unshare(0x20000) == 0",
  },
  { name: 'io-uring', code: 'IO_URING', enter: 'held = libc.syscall(425, 4, ctypes.create_string_buffer(120))' },
  {
    name: 'perf',
    code: 'PERF_EVENT',
    enter:
      "words = struct.pack('=IIQQQQQ', 1, 112, 0, 0, 0, 0, 1) + bytes(80)\nheld = libc.syscall(298, ctypes.create_string_buffer(words), 0, -1, -1, 0)",
  },
  {
    name: 'bpf',
    code: 'BPF',
    enter:
      "words = struct.pack('=IIIII', 2, 4, 8, 4, 0) + bytes(60)\nheld = libc.syscall(321, 0, ctypes.create_string_buffer(words), 72)",
  },
  {
    name: 'landlock',
    code: 'DESCRIPTOR_KIND',
    enter: "held = libc.syscall(444, ctypes.create_string_buffer(b'\\1' + bytes(15)), 8, 0)",
  },
  {
    name: 'inotify',
    code: 'INOTIFY',
    enter: "held = libc.inotify_init1(0)\nassert libc.inotify_add_watch(held, b'/proc/1', 2) > 0",
  },
  {
    name: 'fanotify',
    code: 'FANOTIFY',
    enter:
      "held = libc.fanotify_init(0, 0)\nassert libc.fanotify_mark(held, 0x11, ctypes.c_uint64(0x20), -100, b'/tmp') == 0",
  },
  { name: 'userfaultfd', code: 'USERFAULTFD', enter: 'held = libc.syscall(323, 1)\nassert held >= 0' },
  { name: 'device', code: 'DEVICE', enter: "held = os.open('/dev/net/tun', os.O_RDWR)" },
  {
    name: 'deleted',
    code: 'DELETED_FILE',
    enter: "held = os.open('/tmp', os.O_TMPFILE | os.O_RDWR)\nos.posix_fallocate(held, 0, 17 << 20)",
  },
  { name: 'file', code: 'FILE_MISSING', enter: "held = os.open('/tmp/only-at-home', os.O_CREAT | os.O_RDWR)" },
];
const FIRST_PORT = 7200;

/** Comes into the state and becomes the ticker. What Python opens is not inherited unless it is told to. */
function program({ enter }: State, port: number): string[] {
  const source = `
import ctypes, os, socket, struct, time
libc = ctypes.CDLL(None)
${enter}
number = held if isinstance(held, int) else held.fileno()
os.set_inheritable(number, True)
os.execv('${TICKER}', ['${TICKER}', '${port}'])`;
  return ['python3', '-I', '-S', '-c', source];
}

interface Running {
  readonly pid: number;
  readonly clock: Pick<LineClient, 'ask'>;
  /** How often the kernel has said that its cgroup was frozen, let go, left or entered. */
  readonly changes: { count: number };
}

let scenario: Scenario;
/** Has a connection to each of the programs. */
let asking: SocketAgent;
/** The nodes with all those programs on them, before anybody asked anything. */
let standing: Record<string, string[]>;
const running = new Map<string, Running>();

async function start(name: string, command: readonly string[], port: number): Promise<void> {
  const { home, lab } = scenario;
  const cgroup = new Cgroup(`${labCgroup(lab.name)}/home/session/${name}`).create();
  const pid = await home.detach(command, { cgroup: `session/${name}` });
  for (const deadline = Date.now() + 30_000; Date.now() < deadline; await sleep(5)) {
    if (readProcess(home.machinePid(pid) ?? 0)?.comm === 'ticker') break;
  }
  for (const deadline = Date.now() + 30_000; ; await sleep(20)) {
    const refused = await asking.do('connect', name, home.address, port).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (refused === undefined) break;
    if (Date.now() > deadline) throw new Error(`${name} does not run: ${refused}`);
  }
  const clock = { ask: (line: string) => asking.do<string>('ask', name, line) };
  const changes = { count: 0 };
  watch(`${cgroup.path}/cgroup.events`, { persistent: false }, () => {
    changes.count++;
  });
  running.set(name, { pid, clock, changes });
}

function subject(name: string): Running {
  const found = running.get(name);
  if (found === undefined) throw new Error(`${name} does not run`);
  return found;
}

const test = suite('verdicts: homeproxy check, and migrate which asks the same');

test.before(async () => {
  scenario = await Scenario.start('verdicts', { hosts: 1 });
  await installTicker(scenario.home, scenario.lab.node('host1'));
  for (const command of ['link add other0 type veth peer name other1', 'address add 10.99.0.1/24 dev other0']) {
    await scenario.home.run(['ip', ...command.split(' ')]);
  }
  asking = SocketAgent.start(scenario.client);
  await start('plain', [TICKER, '7199'], 7199);
  await Promise.all(
    STATES.map((state, index) => start(state.name, program(state, FIRST_PORT + index), FIRST_PORT + index)),
  );
  standing = await rested(scenario.lab, ['home', 'host1']);
});
test.after(downAll);

const refusedCodes = (verdicts: readonly Verdict[]): string[] => [
  ...new Set(verdicts.filter(({ outcome }) => outcome === 'refused').map(({ code }) => code)),
];

test('nothing against a plain program: what would move, the verdicts in groups, exit 0', async () => {
  const { pid } = subject('plain');
  const here = await scenario.homeproxy('home', ['check', String(pid)]);
  assert.is(here.status, 0, describe(here));
  assert.match(here.stdout, /Would move\n {2}processes +1\n {2}threads +2\n/);
  assert.match(here.stdout, /In order\n/);
  assert.match(here.stdout, /can be moved away from home; nothing was touched\n$/);
  const there = await scenario.homeproxy('home', ['check', String(pid), 'host1', '--json']);
  assert.is(there.status, 0, describe(there));
  const check = oneLine(there) as ProcessCheck;
  assert.equal([check.pid, check.from, check.to, check.outcome], [pid, 'home', 'host1', 'possible']);
  assert.is(check.moving.listeners, 1);
  assert.equal(refusedCodes(check.verdicts), []);
  assert.ok(check.verdicts.some(({ outcome, code }) => outcome === 'ok' && code === 'SAME_FILES'));
});

test('check names what is against it, and exits as migrate does: 3', async () => {
  const { pid } = subject('mptcp');
  const text = await scenario.homeproxy('home', ['check', String(pid), 'host1']);
  assert.is(text.status, 3, describe(text));
  assert.match(text.stdout, /Refused\n {2}fd \d+ of pid \d+: a Multipath TCP socket, .*\(MPTCP\)\n {4}try: .*GODEBUG/);
  assert.match(text.stdout, /cannot be moved from home to host1; nothing was touched\n$/);
  const json = await scenario.homeproxy('home', ['check', String(pid), '--json']);
  assert.is(json.status, 3, describe(json));
  assert.is((oneLine(json) as ProcessCheck).outcome, 'refused');
  assert.equal(refusedCodes((oneLine(json) as ProcessCheck).verdicts), ['MPTCP']);
  const nobody = await scenario.homeproxy('home', ['check', '32000', 'host1', '--json']);
  assert.equal([nobody.status, errorOf(nobody).code], [3, 'NO_SUCH_PROCESS']);
});

test('a library that has another content at the destination is refused, though its size is the same', async () => {
  const host = scenario.lab.node('host1');
  const { pid } = subject('plain');
  const path = host.path(TICKER);
  const saved = readFileSync(path);
  const other = Buffer.from(saved);
  other.writeUInt8(other.readUInt8(other.length - 1) ^ 1, other.length - 1);
  writeFileSync(path, other);
  const outcome = await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']);
  writeFileSync(path, saved);
  assert.is(outcome.status, 3, describe(outcome));
  assert.match(
    errorOf(outcome).message,
    new RegExp(`${TICKER}: it has the same size and another content: .*FILE_DIFFERS`),
  );
});

test('a file that it has open is compared by its content, and one that is being written by its size, which is said', async () => {
  const { home, lab } = scenario;
  const host = lab.node('host1');
  const old = new Date(Date.now() - 60_000);
  for (const [node, text] of [
    [home, 'one'],
    [host, 'two'],
  ] as const) {
    for (const name of ['read', 'written', 'busy']) writeFileSync(node.path(`/tmp/${name}`), text);
    for (const name of ['read', 'written']) utimesSync(node.path(`/tmp/${name}`), old, old);
  }
  const opens =
    'import time; held = [open("/tmp/" + name, mode) for name, mode in (("read", "r"), ("busy", "a"), ("written", "a"))]; time.sleep(3600)';
  const pid = await home.detach(['python3', '-I', '-S', '-c', opens]);
  const machinePid = home.machinePid(pid) ?? 0;
  const isOpen = (): boolean => readDescriptors(machinePid).some(({ target }) => target === '/tmp/written');
  for (const deadline = Date.now() + 10_000; !isOpen() && Date.now() < deadline; await sleep(5));
  const socket = home.path('/run/homeproxy/control.sock');
  const { verdicts } = await callControl(socket, assessMethod, { pid, to: 'host1' });
  process.kill(machinePid);
  const of = (wanted: string): string[] => verdicts.filter(({ code }) => code === wanted).map(({ subject }) => subject);
  assert.equal([of('FILE_DIFFERS').sort(), of('UNVERIFIED_FILES')], [['/tmp/read', '/tmp/written'], ['/tmp/busy']]);
});

for (const { name, code } of STATES) {
  test(`${name}: refused ${code} by migrate and check alike, and not frozen for a moment`, async () => {
    const { pid, clock, changes } = subject(name);
    const socket = scenario.home.path('/run/homeproxy/control.sock');
    await askTicker(clock);
    changes.count = 0;
    const { verdicts } = await callControl(socket, assessMethod, { pid, to: 'host1' });
    assert.equal(refusedCodes(verdicts as Verdict[]), [code], JSON.stringify(verdicts, undefined, 1));

    const refusal = await streamControl(socket, migrateMethod, { pid, to: 'host1' }, () => undefined).catch(
      asHomeproxyError,
    );

    const { stoodStillMs, awakenings, interruptions } = await askTicker(clock);
    assert.instance(refusal, HomeproxyError);
    const { code: word, message, exitStatus } = refusal as HomeproxyError;
    assert.equal([word, exitStatus], ['REFUSED', 3]);
    assert.match(message, new RegExp(`\\(${code}\\)`));
    assert.is(interruptions, 0, 'it was traced, frozen or signalled');
    assert.is(changes.count, 0, 'its cgroup was frozen, or it was moved to another');
    assert.ok(awakenings > 50 && stoodStillMs < FREEZE_MS, `${awakenings} awakenings, stood still ${stoodStillMs} ms`);
  });
}

test('no CRIU was started for any of them: the journals are empty, and nothing was made on any node', async () => {
  for (const node of ['home', 'host1']) {
    const report = oneLine(await scenario.homeproxy(node, ['journal', '--json'])) as { migrations: unknown[] };
    assert.equal(report.migrations, []);
  }
  const traces = await settledTraces(scenario.lab, standing);
  assert.equal(traces.home, standing.home);
  assert.equal(traces.host1, standing.host1);
});

test('and a freeze would have been seen: by the cgroup, by the clock and by an interruption, when the plain one moves', async () => {
  const { pid, clock, changes } = subject('plain');
  const frozen = new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      if (changes.count > 0) {
        clearInterval(timer);
        resolve();
      }
    }, 5);
  });
  await askTicker(clock);
  changes.count = 0;
  await scenario.migrate(pid, 'host1');
  await frozen;
  await scenario.recall(pid);
  const { stoodStillMs, interruptions } = await askTicker(clock);
  assert.ok(stoodStillMs > 0 && interruptions > 0);
});

test.run();
