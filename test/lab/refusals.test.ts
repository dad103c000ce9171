// limit: 180 s
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { parse, stringify } from 'yaml';
import { UserError } from '../../cli/errors.js';
import { createAuthority, issueCertificate } from '../../cli/identity/ca.js';
import { inspectProcess } from '../../cli/process/inspect.js';
import { listProcesses, readProcess } from '../../cli/system/procfs.js';
import { suite } from '../suite.js';
import { type Copy, copiesOf, processesOf } from './copies.js';
import { downAll } from './lab-fixture.js';
import { LineClient } from './line-client.js';
import { faultsOf, Load, NO_FAULTS } from './load.js';
import { type Redis, startRedis } from './redis.js';
import { errorOf, rested, Scenario } from './scenario.js';
import { askTicker, installTicker, TICKER } from './ticker.js';
import { settledTraces } from './traces.js';

const CONFIG = '/etc/homeproxy/homeproxy.yaml';
const CREDENTIALS = ['ca.pem', 'node.pem', 'node.key'].map((name) => `/etc/homeproxy/${name}`);
/** How long a process that nobody touches may stand still though it does not wait for a processor. */
const NOISE_MS = 20;

let scenario: Scenario;
let redis: Redis;
let load: Load;

/** What a case does to the destination before, and undoes after. */
interface Fault {
  readonly make: () => Promise<void>;
  readonly undo: () => Promise<void>;
}

interface Case {
  readonly what: string;
  readonly to?: string;
  /** Default: a ticker. */
  readonly pid?: () => Promise<number> | number;
  readonly fault?: Fault;
  readonly exit: number;
  readonly code: string;
  readonly message: RegExp;
}

/** Restarts host1's daemon with changed files, and with the old ones afterwards. */
function changedFiles(paths: readonly string[], change: () => Promise<void> | void): Fault {
  let saved: [string, Buffer][] = [];
  const host = () => scenario.lab.node('host1');
  return {
    make: async () => {
      saved = paths.map((path) => [path, readFileSync(host().path(path))]);
      await scenario.lab.stopDaemon('host1');
      await change();
      await scenario.lab.startDaemon('host1');
    },
    undo: async () => {
      await scenario.lab.stopDaemon('host1');
      for (const [path, content] of saved) writeFileSync(host().path(path), content);
      await scenario.lab.startDaemon('host1');
    },
  };
}

const destinationCases: Case[] = [
  {
    what: 'a destination whose daemon is down',
    fault: {
      make: () => scenario.lab.stopDaemon('host1'),
      undo: async () => void (await scenario.lab.startDaemon('host1')),
    },
    exit: 4,
    code: 'HOST_UNREACHABLE',
    message: /host1/,
  },
  {
    what: 'a destination that is cut off from the network',
    fault: {
      make: async () => void (await scenario.lab.node('host1').run(['ip', 'link', 'set', 'eth0', 'down'])),
      undo: async () => void (await scenario.lab.node('host1').run(['ip', 'link', 'set', 'eth0', 'up'])),
    },
    exit: 4,
    code: 'HOST_UNREACHABLE',
    message: /host1/,
  },
  {
    what: 'a destination whose certificate another authority signed',
    fault: changedFiles(CREDENTIALS, async () => {
      const host = scenario.lab.node('host1');
      const authority = await createAuthority({ name: 'a stranger' });
      const { certificate, key } = await issueCertificate(authority, { name: 'host1', addresses: [host.address] });
      for (const [path, content] of [
        ['/etc/homeproxy/ca.pem', authority.certificate],
        ['/etc/homeproxy/node.pem', certificate],
        ['/etc/homeproxy/node.key', key],
      ] as const) {
        writeFileSync(host.path(path), content);
      }
    }),
    exit: 4,
    code: 'HOST_NOT_TRUSTED',
    message: /host1/,
  },
  {
    what: 'a destination without CRIU',
    fault: changedFiles([CONFIG], () => {
      const path = scenario.lab.node('host1').path(CONFIG);
      const config = parse(readFileSync(path, 'utf8')) as object;
      writeFileSync(path, stringify({ ...config, criu: { path: '/nowhere/criu' } }));
    }),
    exit: 7,
    code: 'NO_CRIU',
    message: /host1.*\/nowhere\/criu|\/nowhere\/criu.*host1/,
  },
  {
    what: 'a destination whose disk is full',
    fault: {
      make: async () => {
        await rested(scenario.lab, ['host1']);
        const mount = 'mkdir -p /run/homeproxy/images && mount -t tmpfs -o size=8k full /run/homeproxy/images';
        await scenario.lab.node('host1').run(['sh', '-c', mount]);
      },
      undo: async () => void (await scenario.lab.node('host1').run(['umount', '/run/homeproxy/images'])),
    },
    exit: 3,
    code: 'REFUSED',
    message: /there is no room .*NO_ROOM/,
  },
  {
    what: 'a destination that is short of memory',
    fault: {
      make: async () => {
        const short = "sed 's/^MemAvailable:.*/MemAvailable: 8 kB/' /proc/meminfo >/run/meminfo";
        await scenario.lab.node('host1').run(['sh', '-c', `${short} && mount --bind /run/meminfo /proc/meminfo`]);
      },
      undo: async () => {
        await scenario.lab.node('host1').run(['sh', '-c', 'umount /proc/meminfo && rm /run/meminfo']);
      },
    },
    exit: 3,
    code: 'REFUSED',
    message: /needs .* while it arrives.*NO_MEMORY/,
  },
  {
    what: 'a destination that is in nobody’s configuration',
    to: 'host7',
    exit: 3,
    code: 'UNKNOWN_HOST',
    message: /host7/,
  },
];

const PORTS = { plain: 7001, pipe: 7002, terminal: 7003 };

function ticker(port: number): Copy {
  const copy = copiesOf(scenario.lab, TICKER).find(({ commandLine }) => commandLine.endsWith(` ${port}`));
  if (copy === undefined) throw new Error(`no ticker on ${port}`);
  return copy;
}

const processCases: Case[] = [
  { what: 'a pid that nobody has', pid: () => 32_000, exit: 3, code: 'NO_SUCH_PROCESS', message: /32000/ },
  { what: 'pid 1', pid: () => 1, exit: 3, code: 'INIT_PROCESS', message: /process 1 / },
  {
    what: "homeproxy's own daemon",
    pid: () =>
      copiesOf(scenario.lab, 'node').find(({ node, cgroup }) => node === 'home' && cgroup === '/daemon')?.pid ?? 0,
    exit: 3,
    code: 'OWN_PROCESS',
    message: /homeproxy itself/,
  },
  {
    what: 'a process that writes into somebody else’s pipe',
    pid: () => ticker(PORTS.pipe).pid,
    exit: 3,
    code: 'REFUSED',
    message: /FOREIGN_PIPE/,
  },
  {
    what: 'a process on somebody else’s terminal',
    pid: () => ticker(PORTS.terminal).pid,
    exit: 3,
    code: 'REFUSED',
    message: /FOREIGN_TERMINAL/,
  },
];

const test = suite('homeproxy migrate refuses');

test.before(async () => {
  scenario = await Scenario.start('refusals');
  const { home } = scenario;
  redis = await startRedis(home);
  await installTicker(home, scenario.lab.node('host1'));
  await home.detach([TICKER, String(PORTS.plain)]);
  await home.detach(['sh', '-c', `${TICKER} ${PORTS.pipe} | cat`]);
  await home.detach(['script', '-qec', `${TICKER} ${PORTS.terminal}`, '/dev/null']);
  const deadline = Date.now() + 5000;
  while (copiesOf(scenario.lab, TICKER).length < 3 && Date.now() < deadline) await sleep(10);
  load = await Load.start(scenario.client, home.address, { connections: 8, paceMs: 4 });
});
test.after(downAll);

/** What must be the same before and after: every process with that pid, on any node, its place and its state. */
function standing(pid: number): unknown {
  return processesOf(scenario.lab)
    .filter((process) => process.pid === pid)
    .map((process) => ({ ...process, startTime: readProcess(process.machinePid)?.startTime }));
}

for (const { what, to = 'host1', pid: pidOf, fault, exit, code, message } of [...destinationCases, ...processCases]) {
  test(`${what}: exit ${exit}, ${code}, and the process is untouched`, async () => {
    const { home, client } = scenario;
    await fault?.make();
    try {
      const pid = (await pidOf?.()) ?? ticker(PORTS.plain).pid;
      const before = standing(pid);
      const watched = ticker(Object.values(PORTS).find((port) => ticker(port).pid === pid) ?? PORTS.plain);
      const clock = await LineClient.connect(client, home.address, Number(watched.commandLine.split(' ')[1]));
      await askTicker(clock);

      const outcome = await scenario.homeproxy('home', ['migrate', String(pid), to, '--json']);

      const { stoodStillMs, awakenings } = await askTicker(clock);
      await clock.close();
      const error = errorOf(outcome);
      assert.is(error.code, code, JSON.stringify(error));
      assert.is(outcome.status, exit);
      assert.is(error.exitStatus, exit);
      assert.match(error.message, message, JSON.stringify(error));
      assert.ok((error.remedy ?? '').length > 5, `no remedy: ${JSON.stringify(error)}`);
      assert.equal(standing(pid), before);
      assert.ok(awakenings > 50, `${awakenings} awakenings`);
      assert.ok(stoodStillMs < NOISE_MS, `it stood still for ${stoodStillMs} ms`);
      assert.equal((await scenario.ask('home')).processes, []);
    } finally {
      await fault?.undo();
    }
    assert.equal(await settledTraces(scenario.lab, scenario.untouched), scenario.untouched);
  });
}

test('a kernel thread (no node of a lab sees one, so the inspection is asked directly)', () => {
  const thread = listProcesses().find((pid) => readProcess(pid)?.kernelThread === true);
  if (thread === undefined) throw new Error('this machine shows no kernel thread: run the tests outside a container');
  try {
    inspectProcess(thread, { homeAddresses: ['10.77.0.2'], ownPids: [process.pid] });
    assert.unreachable();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    assert.is(error.code, 'KERNEL_THREAD');
    assert.is(error.exitStatus, 3);
    assert.ok(error.remedy !== undefined);
  }
});

test('while a client of Redis, asking every 4 ms, misses no reply and is never cut off', async () => {
  const result = await load.stop();
  assert.equal(faultsOf(result), NO_FAULTS);
  assert.ok(result.replies > 1000, `${result.replies} replies`);
});

test('and moves those same processes when nothing is in the way', async () => {
  for (const pid of [redis.pid, ticker(PORTS.plain).pid]) {
    await scenario.migrate(pid, 'host1');
    await scenario.recall(pid);
  }
});

test.run();
