// limit: 180 s
import { readFileSync, watch, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { ProcessCheck } from '../../cli/check-report.js';
import { labCgroup } from '../../cli/lab/lab-cgroup.js';
import { assessMethod } from '../../cli/node/control-methods.js';
import { callControl } from '../../cli/node/control-transport.js';
import type { Verdict } from '../../cli/process/description.js';
import { Cgroup } from '../../cli/system/cgroup.js';
import { readProcess } from '../../cli/system/procfs.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { describe, errorOf, oneLine, rested, Scenario } from './scenario.js';
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

const STATES: readonly State[] = [
  { name: 'mptcp', code: 'MPTCP', enter: "held = socket.socket(2, 1, 262)\nheld.bind(('0.0.0.0', 0))\nheld.listen()" },
  { name: 'raw', code: 'RAW_SOCKET', enter: 'held = socket.socket(2, 3, 1)' },
  { name: 'corked', code: 'CORKED_UDP', enter: 'held = socket.socket(2, 2)\nheld.setsockopt(17, 1, 1)' },
  {
    name: 'unix',
    code: 'FOREIGN_UNIX_SOCKET',
    enter: `
held, other = socket.socketpair()
if os.fork() == 0:
  if os.fork() != 0: os._exit(0)
  held.close()
  os.setsid()
  time.sleep(3600)
other.close()
os.wait()`,
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
  readonly clock: LineClient;
  /** How often the kernel has said that its cgroup was frozen, let go, left or entered. */
  readonly changes: { count: number };
}

let scenario: Scenario;
/** The nodes with all those programs on them, before anybody asked anything. */
let standing: Record<string, string[]>;
const running = new Map<string, Running>();

async function start(name: string, command: readonly string[], port: number): Promise<void> {
  const { home, client, lab } = scenario;
  const cgroup = new Cgroup(`${labCgroup(lab.name)}/home/session/${name}`).create();
  const pid = await home.detach(command, { cgroup: `session/${name}` });
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(5)) {
    if (readProcess(home.machinePid(pid) ?? 0)?.comm === 'ticker') break;
  }
  let clock: LineClient | undefined;
  for (const deadline = Date.now() + 10_000; clock === undefined; await sleep(20)) {
    clock = await LineClient.connect(client, home.address, port).catch((error: unknown) => {
      if (Date.now() > deadline) throw error;
      return undefined;
    });
  }
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
  await start('plain', [TICKER, '7199'], 7199);
  await Promise.all(
    STATES.map((state, index) => start(state.name, program(state, FIRST_PORT + index), FIRST_PORT + index)),
  );
  standing = await rested(scenario.lab, ['home', 'host1']);
});
test.after(async () => {
  for (const { clock } of running.values()) await clock.close();
  await downAll();
});

const refusedCodes = (verdicts: readonly Verdict[]): string[] => [
  ...new Set(verdicts.filter(({ outcome }) => outcome === 'refused').map(({ code }) => code)),
];

test('nothing against a plain program: what would move, the verdicts in groups, exit 0', async () => {
  const { pid } = subject('plain');
  const here = await scenario.homeproxy('home', ['check', String(pid)]);
  assert.is(here.status, 0, describe(here));
  assert.match(here.stdout, /Would move\n {2}processes +1\n {2}threads +1\n/);
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

for (const { name, code } of STATES) {
  test(`${name}: refused ${code} by migrate and check alike, and not frozen for a moment`, async () => {
    const { pid, clock, changes } = subject(name);
    await askTicker(clock);
    changes.count = 0;
    const socket = scenario.home.path('/run/homeproxy/control.sock');
    const { verdicts } = await callControl(socket, assessMethod, { pid, to: 'host1' });
    assert.equal(refusedCodes(verdicts as Verdict[]), [code], JSON.stringify(verdicts, undefined, 1));

    const outcome = await scenario.homeproxy('home', ['migrate', String(pid), 'host1', '--json']);

    const { stoodStillMs, awakenings } = await askTicker(clock);
    assert.is(outcome.status, 3, describe(outcome));
    assert.is(errorOf(outcome).code, 'REFUSED');
    assert.match(errorOf(outcome).message, new RegExp(`\\(${code}\\)`));
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

test('and a freeze would have been seen: by the cgroup and by the clock, when the plain one moves', async () => {
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
  assert.ok((await askTicker(clock)).stoodStillMs > 0);
});

test.run();
